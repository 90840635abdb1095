"""The turns of a conversation as its client sees them: what was heard, what was answered, and how long that took.

Made from the events of `protocol.client`, without I/O. `antiphon send` and `antiphon talk` print it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Any

from protocol.client import Event, Reconnected
from protocol.ingest import Audio, Error, Metrics, StageTimes, State, Transcript

# Of sent positions: 20 minutes in frames. They are forgotten when a turn that spoke later has ended.
MAX_POSITIONS = 60_000
REST_S = 1.0  # of an agent that listens, with a turn open: it waits for the user, as a task that asks something does
ADDING_UP = ("endpointing_ms", "stt_ms", "llm_ms", "tts_ms")


@dataclass
class Turn:
    """One turn of the user and its answer. `source`: what it was sent from. Milliseconds; None: does not apply."""

    turn: int
    source: str = ""
    heard: str = ""
    answered: str = ""
    outcome: str = ""  # "" while it goes on
    interrupted: bool = False
    first_audio_ms: float | None = None  # from the end of speech to the first byte of the answer, at this client
    stages: StageTimes = field(default_factory=StageTimes)
    audio_ms: int = 0
    heard_ms: int = 0
    complete: bool = False  # the user has said all of it
    told: bool = False  # whoever watches knows of its answer already

    @property
    def ok(self) -> bool:
        """It was answered aloud."""
        if not self.outcome:
            return self.told and bool(self.answered)  # the agent has asked something, and waits
        return self.audio_ms > 0 and self.outcome in ("completed", "interrupted")

    def document(self) -> dict[str, Any]:
        """For `--json`. Stages that did not run are null."""
        stages = {name: value if value >= 0 else None for name, value in _stage_items(self.stages)}
        return {
            "turn": self.turn,
            "file": self.source or None,
            "heard": self.heard,
            "answered": self.answered,
            "outcome": self.outcome or "unfinished",
            "interrupted": self.interrupted,
            "first_audio_ms": self.first_audio_ms,
            "stages": stages,
            "audio_ms": self.audio_ms,
            "heard_ms": self.heard_ms,
        }


class Turns:
    """All turns of a conversation, in their order. Tell it what is sent and what comes, with the monotonic time."""

    def __init__(self) -> None:
        self.all: list[Turn] = []
        self.unasked = Turn(0)  # no turn: what the agent says before the first, or last of that
        self.errors: list[Error] = []
        self.source = ""  # what is being sent now
        self.user_speaking = False
        self.agent_busy = False
        self._by_number: dict[int, Turn] = {}  # of the current session, which counts its turns from 1
        self._turn_of: dict[int, int] = {}  # generation to turn
        self._first_audio: dict[int, float] = {}  # by generation
        self._positions: deque[tuple[float, float]] = deque(maxlen=MAX_POSITIONS)
        self._texts: deque[float] = deque()  # when texts were sent whose turns have not ended
        self._unheard = 0  # texts that were sent and not heard yet
        self._answers: dict[int, dict[int, str]] = {}  # by turn, by generation: a turn may have several
        self._rests_since: float | None = None

    @property
    def open(self) -> bool:
        """Something is being said, thought about or answered."""
        return self.user_speaking or self.agent_busy or bool(self._texts) or bool(self.open_turns)

    def waits(self, now: float) -> bool:
        """A turn is open, and the agent listens: it has asked something, and the turn ends when that is answered."""
        heard = not self._unheard and all(turn.complete for turn in self.open_turns)
        return heard and self._rests_since is not None and now - self._rests_since >= REST_S

    @property
    def open_turns(self) -> list[Turn]:
        """Those that have not ended."""
        return [turn for turn in self.all if not turn.outcome]

    def sent_audio(self, position_ms: float, now: float) -> None:
        """All audio before this position has been sent."""
        self._positions.append((position_ms, now))

    def sent_text(self, now: float) -> None:
        """A turn in writing has been sent."""
        self._texts.append(now)
        self._unheard += 1

    def take(self, event: Event, now: float) -> Turn | None:
        """Take up an event; returns the turn that it was about, if it says something of one."""
        match event:
            case Audio():
                if event.pcm:
                    self._first_audio.setdefault(event.generation, now)
            case Transcript():
                return self._transcript(event)
            case Metrics():
                return self._ended(event)
            case State():
                self.user_speaking = event.user == "speaking"
                self.agent_busy = event.agent != "listening"
                self._rests_since = None if self.user_speaking or self.agent_busy else now
            case Error():
                self.errors.append(event)
            case Reconnected():
                self._restart()
        return None

    def _transcript(self, event: Transcript) -> Turn:
        turn = self._turn(event.turn)
        if event.speaker == "user":
            turn.heard, turn.complete = event.text, event.final
            if event.final and self._unheard:
                self._unheard -= 1
        elif turn is self.unasked:
            turn.answered, turn.interrupted, turn.source = event.text, event.interrupted, self.source
        else:
            answers = self._answers.setdefault(event.turn, {})
            answers[event.generation] = event.text
            turn.answered = " ".join(answers.values())
            turn.interrupted = turn.interrupted or event.interrupted
            self._turn_of[event.generation] = event.turn
        return turn

    def _ended(self, event: Metrics) -> Turn:
        turn = self._turn(event.turn)
        turn.outcome, turn.stages = event.outcome, event.stages
        turn.interrupted = turn.interrupted or event.outcome == "interrupted"
        turn.audio_ms, turn.heard_ms = event.audio_ms, event.heard_ms
        began = self._sent_at(event.speech_end_ms)
        answers = [at for generation, at in self._first_audio.items() if self._turn_of.get(generation) == event.turn]
        if began is not None and answers:
            turn.first_audio_ms = round((min(answers) - began) * 1000, 1)
        return turn

    def _sent_at(self, speech_end_ms: int) -> float | None:
        if speech_end_ms < 0:
            return self._texts.popleft() if self._texts else None
        while self._positions and self._positions[0][0] < speech_end_ms:
            self._positions.popleft()
        return self._positions[0][1] if self._positions else None

    def _turn(self, number: int) -> Turn:
        if not number:
            return self.unasked
        if number not in self._by_number:
            self._by_number[number] = turn = Turn(len(self.all) + 1, self.source)
            self.all.append(turn)
        return self._by_number[number]

    def _restart(self) -> None:
        """The session is a new one: what was going on in the old one will not end any more."""
        for turn in self.all:
            turn.outcome = turn.outcome or "failed"
        self.user_speaking = self.agent_busy = False
        self._by_number.clear()
        self._turn_of.clear()
        self._answers.clear()
        self._unheard = 0
        self._rests_since = None
        self._first_audio.clear()
        self._positions.clear()
        self._texts.clear()


def describe_stages(stages: StageTimes) -> str:
    """`endpointing 500, stt 12, llm 4, tts 2`: milliseconds of the stages that ran and add up to the whole."""
    parts = [(name, value) for name, value in _stage_items(stages) if name in ADDING_UP and value >= 0]
    return ", ".join(f"{name.removesuffix('_ms')} {value:.0f}" for name, value in parts)


def _stage_items(stages: StageTimes) -> list[tuple[str, float]]:
    return [(name, round(getattr(stages, name), 1)) for name in stages.__struct_fields__]
