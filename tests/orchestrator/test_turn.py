"""The turn machine: each transition, each deadline, and the page that draws them."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from orchestrator import turn as turns
from orchestrator.turn import (
    BeginTurn,
    ChangeState,
    CommitTurn,
    EndSegment,
    EndTurn,
    Heard,
    Instruction,
    InterruptAgent,
    JudgeTurn,
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


def talking(*, interruptible: bool = True) -> TurnMachine:
    """The agent answers the user's first turn, aloud, since 2.0."""
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    machine.agent_is(2.0, "speaking", interruptible=interruptible)
    return machine


def test_a_turn_is_committed_when_it_has_been_silent_long_enough_and_the_final_is_there() -> None:
    machine = TurnMachine(TurnOptions())
    out = heard_turn(machine)
    assert [type(one) for one in out] == [
        BeginTurn, StartSegment, ChangeState, EndSegment, ChangeState, Heard, Heard, CommitTurn, ChangeState,
    ]  # fmt: skip
    assert of(BeginTurn, out) == [BeginTurn(1)]
    assert of(CommitTurn, out) == [CommitTurn(1, "hello", 1_000.0, 1.5)]
    assert (machine.user, machine.agent, machine.deadline) == ("silent", "thinking", None)


def test_a_final_that_comes_after_the_end_of_the_turn_commits_it() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(0, 0)
    machine.speech_ended(1.25, 1_000, 250)
    assert not of(CommitTurn, machine.silence(1.5, 500))
    assert machine.deadline == 1.5 + TurnOptions().final_timeout
    assert of(CommitTurn, machine.final(1.7, 1, "late"))[0].endpoint_at == 1.5


def test_speech_that_goes_on_before_the_end_of_the_turn_is_a_further_segment_of_it() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(0, 0)
    machine.speech_ended(1.25, 1_000, 250)
    machine.final(1.3, 1, "one")
    assert not of(BeginTurn, machine.speech_started(1.4, 1_400))
    machine.partial(2, "two")
    machine.speech_ended(2.25, 2_000, 250)
    machine.silence(2.5, 500)
    commits = of(CommitTurn, machine.final(2.6, 2, "two three"))
    assert [one.text for one in commits] == ["one two three"]
    assert machine.turns == 1


def test_a_turn_of_which_nothing_was_recognised_ends_without_a_reply() -> None:
    machine = TurnMachine(TurnOptions())
    ends = of(EndTurn, heard_turn(machine, text=""))
    assert [(one.turn, one.outcome) for one in ends] == [(1, "nothing_heard")]
    assert machine.agent == "listening"


def test_a_final_that_never_comes_is_replaced_by_the_partial_or_fails_the_turn() -> None:
    for partial, kind in (("hel", CommitTurn), ("", EndTurn)):
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
    assert of(CommitTurn, machine.tick(deadline))


def test_speech_interrupts_only_when_it_lasts() -> None:
    machine = talking()
    machine.speech_started(3.0, 3_000)
    assert machine.deadline == 3.5
    assert not machine.tick(3.4)
    assert machine.tick(3.5) == [InterruptAgent("speech")]
    assert machine.deadline is None


def test_what_the_agent_does_after_an_interruption_the_conversation_says() -> None:
    machine = talking()
    machine.speech_started(3.0, 3_000)
    machine.tick(3.5)
    assert machine.agent == "speaking"
    assert machine.agent_is(3.51, "listening", interruptible=True) == [ChangeState("listening", True)]


def test_a_cough_does_not_interrupt() -> None:
    machine = talking()
    machine.speech_started(3.0, 3_000)
    machine.speech_ended(3.35, 3_100, 250)
    assert not of(InterruptAgent, machine.tick(3.6))
    assert machine.agent == "speaking"


def test_speech_that_lasted_interrupts_even_when_the_news_of_its_end_overtakes_the_timer() -> None:
    machine = talking()
    machine.speech_started(3.0, 3_000)
    out = machine.speech_ended(3.5, 3_250, 250)
    assert [type(one) for one in out] == [InterruptAgent, EndSegment, ChangeState]


def test_speech_and_the_end_of_what_the_agent_says_at_once_interrupt_nothing() -> None:
    machine = talking()
    machine.speech_started(3.0, 3_000)
    machine.agent_is(3.0, "listening", interruptible=True)
    assert machine.deadline is None
    assert machine.tick(4.0) == []


