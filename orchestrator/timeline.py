"""When things happened in a turn, for its metrics: the wall time of audio positions, and the stages' shares. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from protocol.ingest import StageTimes

MARK_EVERY_MS = 100.0
MARKS = 64


class Arrivals:
    """When each position of the audio arrived, to within a mark's distance."""

    def __init__(self) -> None:
        self._marks: deque[tuple[float, float]] = deque(maxlen=MARKS)
        self._next_ms = 0.0

    def note(self, position_ms: float, now: float) -> None:
        """The audio has reached this position. Cheap: most calls return at once."""
        if position_ms >= self._next_ms:
            self._marks.append((position_ms, now))
            self._next_ms = position_ms + MARK_EVERY_MS

    def at(self, position_ms: float, now: float) -> float:
        """When this position arrived, `now` at the latest; between marks reckoned as audio that comes in real time."""
        before: tuple[float, float] | None = None
        for mark_ms, at in self._marks:
            if mark_ms >= position_ms:
                reckoned = at - (mark_ms - position_ms) / 1000
                return reckoned if before is None else max(before[1], reckoned)
            before = (mark_ms, at)
        return now if before is None else min(now, before[1] + (position_ms - before[0]) / 1000)


@dataclass(slots=True)
class TurnTimes:
    """Moments of one turn, monotonic seconds; 0: has not happened."""

    speech_end_at: float = 0.0
    endpoint_at: float = 0.0
    commit_at: float = 0.0
    first_token_at: float = 0.0
    first_piece_at: float = 0.0
    first_audio_at: float = 0.0

    def stages(self) -> StageTimes:
        """The share of each stage in milliseconds; with audio, the parts add up to the total.

        A `tts_node` of the user's own may speak before a piece of text is there: then all is its share.
        """
        times = StageTimes()
        began_at = self.commit_at
        if self.speech_end_at and self.commit_at:
            began_at = min(self.speech_end_at, self.commit_at)
            endpoint_at = min(max(self.endpoint_at or self.commit_at, began_at), self.commit_at)
            times.endpointing_ms = _ms(began_at, endpoint_at)
            times.stt_ms = _ms(endpoint_at, self.commit_at)
        if self.first_token_at:
            times.llm_first_token_ms = _ms(self.commit_at, self.first_token_at)
        tts_from = self.commit_at
        if self.first_piece_at and (not self.first_audio_at or self.first_piece_at <= self.first_audio_at):
            tts_from = self.first_piece_at
            times.llm_ms = _ms(self.commit_at, tts_from)
        if self.first_audio_at:
            times.tts_ms = _ms(tts_from, self.first_audio_at)
            times.total_ms = _ms(began_at, self.first_audio_at)
        return times


def _ms(start: float, end: float) -> float:
    return round(max(0.0, end - start) * 1000, 2)
