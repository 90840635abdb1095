"""The turn machine: what must hold whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

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

EVENTS = st.sampled_from(
    ["start", "end", "silence", "partial", "final", "failed", "text", "interrupt", "speaking", "ended", "tick", "wait"]
)


class History:
    """Drives a machine with events that may come, and checks what must always hold."""

    def __init__(self, options: TurnOptions) -> None:
        self.machine = TurnMachine(options)
        self.now = 0.0
        self.ended: list[int] = []
        self.generation = 0
        self.newest = 0  # generation of the machine
        self.may_cancel = options.allow_interruptions
        self.cancelled: list[int] = []
        self.replying: int | None = None
        self.segments: dict[int, bool] = {}  # number: its end was said
        self.shown: tuple[str, bool] = ("listening", False)

    def happen(self, event: str, number: int) -> None:
        machine, now = self.machine, self.now
        calls = {
            "start": lambda: machine.speech_started(now, now * 1000),
            "end": lambda: machine.speech_ended(now, now * 1000 - 250, 250),
            "silence": lambda: machine.silence(now, number * 200),
            "partial": lambda: machine.partial(number, f"p{number}"),
            "final": lambda: machine.final(now, number, f"f{number}" if number % 3 else ""),
            "failed": lambda: machine.segment_failed(now, number),
            "text": lambda: machine.text(now, "written"),
            "interrupt": lambda: machine.interrupt(now),
            "speaking": lambda: machine.reply_speaking(number),
            "ended": lambda: self.reply_ends(number),
            "tick": lambda: machine.tick(now),
        }
        if event == "wait":
            self.now += number / 3
        else:
            self.check(calls[event](), on_purpose=event in ("text", "interrupt"))

    def check(self, out: list[Instruction], *, on_purpose: bool = False) -> None:
        for one in out:
            match one:
                case StartSegment(segment, _):
                    assert segment not in self.segments
                    self.segments[segment] = False
                case EndSegment(segment, _):
                    assert self.segments[segment] is False
                    self.segments[segment] = True
                case CancelReply(generation, by):
                    assert self.may_cancel or on_purpose
                    assert generation == self.replying
                    assert by > generation
                    self.cancelled.append(generation)
                    self.replying = None
                case StartReply():
                    assert self.replying is None
                    assert one.generation > self.generation
                    assert one.text
                    self.generation, self.replying = one.generation, one.generation
                    self.ended.append(one.turn)
                case EndTurn():
                    self.ended.append(one.turn)
                case ChangeState(agent, speaking):
                    assert (agent, speaking) != self.shown
                    self.shown = (agent, speaking)
                case Heard():
                    assert one.turn not in self.ended
        assert len(set(self.ended)) == len(self.ended), "a turn ended twice"
        assert len(set(self.cancelled)) == len(self.cancelled)
        assert self.machine.generation >= max(self.generation, self.newest)
        self.newest = self.machine.generation
        assert self.replying == (None if self.machine.agent == "listening" else self.machine.generation)
        if self.machine.user == "silent" or (self.machine.user == "speaking" and self.machine.agent == "listening"):
            assert self.machine.deadline is None, "nothing is waited for"

    def settle(self) -> None:
        """The user is silent, nothing more comes from any node: only deadlines, and the end of the reply."""
        self.check(self.machine.speech_ended(self.now, self.now * 1000 - 250, 250))
        self.pass_deadlines()
        self.check(self.reply_ends(self.machine.generation))
        self.pass_deadlines()
        assert self.machine.deadline is None, "something is waited for in vain"
        assert sorted(self.ended) == list(range(1, self.machine.turns + 1)), "a turn never ended"
        assert self.machine.user == "silent"

    def reply_ends(self, generation: int) -> list[Instruction]:
        if generation == self.machine.generation:
            self.replying = None
        return self.machine.reply_ended(generation)

    def pass_deadlines(self) -> None:
        for _ in range(10):
            deadline = self.machine.deadline
            if deadline is None:
                break
            self.now = max(self.now, deadline)
            self.check(self.machine.tick(self.now))
            assert self.machine.deadline is None or self.machine.deadline > self.now, "the timer would spin"


@settings(max_examples=1_000, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.integers(0, 6)), max_size=60), st.booleans())
def test_in_any_order_of_events_every_turn_ends_once_and_generations_only_rise(
    events: list[tuple[str, int]], allow_interruptions: bool
) -> None:
    history = History(TurnOptions(allow_interruptions=allow_interruptions))
    for event, number in events:
        history.happen(event, number)
    history.settle()