def test_speech_resumes_while_the_agent_still_thinks_and_interrupts_it() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    machine.speech_started(1.6, 1_600)
    machine.agent_is(2.0, "speaking", interruptible=True)  # the same reply, and the same speech of the user
    assert machine.tick(2.1) == [InterruptAgent("speech")]


def test_a_turn_that_is_complete_interrupts_what_the_agent_says() -> None:
    machine = talking()
    machine.speech_started(3.0, 3_000)
    machine.speech_ended(3.35, 3_100, 250)  # too short to interrupt by itself
    machine.final(3.4, 2, "no")
    out = machine.silence(3.6, 500)
    assert [type(one) for one in out] == [Heard, InterruptAgent, CommitTurn, ChangeState]
    assert of(InterruptAgent, out) == [InterruptAgent("turn")]


def test_the_end_of_a_failed_reply_leaves_everybody_listening() -> None:
    machine = TurnMachine(TurnOptions())
    heard_turn(machine)
    assert machine.agent_is(2.0, "listening", interruptible=True) == [ChangeState("listening", False)]
    assert machine.agent_is(2.0, "listening", interruptible=True) == []


# --- the agent speaks into the user's speech ------------------------------------------------------------------------


def test_a_speech_that_begins_while_the_user_is_speaking_is_interrupted_when_they_go_on() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(1.0, 1_000)
    machine.agent_is(2.0, "thinking", interruptible=True)
    machine.agent_is(2.4, "speaking", interruptible=True)
    assert machine.deadline == 2.5
    assert machine.tick(2.5) == [InterruptAgent("speech")]


def test_one_that_follows_a_speech_that_could_not_be_interrupted_is_interrupted_as_well() -> None:
    machine = talking(interruptible=False)
    machine.speech_started(3.0, 3_000)
    machine.agent_is(5.0, "speaking", interruptible=True)
    assert machine.deadline == 5.5
    assert machine.tick(5.5) == [InterruptAgent("speech")]


def test_one_that_follows_an_interrupted_speech_is_interrupted_as_well() -> None:
    machine = talking()
    machine.speech_started(3.0, 3_000)
    machine.tick(3.5)
    machine.agent_is(3.51, "thinking", interruptible=True)  # a function is at work, and says something
    assert machine.deadline is None
    machine.agent_is(4.0, "speaking", interruptible=True)
    assert machine.deadline == 4.5
    assert machine.tick(4.5) == [InterruptAgent("speech")]


def test_a_speech_that_may_not_be_interrupted_stops_the_clock_of_the_interruption() -> None:
    machine = talking()
    machine.speech_started(3.0, 3_000)
    machine.agent_is(3.2, "speaking", interruptible=False)
    assert machine.deadline is None
    assert machine.tick(4.0) == []


# --- a speech that may not be interrupted ---------------------------------------------------------------------------


def waiting() -> TurnMachine:
    """The agent is speaking and may not be interrupted; meanwhile the user has said "no"."""
    machine = talking(interruptible=False)
    out = heard_turn_of(machine, 2, "no", 3.0)
    assert not of(InterruptAgent, out)
    assert not of(CommitTurn, out)
    assert (machine.user, machine.agent, machine.deadline) == ("ended", "speaking", None)
    return machine


def test_nobody_interrupts_a_speech_that_may_not_be_interrupted() -> None:
    machine = talking(interruptible=False)
    machine.speech_started(3.0, 3_000)
    assert machine.deadline is None
    assert not machine.tick(10.0)


def test_what_is_said_during_such_a_speech_is_answered_after_it() -> None:
    machine = waiting()
    out = machine.agent_is(6.0, "listening", interruptible=True)
    assert not of(InterruptAgent, out)
    assert of(CommitTurn, out) == [CommitTurn(2, "no", 4_000.0, 0.0)]
    assert (machine.user, machine.agent) == ("silent", "thinking")


def test_what_follows_such_a_speech_is_interrupted_by_the_turn_that_waits() -> None:
    out = waiting().agent_is(6.0, "speaking", interruptible=True)
    assert [type(one) for one in out] == [Heard, InterruptAgent, CommitTurn, ChangeState]
    assert of(InterruptAgent, out) == [InterruptAgent("turn")]


def test_a_turn_waits_for_all_such_speeches_that_follow_each_other() -> None:
    machine = waiting()
    assert not of(CommitTurn, machine.agent_is(6.0, "thinking", interruptible=False))
    assert not of(CommitTurn, machine.agent_is(6.5, "speaking", interruptible=False))
    assert of(CommitTurn, machine.agent_is(8.0, "listening", interruptible=True))


