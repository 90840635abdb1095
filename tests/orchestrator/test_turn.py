"""The turn machine: each transition, each deadline, and the page that draws them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from orchestrator import turn as turns
from orchestrator.turn import (
    CancelReply,
    ChangeState,
    EndSegment,
    EndTurn,
    Heard,
    Instruction,
    StartReply,
    StartSegment,
    TurnMachine,
    TurnOptions,
)

PAGE = Path(__file__).parent.parent.parent / "docs" / "turns.md"


def of(kind: type[Any], instructions: list[Instruction]) -> list[Any]:
    return [one for one in instructions if isinstance(one, kind)]


def heard_turn(machine: TurnMachine, now: float = 0.0, text: str = "hello") -> list[Instruction]:
    """A whole turn of speech of one second, its end found, its final there."""
    out = machine.speech_started(now, now * 1000)
    segment = of(StartSegment, out)[0].segment
    out += machine.speech_ended(now + 1.25, now * 1000 + 1_000, 250)
    out += machine.final(now + 1.3, segment, text)
    return out + machine.silence(now + 1.5, 500)


def heard_turn_of(machine: TurnMachine, segment: int, text: str, now: float) -> list[Instruction]:
    """As `heard_turn`, of a segment that may be a further one of its turn."""
    out = heard_turn(machine, now, text)
    assert [one.segment for one in of(StartSegment, out)] == [segment]
    return out


def test_a_turn_is_committed_when_it_has_been_silent_long_enough_and_the_final_is_there() -> None:
    machine = TurnMachine(TurnOptions())
    out = heard_turn(machine)
    assert [type(one) for one in out] == [
        StartSegment, ChangeState, EndSegment, ChangeState, Heard, Heard, StartReply, ChangeState,
    ]  # fmt: skip
    start = of(StartReply, out)[0]
    assert (start.turn, start.generation, start.text, start.speech_end_ms) == (1, 1, "hello", 1_000.0)
    assert (machine.user, machine.agent, machine.deadline) == ("silent", "thinking", None)


def test_a_final_that_comes_after_the_end_of_the_turn_commits_it() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(0, 0)
    machine.speech_ended(1.25, 1_000, 250)
    assert not of(StartReply, machine.silence(1.5, 500))
    assert machine.deadline == 1.5 + TurnOptions().final_timeout
    assert of(StartReply, machine.final(1.7, 1, "late"))[0].endpoint_at == 1.5


def test_speech_that_goes_on_before_the_end_of_the_turn_is_a_further_segment_of_it() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(0, 0)
    machine.speech_ended(1.25, 1_000, 250)
    machine.final(1.3, 1, "one")
    machine.speech_started(1.4, 1_400)
    machine.partial(2, "two")
    machine.speech_ended(2.25, 2_000, 250)
    machine.silence(2.5, 500)
    start = of(StartReply, machine.final(2.6, 2, "two three"))
    assert [one.text for one in start] == ["one two three"]
    assert machine.turns == 1


def test_a_turn_of_which_nothing_was_recognised_ends_without_a_reply() -> None:
    machine = TurnMachine(TurnOptions())
    ends = of(EndTurn, heard_turn(machine, text=""))
    assert [(one.turn, one.outcome) for one in ends] == [(1, "nothing_heard")]
    assert machine.agent == "listening"


def test_a_final_that_never_comes_is_replaced_by_the_partial_or_fails_the_turn() -> None:
    for partial, kind in (("hel", StartReply), ("", EndTurn)):
        machine = TurnMachine(TurnOptions())
        machine.speech_started(0, 0)
        machine.partial(1, partial)
        machine.speech_ended(1.25, 1_000, 250)
        machine.silence(1.5, 500)
        deadline = machine.deadline
        assert deadline is not None
        assert not machine.tick(deadline - 0.01)
        out = machine.tick(deadline)
        assert len(of(kind, out)) == 1
        assert not machine.final(deadline + 1, 1, "too late")


def test_a_vad_that_is_gone_does_not_hold_the_turn() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(0, 0)
    machine.speech_ended(1.25, 1_000, 250)
    machine.final(1.3, 1, "hello")
    deadline = machine.deadline
    assert deadline == 1.25 + 0.25 + TurnOptions().silence_timeout
    assert of(StartReply, machine.tick(deadline))


def test_speech_interrupts_only_when_it_lasts() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    machine.reply_speaking(1)
    machine.speech_started(3.0, 3_000)
    assert machine.deadline == 3.5
    assert not machine.tick(3.4)
    out = machine.tick(3.5)
    assert of(CancelReply, out) == [CancelReply(1, 2)]
    assert (machine.agent, machine.generation) == ("listening", 2)


def test_a_cough_does_not_interrupt() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    machine.reply_speaking(1)
    machine.speech_started(3.0, 3_000)
    machine.speech_ended(3.35, 3_100, 250)
    assert not of(CancelReply, machine.tick(3.6))
    assert machine.agent == "speaking"


def test_nobody_interrupts_where_interruptions_are_not_allowed() -> None:
    machine = TurnMachine(TurnOptions(allow_interruptions=False))
    heard_turn(machine)
    machine.reply_speaking(1)
    machine.speech_started(3.0, 3_000)
    assert machine.deadline is None
    assert not machine.tick(10.0)


def uninterruptible() -> TurnMachine:
    """The agent is speaking and must not be interrupted; meanwhile the user has said "no"."""
    machine = TurnMachine(TurnOptions(allow_interruptions=False))
    heard_turn(machine)
    machine.reply_speaking(1)
    assert not of(CancelReply, heard_turn_of(machine, 2, "no", 3.0))
    assert (machine.user, machine.agent, machine.deadline) == ("ended", "speaking", None)
    return machine


def test_what_is_said_during_a_reply_that_cannot_be_interrupted_is_answered_after_it() -> None:
    machine = uninterruptible()
    out = machine.reply_ended(1)
    assert not of(CancelReply, out)
    assert [(one.turn, one.text, one.endpoint_at) for one in of(StartReply, out)] == [(2, "no", 0.0)]
    assert (machine.user, machine.agent) == ("silent", "thinking")


def test_who_speaks_on_during_such_a_reply_adds_to_the_turn_that_waits() -> None:
    machine = uninterruptible()
    heard_turn_of(machine, 3, "not at all", 5.0)
    assert [one.text for one in of(StartReply, machine.reply_ended(1))] == ["no not at all"]
    assert machine.turns == 2


def test_such_a_reply_that_ends_while_the_user_speaks_leaves_the_turn_to_its_own_end() -> None:
    machine = uninterruptible()
    machine.speech_started(5.0, 5_000)
    assert not of(StartReply, machine.reply_ended(1))
    machine.speech_ended(6.25, 6_000, 250)
    machine.final(6.3, 3, "please")
    assert [one.text for one in of(StartReply, machine.silence(6.5, 500))] == ["no please"]


def test_a_final_that_never_comes_during_such_a_reply_is_not_waited_for_twice() -> None:
    machine = TurnMachine(TurnOptions(allow_interruptions=False))
    heard_turn(machine)
    machine.speech_started(3.0, 3_000)
    machine.partial(2, "n")
    machine.speech_ended(4.25, 4_000, 250)
    machine.silence(4.5, 500)
    assert machine.tick(7.5) == []
    assert machine.deadline is None
    assert [one.text for one in of(StartReply, machine.reply_ended(1))] == ["n"]


def test_silence_that_the_client_asks_for_ends_even_such_a_reply_and_lets_the_waiting_turn_be_answered() -> None:
    machine = uninterruptible()
    out = machine.interrupt(6.0)
    assert [type(one) for one in out] == [CancelReply, Heard, StartReply, ChangeState]
    assert [one.generation for one in of(StartReply, out)] == [3]


def test_a_written_turn_goes_before_the_one_that_waits() -> None:
    machine = uninterruptible()
    assert [one.text for one in of(StartReply, machine.text(6.0, "stop"))] == ["stop"]
    assert machine.user == "ended"
    assert [(one.turn, one.text) for one in of(StartReply, machine.reply_ended(3))] == [(2, "no")]


def test_nothing_recognised_during_such_a_reply_ends_the_turn_at_once() -> None:
    machine = TurnMachine(TurnOptions(allow_interruptions=False))
    heard_turn(machine)
    assert [one.turn for one in of(EndTurn, heard_turn_of(machine, 2, "", 3.0))] == [2]
    assert machine.agent == "thinking"


def test_speech_that_lasted_interrupts_even_when_the_news_of_its_end_overtakes_the_timer() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    machine.reply_speaking(1)
    machine.speech_started(3.0, 3_000)
    out = machine.speech_ended(3.5, 3_250, 250)
    assert [type(one) for one in out] == [CancelReply, ChangeState, EndSegment, ChangeState]


def test_speech_and_the_end_of_the_reply_at_once_interrupt_nothing() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    machine.reply_speaking(1)
    machine.speech_started(3.0, 3_000)
    machine.reply_ended(1)
    assert machine.deadline is None
    assert machine.tick(4.0) == []


def test_speech_resumes_while_the_agent_still_thinks_and_interrupts_it() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    machine.speech_started(1.6, 1_600)
    assert of(CancelReply, machine.tick(2.1)) == [CancelReply(1, 2)]


def test_a_reply_that_fails_leaves_everybody_listening() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    assert machine.reply_ended(1) == [ChangeState("listening", False)]
    assert machine.reply_ended(1) == []


def test_a_written_turn_stops_the_clock_of_an_interruption_that_is_no_longer_one() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    machine.reply_speaking(1)
    machine.speech_started(3.0, 3_000)
    assert of(CancelReply, machine.text(3.2, "wait")) == [CancelReply(1, 2)]
    assert machine.deadline is None
    assert machine.agent == "thinking"


def test_a_segment_without_a_final_keeps_its_partial_in_its_place() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(0, 0)
    machine.partial(1, "one tw")
    machine.speech_ended(1.25, 1_000, 250)
    machine.speech_started(1.4, 1_400)
    assert [one.text for one in machine.partial(2, "three") if isinstance(one, Heard)] == ["one tw three"]
    assert [one.text for one in machine.partial(1, "one two") if isinstance(one, Heard)] == ["one two three"]
    assert [one.text for one in machine.final(1.6, 1, "one two") if isinstance(one, Heard)] == []
    assert machine.partial(1, "one too") == []
    machine.speech_ended(2.25, 2_000, 250)
    machine.silence(2.5, 500)
    assert [one.text for one in of(StartReply, machine.segment_failed(2.6, 2))] == ["one two three"]


def test_a_final_does_not_repeat_the_partial_that_it_replaces() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(0, 0)
    machine.partial(1, "one two")
    machine.speech_ended(1.25, 1_000, 250)
    machine.speech_started(1.4, 1_400)
    machine.final(1.5, 1, "one two")
    machine.speech_ended(2.25, 2_000, 250)
    machine.final(2.3, 2, "")
    assert [one.text for one in of(StartReply, machine.silence(2.5, 500))] == ["one two"]


def test_a_final_that_recognises_less_than_its_partial_takes_it_back() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(0, 0)
    machine.partial(1, "uh")
    machine.speech_ended(1.25, 1_000, 250)
    assert machine.final(1.3, 1, "") == [Heard(1, "", False)]
    assert of(EndTurn, machine.silence(1.5, 500))[0].outcome == "nothing_heard"


def test_a_segment_that_failed_without_a_word_fails_the_turn() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(0, 0)
    machine.speech_ended(1.25, 1_000, 250)
    machine.silence(1.5, 500)
    assert of(EndTurn, machine.segment_failed(1.6, 1)) == [EndTurn(1, "failed", 1_000)]


def test_a_second_final_and_one_of_an_earlier_turn_are_ignored() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    machine.speech_started(3.0, 3_000)
    assert machine.final(3.1, 1, "again") == []
    machine.speech_ended(4.25, 4_000, 250)
    assert machine.final(4.3, 2, "yes")
    assert machine.final(4.4, 2, "no") == []
    assert machine.segment_failed(4.4, 2) == []


def test_an_endpointing_delay_shorter_than_vads_own_ends_the_turn_with_the_speech() -> None:
    machine = TurnMachine(TurnOptions(min_endpointing_delay=0.0))
    machine.speech_started(0, 0)
    machine.partial(1, "hi")
    machine.speech_ended(1.25, 1_000, 250)
    assert machine.deadline == 1.25 + TurnOptions().final_timeout
    assert of(StartReply, machine.final(1.3, 1, "hi"))


def test_the_clients_interruption_is_obeyed_at_once_and_once() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    assert of(CancelReply, machine.interrupt(2.0)) == [CancelReply(1, 2)]
    assert machine.interrupt(2.1) == []


def test_a_written_turn_replaces_the_reply_and_leaves_the_spoken_turn_alone() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    machine.speech_started(3.0, 3_000)
    out = machine.text(3.1, "and this")
    assert [type(one) for one in out if isinstance(one, CancelReply | StartReply)] == [CancelReply, StartReply]
    machine.speech_ended(4.25, 4_000, 250)
    machine.final(4.3, 2, "spoken")
    assert of(StartReply, machine.silence(4.5, 500))[0].text == "spoken"


def test_news_of_an_old_reply_is_ignored() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    machine.interrupt(2.0)
    assert machine.reply_speaking(1) == []
    assert machine.reply_ended(1) == []
    assert machine.agent == "listening"


def test_the_page_names_every_event_instruction_and_option() -> None:
    page = PAGE.read_text()
    events = [name for name, value in vars(TurnMachine).items() if callable(value) and not name.startswith("_")]
    instructions = [
        kind.__name__ for kind in (StartSegment, EndSegment, Heard, StartReply, EndTurn, CancelReply, ChangeState)
    ]
    assert {kind.__name__ for kind in turns.Instruction.__args__} == set(instructions)
    for name in [*events, *instructions]:
        assert f"| `{name}` |" in page, name
    for field in dataclasses.fields(TurnOptions):
        default = "yes" if field.default is True else f"{field.default} s"
        assert f"| `{field.name}` | {default}" in page, field.name
