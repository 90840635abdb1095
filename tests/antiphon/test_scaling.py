"""Which processes are started and stopped to have a number of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from antiphon import scaling
from antiphon.rundir import RunDir
from antiphon.stack import Stack
from antiphon.supervisord import Process
from protocol.control import NodeStatus, Snapshot
from protocol.errors import ConfigurationError

CODES = {"STOPPED": 0, "STARTING": 10, "RUNNING": 20, "BACKOFF": 30, "STOPPING": 40, "EXITED": 100, "FATAL": 200}


def process(name: str, state: str = "RUNNING", exit_status: int = 0) -> Process:
    return Process(name, name.rpartition("-")[0], state, CODES[state], 1, exit_status, "", Path("/dev/null"))


def stack(*processes: Process, used: dict[str, int] | None = None) -> Stack:
    nodes = [
        NodeStatus(name, "stt", "pocketsphinx", "ready", "here", 1, 4, number, 0, 0)
        for name, number in (used or {}).items()
    ]
    snapshot = Snapshot("orchestrator-01", "e", 1, 1.0, False, "", "", "", nodes, [], {})
    return Stack(RunDir(Path("/tmp/x")), 1, list(processes), {"orchestrator-01": snapshot})


def test_nothing_is_done_when_the_number_is_right() -> None:
    plan = scaling.plan("stt", 2, stack(process("stt-01"), process("stt-02"), process("tts-01")))
    assert (plan.start, plan.add, plan.stop) == ([], [], [])


def test_ended_processes_are_started_before_new_ones_are_added() -> None:
    plan = scaling.plan("stt", 4, stack(process("stt-01"), process("stt-02", "STOPPED")))
    assert [one.name for one in plan.start] == ["stt-02"]
    assert plan.add == [3, 4]
    assert plan.new_names == ["stt-02", "stt-03", "stt-04"]


def test_numbers_that_are_free_again_are_used_again() -> None:
    assert scaling.plan("stt", 3, stack(process("stt-01"), process("stt-03"))).add == [2]


def test_the_least_used_are_stopped_and_of_equals_the_last() -> None:
    processes = [process(f"stt-0{number}") for number in (1, 2, 3)]
    busy = {"stt-01": 0, "stt-02": 3, "stt-03": 0}
    assert [one.name for one in scaling.plan("stt", 2, stack(*processes, used=busy)).stop] == ["stt-03"]
    assert [one.name for one in scaling.plan("stt", 1, stack(*processes, used=busy)).stop] == ["stt-03", "stt-01"]


def test_one_that_serves_nobody_is_stopped_first() -> None:
    processes = [process("stt-01", "BACKOFF"), process("stt-02")]
    assert [one.name for one in scaling.plan("stt", 1, stack(*processes, used={"stt-02": 0})).stop] == ["stt-01"]


def test_a_process_that_supervisord_is_about_to_restart_counts() -> None:
    plan = scaling.plan("stt", 1, stack(process("stt-01", "EXITED", 75)))
    assert (plan.start, plan.add, plan.stop) == ([], [], [])


def test_one_that_left_for_its_configuration_is_started_again() -> None:
    plan = scaling.plan("stt", 1, stack(process("stt-01", "EXITED", 78)))
    assert [one.name for one in plan.start] == ["stt-01"]


@pytest.mark.parametrize(("service", "number"), [("radio", 1), ("stt", -1), ("stt", 100), ("orchestrator", 0)])
def test_what_cannot_be_is_refused(service: str, number: int) -> None:
    with pytest.raises(ConfigurationError):
        scaling.check(service, number)
