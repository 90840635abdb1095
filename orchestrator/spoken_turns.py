"""What was said in answer to each turn of the user, until its figures are sent."""

from __future__ import annotations

from dataclasses import dataclass

from orchestrator.utterance import Utterance


@dataclass(frozen=True, slots=True)
class Spoken:
    """In one turn. Whole milliseconds, as clients report them."""

    text: bool = False  # whether anything was written
    audio_ms: int = 0
    heard_ms: int = 0


class SpokenTurns:
    """Of one session."""

    def __init__(self) -> None:
        self._utterances: list[Utterance] = []

    def note(self, utterance: Utterance) -> None:
        """It answers the turn that it names; one of turn 0 answers none."""
        if utterance.turn:
            self._utterances.append(utterance)

    def take(self, turn: int) -> Spoken:
        """The turn has ended: what was said in it. Forgotten then, with what came before."""
        spoken = [one for one in self._utterances if one.turn == turn]
        self._utterances = [one for one in self._utterances if one.turn > turn]
        return Spoken(
            text=any(one.text() for one in spoken),
            audio_ms=_whole(sum(one.playout.sent_ms for one in spoken)),
            heard_ms=_whole(sum(one.played_ms() for one in spoken)),
        )


def _whole(ms: float) -> int:
    """Cut off, but for what is a hair below the next."""
    return int(ms + 0.01)
