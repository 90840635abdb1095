"""What of the logs is shown while an agent is written: all that it says itself, and the trouble of others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from antiphon.log_view import LogView
from antiphon.rundir import RunDir

TIME = "2026-01-01 10:00:00,100"


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    made = RunDir(tmp_path)
    made.create()
    (made.logs / "stt-01.log").write_text(f"{TIME} ERROR   services: of an earlier start\n")
    return made


@pytest.fixture
def view(run_dir: RunDir) -> Iterator[LogView]:
    with closing(LogView(run_dir)) as made:
        yield made


def shown(view: LogView, path: Path, text: str) -> list[str]:
    """What is shown when a process writes this."""
    with open(path, "a") as log:
        log.write(text)
    return [line.removeprefix(f"{TIME} ") for entry in view.new_entries() for line in entry.lines]


def test_what_the_agent_logs_and_prints_is_shown_and_what_the_orchestrator_says_of_its_nodes_is_not(
    view: LogView, run_dir: RunDir
) -> None:
    text = (
        f"printed 1\n{TIME} INFO    orchestrator.nodes: stt-01 registered\nprinted 2\n{TIME} INFO    my_agent: hello\n"
    )
    log = run_dir.logs / "orchestrator-01.log"
    assert shown(view, log, text) == ["printed 1", "printed 2", "INFO    my_agent: hello"]
    assert shown(view, log, f"{TIME} WARNING orchestrator.nodes: lost\n") == ["WARNING orchestrator.nodes: lost"]
    assert shown(view, log, f"{TIME} INFO    orchestrator.hub: serves\n") == []
    assert shown(view, log, "printed 3\n") == ["printed 3"]


def test_of_a_node_trouble_is_shown_with_its_traceback_and_nothing_else(view: LogView, run_dir: RunDir) -> None:
    log = run_dir.logs / "stt-01.log"
    assert shown(view, log, f"{TIME} INFO    services: ready\n  and more\n") == []
    assert shown(view, log, "  and even more\n") == []
    assert shown(view, log, f"{TIME} ERROR   services: failed\nTraceback\n") == [
        "ERROR   services: failed",
        "Traceback",
    ]
    assert shown(view, log, "  later\n") == ["  later"]


def test_before_there_is_any_log_nothing_is_shown(tmp_path: Path) -> None:
    with closing(LogView(RunDir(tmp_path))) as view:
        assert view.new_entries() == []


def test_supervisord_is_shown_when_the_stack_has_settled(view: LogView, run_dir: RunDir) -> None:
    assert shown(view, run_dir.supervisord_log, f"{TIME} CRIT Supervisor is running as root.\n") == []
    view.settled = True
    died = "WARN exited: stt-01 (terminated by SIGKILL; not expected)"
    assert shown(view, run_dir.supervisord_log, f"{TIME} {died}\n{TIME} INFO spawned: 'stt-01'\n") == [died]
