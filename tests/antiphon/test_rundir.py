"""The run directory: where it is, which paths it refuses, and that one command at a time may change a stack."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon import rundir
from antiphon.rundir import RunDir
from protocol.errors import ConfigurationError, Unavailable


def test_the_default_is_under_the_users_state_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert rundir.resolve(None).path == tmp_path / "antiphon"
    monkeypatch.setenv("XDG_STATE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert rundir.resolve(None).path == tmp_path / ".local" / "state" / "antiphon"


def test_a_relative_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert rundir.resolve("run").path == tmp_path / "run"


def test_a_path_too_long_for_a_socket_is_refused_with_both_numbers() -> None:
    spare = 107 - len(rundir.LONGEST_SOCKET) - 1
    RunDir(Path("/" + "a" * (spare - 1))).check()
    with pytest.raises(ConfigurationError, match=f"has {spare + 1} bytes; at most {spare} are possible"):
        RunDir(Path("/" + "a" * spare)).check()
    with pytest.raises(ConfigurationError):
        RunDir(Path("/" + "ä" * (spare // 2 + 1))).check()


@pytest.mark.parametrize("character", ["%", "*", ";", '"', "#"])
def test_characters_that_supervisord_reads_as_something_else_are_refused(character: str) -> None:
    with pytest.raises(ConfigurationError, match="supervisord reads"):
        RunDir(Path(f"/tmp/a{character}b")).check()


def test_blanks_in_the_path_are_allowed(short_path: Path) -> None:
    RunDir(Path("/tmp/my stack")).check()


def test_the_folders_are_for_this_user_alone(short_path: Path) -> None:
    run_dir = RunDir(short_path / "run")
    run_dir.create()
    for folder in (run_dir.path, run_dir.sockets, run_dir.logs, run_dir.programs):
        assert folder.stat().st_mode & 0o077 == 0


def test_a_directory_that_cannot_be_made_is_told_in_one_sentence(short_path: Path) -> None:
    (short_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be made"):
        RunDir(short_path / "file" / "run").create()


def test_the_lock_is_held_by_one_command_at_a_time(short_path: Path) -> None:
    run_dir = RunDir(short_path)
    with run_dir.lock(), pytest.raises(Unavailable, match="another antiphon command"), run_dir.lock():
        raise AssertionError("the lock was given twice")
    with run_dir.lock():
        assert (short_path / "antiphon.lock").exists()