def test_who_speaks_on_during_such_a_speech_adds_to_the_turn_that_waits() -> None:
    machine = waiting()
    heard_turn_of(machine, 3, "not at all", 5.0)
    commits = of(CommitTurn, machine.agent_is(7.0, "listening", interruptible=True))
    assert [one.text for one in commits] == ["no not at all"]
    assert machine.turns == 2


def test_such_a_speech_that_ends_while_the_user_speaks_leaves_the_turn_to_its_own_end() -> None:
    machine = waiting()
    machine.speech_started(5.0, 5_000)
    assert not of(CommitTurn, machine.agent_is(5.5, "listening", interruptible=True))
    machine.speech_ended(6.25, 6_000, 250)
    machine.final(6.3, 3, "please")
    assert of(CommitTurn, machine.silence(6.5, 500)) == [CommitTurn(2, "no please", 6_000.0, 6.5)]


def test_a_final_that_never_comes_during_such_a_speech_is_not_waited_for_twice() -> None:
    machine = talking(interruptible=False)
    machine.speech_started(3.0, 3_000)
    machine.partial(2, "n")
    machine.speech_ended(4.25, 4_000, 250)
    machine.silence(4.5, 500)
    assert machine.tick(7.5) == []
    assert machine.deadline is None
    commits = of(CommitTurn, machine.agent_is(8.0, "listening", interruptible=True))
    assert [one.text for one in commits] == ["n"]


def test_nothing_recognised_during_such_a_speech_ends_the_turn_at_once() -> None:
    machine = talking(interruptible=False)
    assert [one.turn for one in of(EndTurn, heard_turn_of(machine, 2, "", 3.0))] == [2]
    assert machine.agent == "speaking"


def test_silence_that_the_client_asks_for_ends_such_a_speech_and_with_it_the_waiting() -> None:
    machine = waiting()
    assert machine.interrupt(6.0) == [InterruptAgent("request")]
    assert of(CommitTurn, machine.agent_is(6.01, "listening", interruptible=True))


def test_a_written_turn_ends_such_a_speech_and_goes_before_the_turn_that_waits() -> None:
    machine = waiting()
    out = machine.text(6.0, "stop")
    assert of(InterruptAgent, out) == [InterruptAgent("writing")]
    assert [one.text for one in of(CommitTurn, out)] == ["stop"]
    assert machine.user == "ended"
    commits = of(CommitTurn, machine.agent_is(6.01, "thinking", interruptible=True))
    assert [(one.turn, one.text) for one in commits] == [(2, "no")]


# --- what was recognised --------------------------------------------------------------------------------------------


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
    assert [one.text for one in of(CommitTurn, machine.segment_failed(2.6, 2))] == ["one two three"]


def test_a_final_does_not_repeat_the_partial_that_it_replaces() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(0, 0)
    machine.partial(1, "one two")
    machine.speech_ended(1.25, 1_000, 250)
    machine.speech_started(1.4, 1_400)
    machine.final(1.5, 1, "one two")
    machine.speech_ended(2.25, 2_000, 250)
    machine.final(2.3, 2, "")
    assert [one.text for one in of(CommitTurn, machine.silence(2.5, 500))] == ["one two"]


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


def test_a_final_that_comes_before_the_end_of_the_speech_counts_and_is_not_waited_for() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(0, 0)
    assert machine.final(0.8, 1, "that is all") == [Heard(1, "that is all", False)]
    assert machine.user == "speaking"
    machine.speech_ended(1.25, 1_000, 250)
    assert of(CommitTurn, machine.silence(1.5, 500)) == [CommitTurn(1, "that is all", 1_000.0, 1.5)]


def test_a_segment_that_fails_before_the_end_of_the_speech_is_not_waited_for() -> None:
    machine = TurnMachine(TurnOptions())
    machine.speech_started(0, 0)
    assert machine.segment_failed(0.8, 1) == []
    machine.speech_ended(1.25, 1_000, 250)
    assert of(EndTurn, machine.silence(1.5, 500)) == [EndTurn(1, "failed", 1_000.0)]


def test_an_endpointing_delay_shorter_than_vads_own_ends_the_turn_with_the_speech() -> None:
    machine = TurnMachine(TurnOptions(min_endpointing_delay=0.0))
    machine.speech_started(0, 0)
    machine.partial(1, "hi")
    machine.speech_ended(1.25, 1_000, 250)
    assert machine.deadline == 1.25 + TurnOptions().final_timeout
    assert of(CommitTurn, machine.final(1.3, 1, "hi"))


