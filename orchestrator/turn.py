"""Whose turn it is: a state machine without I/O. Events in, instructions out, every wait has a deadline.

`docs/turns.md` draws it. The session (the only caller) tells it what vad, stt, the client and the reply do, with the
monotonic time in seconds; carries out the instructions in their order; and calls `tick` when `deadline` has come.

    user:   silent ──speech start──▶ speaking ──speech end──▶ ended ──silence long enough, finals there──▶ silent
                                        ▲───────────speech start──────┘                          (the turn is committed)
    agent:  listening, thinking or speaking, as the conversation says (`agent_is`); thinking from each committed turn on

A *turn* is what the user says until they have been silent for `min_endpointing_delay`; it may have several *segments*,
one for each run of speech. Each turn begins once (`BeginTurn`) and ends once: with `CommitTurn` or with `EndTurn`.

While the agent says something that may not be interrupted, a turn waits for its end. What the user does on purpose,
writing and asking for silence, is carried out all the same.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from protocol.ingest import AgentState

User = Literal["silent", "speaking", "ended"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnOptions:
    """How turns are taken. Seconds.

    The defaults are the field's (LiveKit Agents and Pipecat use the same or nearly): half a second of silence ends a
    turn, half a second of speech interrupts.
    """

    min_endpointing_delay: float = 0.5
    max_endpointing_delay: float = 3.0
    min_interruption_duration: float = 0.5
    final_timeout: float = 3.0  # for a segment's final transcript, after the end of the turn
    silence_timeout: float = 1.5  # beyond the endpointing delay, if vad says nothing any more


@dataclass(frozen=True, slots=True)
class StartSegment:
    """Feed stt from shortly before `at_ms`."""

    segment: int
    at_ms: float


@dataclass(frozen=True, slots=True)
class EndSegment:
    """Feed stt up to `at_ms`, then ask for the final transcript."""

    segment: int
    at_ms: float


@dataclass(frozen=True, slots=True)
class Heard:
    """What the user has said in this turn, as far as it is known."""

    turn: int
    text: str
    final: bool


@dataclass(frozen=True, slots=True)
class BeginTurn:
    """The user's input has started."""

    turn: int


@dataclass(frozen=True, slots=True)
class CommitTurn:
    """The turn is complete: answer it. For a turn in writing `speech_end_ms` is -1.

    `endpoint_at` is 0 for a turn in writing, and for one that had to wait for the end of a reply.
    """

    turn: int
    text: str
    speech_end_ms: float
    endpoint_at: float  # when its end was found; what follows was waiting for finals


@dataclass(frozen=True, slots=True)
class EndTurn:
    """The turn ends without a reply."""

    turn: int
    outcome: Literal["nothing_heard", "failed"]
    speech_end_ms: float


@dataclass(frozen=True, slots=True)
class InterruptAgent:
    """Cut off what the agent says. `why`: the user speaks, has said something, wrote something, or wants silence.

    The last two are done on purpose: they hold where interruptions are not allowed as well.
    """

    why: Literal["speech", "turn", "writing", "request"]


@dataclass(frozen=True, slots=True)
class ChangeState:
    """Somebody began or stopped doing something."""

    agent: AgentState
    user_speaking: bool


@dataclass(frozen=True, slots=True)
class JudgeTurn:
    """Ask the turn detector whether the user has finished, and say so by `judged`."""

    turn: int
    text: str


Instruction = (
    StartSegment | EndSegment | Heard | BeginTurn | JudgeTurn | CommitTurn | EndTurn | InterruptAgent | ChangeState
)


@dataclass(slots=True)
class _Turn:
    """The user's turn that is going on."""

    number: int
    finals: dict[int, str] = field(default_factory=dict)
    partials: dict[int, str] = field(default_factory=dict)
    waiting: set[int] = field(default_factory=set)  # segments whose final has not come
    missing: bool = False  # a final never came
    endpointed: bool = False
    endpoint_at: float = 0.0
    speech_end_ms: float = -1.0
    speech_end_at: float = 0.0
    asked: str | None = None  # what the turn detector was asked about
    judged: bool = False  # its word is there, or is waited for no longer

    @property
    def text(self) -> str:
        """What has been recognised, segments in their order; of one without a final, what is known of it."""
        return " ".join(text for _, text in sorted((self.partials | self.finals).items()) if text)


