# Sourced by scripts/demo and scripts/test: a virtual environment in .venv with this checkout installed in it.
# Needs nothing but Python 3.11 or newer; a second run installs nothing unless pyproject.toml has changed.

find_python() {
    for candidate in python3.11 python3.12 python3.13 python3.14 python3; do
        if command -v "$candidate" >/dev/null 2>&1 &&
            "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "Antiphon needs Python 3.11 or newer, and there is none here. On Debian 12: sudo apt install python3 python3-venv" >&2
    return 1
}

# make_venv EXTRAS: installs `.EXTRAS` (such as "" or "[dev]") into .venv
make_venv() {
    wanted="$1 $(cksum <pyproject.toml) $(pwd)"
    installed=$(cat .venv/antiphon-installed 2>/dev/null) || installed=""
    # What has the tools for development as well has all that is wanted.
    if [ -x .venv/bin/python ] && { [ "$installed" = "$wanted" ] || [ "$installed" = "[dev]$wanted" ]; }; then
        return
    fi
    if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then # there is none, or one that was made by half
        python=$(find_python) || return 1
        if ! "$python" -c 'import ensurepip' 2>/dev/null; then
            echo "$python cannot make a virtual environment. On Debian: sudo apt install python3-venv" >&2
            return 1
        fi
        "$python" -m venv --clear .venv || return 1
    fi
    echo "Installing Antiphon into .venv (once; about a minute) ..." >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable ".$1" || {
        echo "The installation failed; pip says why above. It needs a package index (PyPI or a mirror)." >&2
        return 1
    }
    echo "$wanted" >.venv/antiphon-installed
}