# --- turn detector --------------------------------------------------------------------------------------------------


def detecting() -> TurnMachine:
    machine = TurnMachine(TurnOptions())
    machine.detects = True
    return machine


def test_a_turn_detector_is_asked_when_the_finals_are_there_and_its_yes_commits_the_turn() -> None:
    machine = detecting()
    out = heard_turn(machine, text="hello")
    assert of(JudgeTurn, out) == [JudgeTurn(1, "hello")]
    assert not of(CommitTurn, out)
    assert of(CommitTurn, machine.judged(1.6, "hello", complete=True)) == [CommitTurn(1, "hello", 1_000.0, 1.6)]
    assert machine.judged(1.7, "hello", complete=True) == []


def test_a_turn_that_the_detector_finds_incomplete_waits_for_more_speech_at_most_the_maximal_delay() -> None:
    machine = detecting()
    heard_turn(machine, text="and")
    assert machine.judged(1.6, "and", complete=False) == []
    assert machine.deadline == 1.0 + TurnOptions().max_endpointing_delay
    assert of(CommitTurn, machine.tick(machine.deadline)) == [CommitTurn(1, "and", 1_000.0, 4.0)]


def test_more_speech_is_judged_anew_and_a_word_about_the_old_text_counts_no_more() -> None:
    machine = detecting()
    heard_turn(machine, text="I would like")
    out = heard_turn_of(machine, 2, "a pizza", now=2.0)
    assert of(JudgeTurn, out) == [JudgeTurn(1, "I would like a pizza")]
    assert machine.judged(3.6, "I would like", complete=True) == []
    assert of(CommitTurn, machine.judged(3.6, "I would like a pizza", complete=True))


def test_a_detector_that_never_answers_holds_a_turn_no_longer_than_the_maximal_delay() -> None:
    machine = detecting()
    heard_turn(machine)
    assert not of(CommitTurn, machine.tick(3.9))
    assert of(CommitTurn, machine.tick(4.0))
    assert machine.deadline is None


def test_a_turn_in_which_nothing_was_recognised_is_not_judged() -> None:
    out = heard_turn(detecting(), text="")
    assert not of(JudgeTurn, out)
    assert of(EndTurn, out)


# --- what the client does on purpose --------------------------------------------------------------------------------


def test_the_clients_interruption_is_obeyed_at_once_and_only_while_there_is_something_to_interrupt() -> None:
    machine = talking()
    assert machine.interrupt(2.1) == [InterruptAgent("request")]
    machine.agent_is(2.11, "listening", interruptible=True)
    assert machine.interrupt(2.2) == []


def test_a_written_turn_begins_and_ends_at_once() -> None:
    machine = TurnMachine(TurnOptions())
    out = machine.text(1.0, "hello")
    assert out == [
        BeginTurn(1),
        Heard(1, "hello", True),
        CommitTurn(1, "hello", -1.0, 0.0),
        ChangeState("thinking", False),
    ]


def test_a_written_turn_interrupts_the_agent_and_leaves_the_spoken_turn_alone() -> None:
    machine = talking()
    machine.speech_started(3.0, 3_000)
    out = machine.text(3.1, "and this")
    assert [type(one) for one in out] == [BeginTurn, Heard, InterruptAgent, CommitTurn, ChangeState]
    assert of(InterruptAgent, out) == [InterruptAgent("writing")]
    machine.speech_ended(4.25, 4_000, 250)
    machine.final(4.3, 2, "spoken")
    assert [(one.turn, one.text) for one in of(CommitTurn, machine.silence(4.5, 500))] == [(2, "spoken")]


def test_a_written_turn_stops_the_clock_of_an_interruption_that_is_no_longer_one() -> None:
    machine = talking()
    machine.speech_started(3.0, 3_000)
    machine.text(3.2, "wait")
    assert machine.deadline is None
    assert machine.agent == "thinking"


def test_the_page_names_every_event_instruction_and_option() -> None:
    page = PAGE.read_text()
    events = [name for name, value in vars(TurnMachine).items() if callable(value) and not name.startswith("_")]
    instructions = [kind.__name__ for kind in turns.Instruction.__args__]
    for name in [*events, *instructions]:
        assert f"| `{name}` |" in page, name
    for field in dataclasses.fields(TurnOptions):
        assert f"| `{field.name}` | {field.default} s" in page, field.name