class TurnMachine:
    """The turns of one conversation. Pure: it reads no clock and does nothing."""

    def __init__(self, options: TurnOptions) -> None:
        self._options = options
        self.user: User = "silent"
        self.agent: AgentState = "listening"
        self.turns = 0  # turns that were started
        self.detects = False  # whether there is a turn detector to ask
        self._segment = 0
        self._turn: _Turn | None = None
        self._interruptible = True
        self._interrupt_at: float | None = None
        self._endpoint_at: float | None = None
        self._final_at: float | None = None
        self._judge_at: float | None = None
        self._shown: tuple[AgentState, bool] = ("listening", False)

    @property
    def deadline(self) -> float | None:
        """When `tick` must be called; None if nothing is waited for."""
        times = (self._interrupt_at, self._endpoint_at, self._final_at, self._judge_at)
        return min((at for at in times if at is not None), default=None)

    # --- events: the user -----------------------------------------------------------------------------------------

    def speech_started(self, now: float, at_ms: float) -> list[Instruction]:
        """Vad: speech began at `at_ms`."""
        if self.user == "speaking":
            return []
        out: list[Instruction] = []
        if self._turn is None:
            self._turn = _Turn(self._new_turn())
            out.append(BeginTurn(self._turn.number))
        self._turn.endpointed = self._turn.judged = False
        self._turn.asked = None
        self.user = "speaking"
        self._segment += 1
        self._turn.waiting.add(self._segment)
        self._endpoint_at = self._final_at = self._judge_at = None
        if self._can_be_interrupted:
            self._interrupt_at = now + self._options.min_interruption_duration
        return [*out, StartSegment(self._segment, at_ms), *self._states()]

    def speech_ended(self, now: float, at_ms: float, silence_ms: float) -> list[Instruction]:
        """Vad: the speech ended at `at_ms`, `silence_ms` ago."""
        if self.user != "speaking" or self._turn is None:
            return []
        out = self._interrupt_if_due(now)  # the news of it may overtake the timer
        self.user = "ended"
        self._interrupt_at = None
        self._turn.speech_end_ms = at_ms
        self._turn.speech_end_at = now - silence_ms / 1000
        delay = self._options.min_endpointing_delay - silence_ms / 1000
        self._endpoint_at = now + max(0.0, delay) + self._options.silence_timeout
        return [*out, EndSegment(self._segment, at_ms + silence_ms), *self._states(), *self.silence(now, silence_ms)]

    def silence(self, now: float, silence_ms: float) -> list[Instruction]:
        """Vad: it has been silent for `silence_ms` since the speech ended."""
        if self.user != "ended" or silence_ms < self._options.min_endpointing_delay * 1000:
            return []
        return self._endpoint(now)

    def partial(self, segment: int, text: str) -> list[Instruction]:
        """Stt: what it has of a segment whose final has not come."""
        turn = self._turn
        if turn is None or segment not in turn.waiting:
            return []
        before = turn.text
        turn.partials[segment] = text
        return self._heard(turn, before)

    def final(self, now: float, segment: int, text: str) -> list[Instruction]:
        """Stt: the final transcript of a segment. A second one, or one that comes too late, is ignored.

        It may come before the end of the speech: a task's own `stt_node` says when it has enough.
        """
        turn = self._turn
        if turn is None or segment not in turn.waiting:
            return []
        before = turn.text
        turn.waiting.discard(segment)
        turn.finals[segment] = text
        return [*self._heard(turn, before), *self._commit()]

    def segment_failed(self, now: float, segment: int) -> list[Instruction]:
        """Stt: no final will come for this segment, which may still be spoken."""
        turn = self._turn
        if turn is None or segment not in turn.waiting:
            return []
        turn.waiting.discard(segment)
        turn.missing = True
        return self._commit()

    def judged(self, now: float, text: str, *, complete: bool) -> list[Instruction]:
        """The turn detector, asked about this text: whether the user has finished."""
        turn = self._turn
        if turn is None or turn.asked != text or turn.judged or not complete:
            return []
        return self._judged(turn, now)

    def text(self, now: float, text: str) -> list[Instruction]:
        """The user wrote. A turn of its own, beside what is being said."""
        turn = _Turn(self._new_turn(), finals={0: text})
        return [BeginTurn(turn.number), *self._complete(turn, "writing")]

    def interrupt(self, now: float) -> list[Instruction]:
        """The client asked for silence."""
        return self._cut_off("request")

    # --- events: the agent ----------------------------------------------------------------------------------------

    def agent_is(self, now: float, state: AgentState, *, interruptible: bool) -> list[Instruction]:
        """What the agent is doing now, and whether speech may cut it off."""
        began = not self._can_be_interrupted or (state == "speaking" != self.agent)
        self.agent = state
        self._interruptible = interruptible
        if not self._can_be_interrupted:
            self._interrupt_at = None
        elif began and self.user == "speaking" and self._interrupt_at is None:  # it speaks into the user's speech
            self._interrupt_at = now + self._options.min_interruption_duration
        return [*self._commit(), *self._states()]

    # --- time -----------------------------------------------------------------------------------------------------

    def tick(self, now: float) -> list[Instruction]:
        """A deadline may have come."""
        out = self._interrupt_if_due(now)
        if self._endpoint_at is not None and now >= self._endpoint_at:
            out += self._endpoint(now)
        if self._final_at is not None and now >= self._final_at and self._turn is not None:
            self._turn.waiting.clear()
            self._turn.missing = True
            out += self._commit()
        if self._judge_at is not None and now >= self._judge_at and self._turn is not None:
            out += self._judged(self._turn, now)
        return out

    # --- inside ---------------------------------------------------------------------------------------------------

    @property
    def _can_be_interrupted(self) -> bool:
        """Whether the agent does something that the user's speech may cut off."""
        return self.agent != "listening" and self._interruptible

    def _new_turn(self) -> int:
        self.turns += 1
        return self.turns

    def _endpoint(self, now: float) -> list[Instruction]:
        self._endpoint_at = None
        if self._turn is None or self._turn.endpointed:
            return []
        self._turn.endpointed = True
        self._turn.endpoint_at = now
        self._final_at = now + self._options.final_timeout
        return self._commit()

    def _commit(self) -> list[Instruction]:
        """End the turn, if its end was found and nothing is waited for any more."""
        turn = self._turn
        if turn is None or self.user != "ended" or not turn.endpointed or turn.waiting:
            return []
        if turn.text and self.agent != "listening" and not self._interruptible:
            self._final_at = None  # the end of the speech is waited for, which the conversation owes
            turn.endpoint_at = 0.0
            return []
        if turn.text and self.detects and not turn.judged:
            return self._judge(turn)
        self._turn = None
        self.user = "silent"
        self._interrupt_at = self._endpoint_at = self._final_at = self._judge_at = None
        if turn.text:
            return self._complete(turn, "turn")
        outcome: Literal["nothing_heard", "failed"] = "failed" if turn.missing else "nothing_heard"
        return [EndTurn(turn.number, outcome, turn.speech_end_ms), *self._states()]

    def _judge(self, turn: _Turn) -> list[Instruction]:
        """Have the turn detector judge what was said, once for each text."""
        self._final_at = None
        self._judge_at = turn.speech_end_at + self._options.max_endpointing_delay
        if turn.asked == turn.text:
            return []
        turn.asked = turn.text
        return [JudgeTurn(turn.number, turn.text)]

    def _judged(self, turn: _Turn, now: float) -> list[Instruction]:
        turn.judged = True
        turn.endpoint_at = now
        self._judge_at = None
        return self._commit()

    def _complete(self, turn: _Turn, how: Literal["turn", "writing"]) -> list[Instruction]:
        out: list[Instruction] = [Heard(turn.number, turn.text, final=True), *self._cut_off(how)]
        self.agent = "thinking"
        return [*out, CommitTurn(turn.number, turn.text, turn.speech_end_ms, turn.endpoint_at), *self._states()]

    def _heard(self, turn: _Turn, before: str) -> list[Instruction]:
        return [Heard(turn.number, turn.text, final=False)] if turn.text != before else []

    def _interrupt_if_due(self, now: float) -> list[Instruction]:
        if self._interrupt_at is None or now < self._interrupt_at:
            return []
        return self._cut_off("speech")

    def _cut_off(self, why: Literal["speech", "turn", "writing", "request"]) -> list[Instruction]:
        """What the agent does then, the conversation says in a moment."""
        self._interrupt_at = None
        return [InterruptAgent(why)] if self.agent != "listening" else []

    def _states(self) -> list[Instruction]:
        now = (self.agent, self.user == "speaking")
        if now == self._shown:
            return []
        self._shown = now
        return [ChangeState(*now)]
