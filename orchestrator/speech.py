"""What the agent says in one reply: its pieces of text, where each lies in the audio, and so what of it was heard.

Sans I/O. Times are milliseconds of the reply's audio.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import takewhile

from protocol.node import Word

CHARACTERS_PER_S = 15  # usual speech
HALF_WORD_MS = 150

_WORD = re.compile(r"\S+\s*")


@dataclass(slots=True)
class Piece:
    """A part of the reply that was given to TTS at once."""

    text: str
    start_ms: float = -1.0  # -1: no audio of it yet
    audio_ms: float = 0.0
    complete: bool = False
    words: list[Word] = field(default_factory=list)

    def heard(self, played_ms: float) -> str:
        """The part of the text that was played when the reply's audio had been played up to `played_ms`.

        By word times where the engine gave them, else in proportion to time, always whole words: a word counts when
        half of it was played. More of the audio never means less of the text.
        """
        if self.start_ms < 0 or played_ms <= self.start_ms:
            return ""
        inside = played_ms - self.start_ms
        if self.complete and inside >= self.audio_ms:
            return self.text
        if self.words:
            return self.text[: self._offset_by_words(inside)]
        return self._by_proportion(inside)

    def _offset_by_words(self, inside_ms: float) -> int:
        last = self.words[-1]
        # Of the last word that is known its end is not, as long as more may come.
        last_ms = self.audio_ms if self.complete else last.at_ms + 2 * HALF_WORD_MS
        ends = [(word.at_ms, word.offset) for word in self.words[1:]] + [(last_ms, self._word_end(last.offset))]
        offset = 0
        for word, (end_ms, next_offset) in zip(self.words, ends, strict=True):
            if inside_ms < (word.at_ms + end_ms) / 2:
                break
            offset = max(offset, next_offset)
        return offset

    def _word_end(self, offset: int) -> int:
        word = None if self.complete else _WORD.match(self.text, offset)
        return len(self.text) if word is None else word.end()

    def _by_proportion(self, inside_ms: float) -> str:
        # While the piece is still being made its length is not known.
        total_ms = self.audio_ms if self.complete else max(self.audio_ms, len(self.text) * 1000 / CHARACTERS_PER_S)
        reached = len(self.text) * inside_ms / total_ms if total_ms else 0.0
        end = 0
        for word in _WORD.finditer(self.text):
            if (word.start() + word.end()) / 2 > reached:
                break
            end = word.end()
        return self.text[:end]


class Speech:
    """The pieces of one reply, in order."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []
        self._audio_ms = 0.0

    @property
    def text(self) -> str:
        """All that was given to TTS so far."""
        return "".join(piece.text for piece in self.pieces)

    @property
    def audio_ms(self) -> float:
        """Length of the audio that was made so far."""
        return self._audio_ms

    def add_piece(self, text: str) -> int:
        """A new piece; returns its number, from 0."""
        self.pieces.append(Piece(text))
        return len(self.pieces) - 1

    def add_audio(self, number: int, duration_ms: float, *, last: bool) -> bool:
        """Audio of a piece has come. True if it is the piece's first."""
        piece = self.pieces[number]
        first = piece.start_ms < 0 and duration_ms > 0
        if first:
            piece.start_ms = self._audio_ms
        piece.audio_ms += duration_ms
        piece.complete = piece.complete or last
        self._audio_ms += duration_ms
        return first

    def spoken(self, audio_ms: float) -> str:
        """The text of all pieces that have begun when the audio has reached `audio_ms`: what a caption would show."""
        begun = [number for number, piece in enumerate(self.pieces) if 0 <= piece.start_ms <= audio_ms]
        return "".join(piece.text for piece in self.pieces[: begun[-1] + 1]) if begun else ""

    def heard(self, played_ms: float) -> str:
        """The text that was heard when `played_ms` of the audio had been played: always the beginning of it.

        A piece without sound, as a lone dash, counts with the piece before it, or with the one after it.
        """
        begun = [number for number, piece in enumerate(self.pieces) if 0 <= piece.start_ms < played_ms]
        if not begun:
            return ""
        running = self.pieces[begun[-1]]
        text = "".join(piece.text for piece in self.pieces[: begun[-1]])
        part = running.heard(played_ms)
        if part == running.text and running.complete:
            silent = takewhile(lambda piece: piece.complete and piece.start_ms < 0, self.pieces[begun[-1] + 1 :])
            part += "".join(piece.text for piece in silent)
        return (text + part).strip()
