"""The turn machine: what must hold whatever happens in whatever order."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

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
from protocol.ingest import AgentState

USER = ["start", "end", "silence", "partial", "final", "failed", "text", "interrupt", "complete", "incomplete"]
AGENT = ["listening", "thinking", "speaking", "thinking on", "speaking on"]  # "on": it may not be interrupted
EVENTS = st.sampled_from([*USER, *AGENT, "tick", "wait"])
OPTIONS = st.builds(
    TurnOptions,
    min_endpointing_delay=st.sampled_from([0.0, 0.5]),
    min_interruption_duration=st.sampled_from([0.0, 0.5]),
)


class History:
    """Drives a machine with events that may come, and checks what must always hold."""

    def __init__(self, options: TurnOptions, *, detects: bool) -> None:
        self.options = options
        self.machine = TurnMachine(options)
        self.machine.detects = detects
        self.asked: list[tuple[int, str]] = []  # turns that the detector was asked about, and what it was told
        self.now = 10.0
        self.event = ""
        self.begun = 0
        self.ended: list[int] = []
        self.agent: AgentState = "listening"
        self.interruptible = True
        self.overlap_at: float | None = None  # since when the user has been speaking and could interrupt
        self.cut_off = False  # what the agent said was, since it or the user last began to speak
        self.segments: dict[int, bool] = {}  # number: its end was said
        self.owed: set[int] = set()  # segments of the spoken turn whose final may come
        self.finals: set[str] = set()  # what has come
        self.shown: tuple[str, bool] = ("listening", False)

    # --- what happens ---------------------------------------------------------------------------------------------

    def happen(self, event: str, number: int) -> None:
        self.event = event
        if event == "wait":
            self.now += number / 3
        elif event in AGENT:
            self.tell(event)
        elif event == "tick":
            self.tick()
        else:
            self.check(self.user_does(event, number))

    def user_does(self, event: str, number: int) -> list[Instruction]:
        machine, now = self.machine, self.now
        text = f"f{number}" if number % 3 else ""
        if event == "start" and machine.user != "speaking":
            self.cut_off = False
        if event in ("final", "failed") and number in self.owed:
            self.owed.discard(number)
            self.finals |= {text} - {""} if event == "final" else set()
        calls = {
            "start": lambda: machine.speech_started(now, now * 1000),
            "end": lambda: machine.speech_ended(now, now * 1000 - 250, 250),
            "silence": lambda: machine.silence(now, number * 200),
            "partial": lambda: machine.partial(number, f"p{number}"),
            "final": lambda: machine.final(now, number, text),
            "failed": lambda: machine.segment_failed(now, number),
            "text": lambda: machine.text(now, "written"),
            "interrupt": lambda: machine.interrupt(now),
            "complete": lambda: machine.judged(now, self.asked[-1][1] if self.asked else "", complete=True),
            "incomplete": lambda: machine.judged(now, self.asked[-1][1] if self.asked else "", complete=False),
        }
        return calls[event]()

    def tell(self, event: str) -> None:
        """The conversation says what the agent does."""
        states: dict[str, AgentState] = {"listening": "listening", "thinking": "thinking", "speaking": "speaking"}
        state, interruptible = states[event.removesuffix(" on")], not event.endswith(" on")
        could_interrupt = self.agent != "listening" and self.interruptible
        if self.cut_off and (not could_interrupt or state == "speaking" != self.agent):
            self.cut_off, self.overlap_at = False, None  # it begins something new
        self.agent, self.interruptible = state, interruptible
        self.note_overlap()
        self.check(self.machine.agent_is(self.now, state, interruptible=interruptible))

    def tick(self) -> None:
        due = self.machine.deadline is not None and self.machine.deadline <= self.now
        if due and self.machine.user == "ended":
            self.owed.clear()  # a final that comes from now on may come too late
        self.check(self.machine.tick(self.now))
        assert self.machine.deadline is None or self.machine.deadline > self.now, "the timer would spin"

    def settle(self) -> None:
        """The user is silent, nothing more comes from any node: only deadlines, and the end of what the agent says."""
        self.happen("end", 0)
        self.pass_deadlines()
        self.happen("listening", 0)
        self.pass_deadlines()
        assert self.machine.deadline is None, "something is waited for in vain"
        assert sorted(self.ended) == list(range(1, self.begun + 1)), "a turn never ended"
        assert self.machine.turns == self.begun
        assert self.machine.user == "silent"

    def pass_deadlines(self) -> None:
        for _ in range(10):
            if self.machine.deadline is None:
                break
            self.now = max(self.now, self.machine.deadline)
            self.happen("tick", 0)

    # --- what must hold -------------------------------------------------------------------------------------------

    def check(self, out: list[Instruction]) -> None:
        for one in out:
            match one:
                case BeginTurn(turn):
                    assert turn == self.begun + 1, "a turn began twice, or without its number"
                    self.begun = turn
                case StartSegment(segment, _):
                    assert segment not in self.segments
                    self.segments[segment] = False
                    self.owed.add(segment)
                case EndSegment(segment, _):
                    assert self.segments[segment] is False
                    self.segments[segment] = True
                case JudgeTurn(turn, text):
                    assert self.machine.detects
                    assert text
                    assert turn not in self.ended
                    self.asked.append((turn, text))
                case InterruptAgent():
                    self.check_interruption(one)
                case CommitTurn() | EndTurn():
                    self.check_end(one)
                case ChangeState(agent, speaking):
                    assert (agent, speaking) != self.shown
                    self.shown = (agent, speaking)
                case Heard(turn, _, _):
                    assert turn <= self.begun
                    assert turn not in self.ended
        self.note_overlap()
        self.check_states()
        self.check_waiting()

    def check_interruption(self, one: InterruptAgent) -> None:
        assert self.agent != "listening", "there is nothing to interrupt"
        on_purpose = {"text": "writing", "interrupt": "request"}.get(self.event)
        assert one.why in ([on_purpose] if on_purpose is not None else ["speech", "turn"])
        assert self.interruptible or on_purpose is not None, "the agent may not be interrupted"
        if one.why == "speech":
            assert self.overlap_at is not None
            assert self.now >= self.overlap_at + self.options.min_interruption_duration, "it was cut off too early"
        self.cut_off = True

    def check_end(self, one: CommitTurn | EndTurn) -> None:
        assert one.turn <= self.begun
        assert one.turn not in self.ended, "a turn ended twice"
        self.ended.append(one.turn)
        written = one.speech_end_ms < 0
        assert written == (self.event == "text")
        if not written:
            said = set(one.text.split()) if isinstance(one, CommitTurn) else set()
            assert self.finals <= said, "a final was lost"
            self.owed.clear()
            self.finals.clear()
        if isinstance(one, CommitTurn):
            assert one.text
            assert written or not self.machine.detects or (one.turn, one.text) in self.asked, "nobody was asked"
            assert written or self.agent == "listening" or self.interruptible, "the turn does not wait for the speech"
            self.agent, self.cut_off = "thinking", True  # an answer to come is nothing to cut off

    def note_overlap(self) -> None:
        if self.machine.user != "speaking" or self.agent == "listening" or not self.interruptible:
            self.overlap_at = None
        elif self.overlap_at is None:
            self.overlap_at = self.now

    def check_states(self) -> None:
        assert self.machine.agent == self.agent
        assert self.shown == (self.agent, self.machine.user == "speaking")

    def check_waiting(self) -> None:
        """Who waits has a deadline, and only who waits."""
        user, deadline = self.machine.user, self.machine.deadline
        if user == "silent" or (user == "speaking" and self.overlap_at is None):
            assert deadline is None, "nothing is waited for"
        if self.overlap_at is not None and not self.cut_off:
            due = self.overlap_at + self.options.min_interruption_duration
            assert deadline == due, "the agent speaks into the user's speech for ever, or for too long"
        if user == "ended" and deadline is None:
            assert self.agent != "listening", "the turn waits for nothing"
            assert not self.interruptible, "the turn waits for a speech that it could interrupt"


@settings(max_examples=2_000, deadline=None)
@given(st.lists(st.tuples(EVENTS, st.integers(0, 6)), max_size=60), OPTIONS, st.booleans())
def test_in_any_order_of_events_every_turn_ends_once_and_nobody_is_cut_off_or_kept_waiting_without_a_reason(
    events: list[tuple[str, int]], options: TurnOptions, detects: bool
) -> None:
    history = History(options, detects=detects)
    for event, number in events:
        history.happen(event, number)
    history.settle()
