"""What a type checker says of a user's file."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def check(file: str, cache: Path) -> tuple[int, set[tuple[int, str]], str]:
    """mypy --strict: its exit code, (line, error code) of each error in this file, and all that it printed."""
    result = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(cache), f"tests/typing/{file}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    found = re.findall(rf"^tests/typing/{file}:(\d+): error: .*\[([a-z-]+)\]$", result.stdout, re.MULTILINE)
    return result.returncode, {(int(line), code) for line, code in found}, result.stdout + result.stderr


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One mypy cache for both files."""
    return tmp_path_factory.mktemp("mypy")


@pytest.mark.timeout(120)
def test_a_well_typed_file_has_no_errors_and_an_awaited_inline_task_is_its_result(cache: Path) -> None:
    code, errors, output = check("good.py", cache)
    assert (code, errors) == (0, set()), output


@pytest.mark.timeout(120)
def test_a_wrongly_typed_hook_node_result_or_listener_is_an_error_at_its_line(cache: Path) -> None:
    marked = {
        (number, match.group(1))
        for number, line in enumerate((HERE / "bad.py").read_text().splitlines(), start=1)
        if (match := re.search(r"# error: ([a-z-]+)$", line))
    }
    _, errors, output = check("bad.py", cache)
    assert errors == marked, output
