"""Imports point one way: `services → protocol ← orchestrator`; `antiphon` knows all three, none knows `antiphon`."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "protocol": {"protocol"},
    "services": {"protocol", "services"},
    "orchestrator": {"protocol", "orchestrator"},
    "antiphon": {"protocol", "services", "orchestrator", "antiphon"},
}
FILES = sorted(path for package in MAY_IMPORT for path in (ROOT / package).rglob("*.py"))


def packages_imported_by(path: Path) -> set[str]:
    """First names of all modules that a file imports, also inside functions and for type checking only."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports are absolute here, so that this test can read them"
            found.add((node.module or "").split(".")[0])
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_packages_that_its_own_may_know(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0]
    assert packages_imported_by(path) & MAY_IMPORT.keys() <= MAY_IMPORT[own]


def test_every_package_was_looked_at() -> None:
    assert {path.relative_to(ROOT).parts[0] for path in FILES} == MAY_IMPORT.keys()


@pytest.mark.parametrize("heavy", ["numpy", "zmq", "rich", "uvloop", "supervisor", "soundfile"])
def test_the_command_line_starts_without(heavy: str) -> None:
    code = f"import sys, antiphon.main; sys.exit({heavy!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr or f"importing antiphon.main loads {heavy}"
