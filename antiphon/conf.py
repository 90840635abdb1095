"""supervisord's configuration: the shipped file, as it is rendered for a run directory and for added processes.

Pure text in, text out, but for finding the shipped file. Knows nothing of a supervisord that runs.
"""

from __future__ import annotations

import configparser
import re
import resource
import sys
from pathlib import Path

import antiphon
from antiphon.rundir import RunDir
from protocol.errors import ConfigurationError

WRAPPER = '"%(here)s/scripts/antiphon"'
HERE_RUN = "%(here)s/run"
NUMBER = "%(process_num)02d"
SCALE_MARK = "; Written by `antiphon scale`; removed by `antiphon down`."
# What a program that is one process must not take over from its group.
GROUP_SETTINGS = ("numprocs", "numprocs_start", "process_name")


def shipped() -> str:
    """The supervisord.conf of this installation: at the root of a checkout, or inside the installed package."""
    package = Path(antiphon.__file__).parent
    for candidate in (package / "supervisord.conf", package.parent / "supervisord.conf"):
        if candidate.is_file():
            return candidate.read_text(encoding="utf-8")
    raise ConfigurationError(f"supervisord.conf is missing beside {package}; install antiphon again")


def command() -> str:
    """How this interpreter runs `antiphon`, for a `command=` line.

    `-P`: the working directory stays off the import path, where somebody's own `services/` would shadow ours.
    """
    return f'"{_literal(sys.executable)}" -P -m antiphon'


def render(template: str) -> str:
    """The configuration of a stack whose run directory is the folder that the file will be in."""
    text = template.replace(WRAPPER, command()).replace(HERE_RUN, "%(here)s")
    text = re.sub(r"^(files\s*=\s*)run/", r"\1", text, flags=re.MULTILINE)
    return re.sub(r"^(minfds\s*=\s*)(\d+)", _affordable, text, flags=re.MULTILINE)


def program(template: str, run_dir: RunDir, service: str, number: int) -> str:
    """A program file for one more process of a service, with the settings that the shipped program has.

    Raises `ConfigurationError` when the template has no program of that service.
    """
    parser = configparser.RawConfigParser(strict=False, inline_comment_prefixes=(";", "#"))
    parser.read_string(template)
    section = f"program:{service}"
    if not parser.has_section(section):
        raise ConfigurationError(f"supervisord.conf has no [{section}], so a process like it cannot be added")
    lines = [SCALE_MARK, f"[program:{service}-{number:02d}]"]
    for key, value in parser.items(section):
        if key not in GROUP_SETTINGS:
            # %(here)s would be the folder of this file here, and not that of the main file.
            own = value.replace(WRAPPER, command()).replace(HERE_RUN, str(run_dir.path))
            lines.append(f"{key}={own.replace(NUMBER, f'{number:02d}')}")
    return "\n".join(lines) + "\n"


def program_file(run_dir: RunDir, name: str) -> Path:
    """Where the program file of an added process is."""
    return run_dir.programs / f"{name}.conf"


def added_files(run_dir: RunDir) -> list[Path]:
    """The program files that `antiphon scale` wrote; what a person put there is not among them."""
    return [path for path in sorted(run_dir.programs.glob("*.conf")) if path.read_text().startswith(SCALE_MARK)]


def _affordable(match: re.Match[str]) -> str:
    """supervisord refuses to start when it cannot have as many descriptors as asked; then fewer must do."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    wanted = int(match[2])
    return match[1] + str(wanted if hard == resource.RLIM_INFINITY else min(wanted, hard))


def _literal(text: str) -> str:
    return text.replace("%", "%%")
