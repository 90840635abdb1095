"""Cuts a reply's text into pieces for tts while it streams. Pure; knows nothing of who writes or speaks it.

Where a sentence ends, `sentencex` decides (Wikimedia, MIT): it knows abbreviations, decimals, ellipses, quotes and the
terminators of several scripts, and rather leaves two sentences together than cuts one in two. This room adds what a
stream needs: a sentence is given out only when the next one has begun, for "3." may go on with "50" and "Dr." with
"Smith"; and the first piece of a reply is cut at a clause, so that speech begins sooner.

The pieces, put together, are the text: not a character is added, lost or moved.
"""

from __future__ import annotations

import re

import sentencex

from protocol.limits import MAX_PIECE_LENGTH

# Where a clause ends: its mark and the space after it, or the marks of scripts that write no spaces.
_CLAUSE = re.compile(r"[,;:،؛—–](?=\s)\s+|[、，；：]")
# A first piece is at least so many words: one word alone ("Well,") sounds cut off.
FIRST_WORDS = 2
FIRST_CHARACTERS = 4  # for scripts without spaces
LONGEST_PIECE = 400  # characters: half a minute of speech; longer sentences are cut at a clause or between words

assert LONGEST_PIECE <= MAX_PIECE_LENGTH


class SentenceCutter:
    """The text of one reply. `language`: an ISO 639-1 code, for abbreviations; scripts are told apart by themselves."""

    def __init__(self, language: str = "en") -> None:
        self._language = language
        self._text = ""
        self._first = True

    def feed(self, part: str) -> list[str]:
        """Append text; returns the pieces that are complete with it."""
        self._text += part
        pieces: list[str] = []
        sentences = sentencex.segment(self._language, self._text)
        while len(sentences) > 1 and sentences[1].strip():
            pieces.append(sentences.pop(0))
        if pieces:
            self._text = "".join(sentences)
        elif self._first and (end := self._first_clause()):
            pieces.append(self._text[:end])
            self._text = self._text[end:]
        return self._given([*pieces, *self._overlong()])

    def flush(self) -> list[str]:
        """The reply is complete: what is left of it."""
        rest, self._text = self._text, ""
        return self._given([rest] if rest else [])

    def _first_clause(self) -> int:
        """Where the first clause ends, if it is long enough to be spoken alone and something follows; else 0."""
        for match in _CLAUSE.finditer(self._text):
            clause = self._text[: match.start()]
            long_enough = len(clause.split()) >= FIRST_WORDS or (not match[0][1:] and len(clause) >= FIRST_CHARACTERS)
            if long_enough and match.end() < len(self._text):
                return match.end()
        return 0

    def _overlong(self) -> list[str]:
        """A sentence that does not end is given out in parts."""
        pieces = []
        while len(self._text) > LONGEST_PIECE:
            part, self._text = _cut(self._text)
            pieces.append(part)
        return pieces

    def _given(self, pieces: list[str]) -> list[str]:
        out: list[str] = []
        for piece in pieces:
            while len(piece) > LONGEST_PIECE:
                part, piece = _cut(piece)  # noqa: PLW2901  # it is eaten from the front
                out.append(part)
            out.append(piece)
        self._first = self._first and not out
        return out


def _cut(text: str) -> tuple[str, str]:
    """Cut a text that is too long: after the last clause that fits, else the last word, else where it must be."""
    head = text[:LONGEST_PIECE]
    ends = [match.end() for match in _CLAUSE.finditer(head)] or [match.end() for match in re.finditer(r"\s+", head)]
    end = ends[-1] if ends and ends[-1] > 0 else LONGEST_PIECE
    return text[:end], text[end:]
