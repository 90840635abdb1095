"""What of a text was heard, when other words were spoken for it: a `tts_node` may spell out, translate or leave out.

Sans I/O. Texts are compared word by word: those that are the same are found in both, what lies between is shared out.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher

_WORD = re.compile(r"\S+\s*")


def as_written(written: str, spoken: str, heard: str, *, complete: bool) -> str:
    """The beginning of `written`, in whole words, that `heard` stands for, the beginning of `spoken`.

    `complete`: no more will be spoken, so that what is left of `written` when all was heard belongs to it.
    """
    if written.startswith(spoken):
        return heard
    words = _WORD.findall(written)
    said = spoken.split()
    number = len(heard.split())
    if number >= len(said) and complete:
        return written.strip()
    return "".join(words[: _reached(said, [word.strip() for word in words], number)]).strip()


def _reached(said: list[str], words: list[str], number: int) -> int:
    """How many of `words` belong to the first `number` of `said`."""
    reached = 0
    for _, first, last, word_first, word_last in SequenceMatcher(None, said, words, autojunk=False).get_opcodes():
        if first >= number:
            break
        if last > number:
            return word_first + (word_last - word_first) * (number - first) // (last - first)
        reached = word_last
    return reached
