"""Which files are watched, when a change is told, and what is said of a file that does not compile."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from antiphon.watching import Sources, compile_problem
from tests.support import wait_until


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (
        "my_agent.py",
        "tools/prices.py",
        "notes.txt",
        ".hidden/a.py",
        "node_modules/a.py",
        "__pycache__/a.py",
        "venv/pyvenv.cfg",
        "venv/lib/a.py",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    (tmp_path / "tools" / "loop").symlink_to(tmp_path)
    (tmp_path / "nowhere.py").symlink_to(tmp_path / "gone.py")
    return tmp_path


def changes(sources: Sources) -> set[Path]:
    found: set[Path] = set()
    wait_until(lambda: found.update(sources.changed()) or found, 5.0, "a change")
    return found


def test_python_files_below_are_watched_and_those_of_tools_are_not(folder: Path) -> None:
    assert len(Sources(folder)) == 2


def test_files_that_are_written_are_told_once(folder: Path) -> None:
    sources = Sources(folder)
    written = {folder / "my_agent.py", folder / "tools" / "prices.py", folder / "new.py"}
    for path in written:
        path.write_text("x = 22\n")
    assert changes(sources) == written
    (folder / "my_agent.py").unlink()
    assert changes(sources) == {folder / "my_agent.py"}


def test_a_file_that_is_replaced_by_one_that_looks_alike_is_told(folder: Path) -> None:
    agent, new = folder / "my_agent.py", folder / "new"
    sources = Sources(folder)
    new.write_text("x = 2\n")
    os.utime(new, ns=(agent.stat().st_atime_ns, agent.stat().st_mtime_ns))
    new.rename(agent)
    assert changes(sources) == {agent}


def test_a_single_file_can_be_watched(folder: Path) -> None:
    sources = Sources(folder / "my_agent.py")
    (folder / "tools" / "prices.py").unlink()
    (folder / "my_agent.py").write_text("x = 22\n")
    assert changes(sources) == {folder / "my_agent.py"}


def test_a_file_stays_a_problem_until_it_is_mended_or_gone(folder: Path) -> None:
    agent, prices = folder / "my_agent.py", folder / "tools" / "prices.py"
    sources = Sources(folder)
    prices.write_text("x = (\n")
    assert sources.problems({prices}) == [f"{prices}:1: SyntaxError: '(' was never closed\n    x = (\n        ^"]
    assert len(sources.problems({agent})) == 1
    prices.write_text("x = 1\n")
    assert sources.problems({agent}) == []
    prices.write_text("x = (\n")
    assert sources.problems({prices})
    prices.unlink()
    assert sources.problems({agent}) == []


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        (b"if x:\n    y = 1\n  z = 2\n", 3, "IndentationError: unindent does not match any outer indentation level"),
        (b"x = '\xff'\n", 1, "SyntaxError: "),
        (b"x = 1\0\n", 1, "null bytes"),
    ],
)
def test_what_does_not_compile_is_said_with_its_line(tmp_path: Path, source: bytes, line: int, reason: str) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(source)
    problem = compile_problem(path) or ""
    assert problem.startswith(f"{path}:{line}: ")
    assert reason in problem


def test_what_python_only_warns_of_is_no_problem(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = '\\d' is 1\n")
    assert compile_problem(tmp_path / "a.py") is None
