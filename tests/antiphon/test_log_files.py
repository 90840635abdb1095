"""Log files: entries, their order, and what is appended while they are followed."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon.log_files import Followed, last_entries, select, split
from antiphon.rundir import RunDir
from protocol.errors import ConfigurationError


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path)
    made.create()
    (made.logs / "stt-01.log").write_text(
        "2026-01-01 10:00:00,100 INFO one\nTraceback\n  more\n2026-01-01 10:00:02,000 two\n"
    )
    (made.logs / "stt-02.log").write_text("2026-01-01 10:00:01,000 INFO between\n")
    (made.logs / "llm-01.log").write_text("")
    return made


def test_lines_without_a_time_belong_to_the_entry_before() -> None:
    first, second = split("stt-01", "2026-01-01 10:00:00,1 a\n  b\n2026-01-01 10:00:01.2 c\n")
    assert first.lines == ["2026-01-01 10:00:00,1 a", "  b"]
    assert second.time == "2026-01-01 10:00:01,2"


def test_entries_of_several_processes_are_sorted_by_time(run_dir: RunDir) -> None:
    found = last_entries(select(run_dir, []), 10)
    assert [(entry.name, entry.lines[0].split()[-1]) for entry in found] == [
        ("stt-01", "one"),
        ("stt-02", "between"),
        ("stt-01", "two"),
    ]
    assert [entry.name for entry in last_entries(select(run_dir, []), 1)] == ["stt-02", "stt-01"]
    assert last_entries(select(run_dir, []), 0) == []


def test_a_service_selects_its_processes_and_an_unknown_name_is_refused(run_dir: RunDir) -> None:
    assert list(select(run_dir, ["stt"])) == ["stt-01", "stt-02"]
    assert list(select(run_dir, ["llm-01"])) == ["llm-01"]
    with pytest.raises(ConfigurationError, match=r"no log of tts .*there are llm-01, stt-01, stt-02"):
        select(run_dir, ["tts"])


def test_without_logs_the_error_says_how_to_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="antiphon up"):
        select(RunDir(tmp_path), [])


def test_following_sees_what_is_appended_also_in_new_and_rotated_files(run_dir: RunDir) -> None:
    followed = Followed(run_dir, ["stt"], select(run_dir, ["stt"]))
    try:
        assert followed.new_entries() == []
        log = run_dir.logs / "stt-01.log"
        with open(log, "a") as file:
            file.write("2026-01-01 10:00:03,000 three\n2026-01-01 10:00:04,000 hal")
        assert [entry.lines for entry in followed.new_entries()] == [["2026-01-01 10:00:03,000 three"]]
        with open(log, "a") as file:
            file.write("f\n")
        log.rename(run_dir.logs / "stt-01.log.1")
        log.write_text("2026-01-01 10:00:05,000 rotated\n")
        (run_dir.logs / "stt-09.log").write_text("2026-01-01 10:00:06,000 new\n")
        texts = [entry.lines[0].split()[-1] for entry in followed.new_entries()]
        assert texts == ["half", "rotated", "new"]
    finally:
        followed.close()
