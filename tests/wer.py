"""How far what was heard is from what was said: the word error rate, for tests and benchmarks."""

from __future__ import annotations

import re


def normalise(text: str) -> list[str]:
    """The words of a text, without case and punctuation. Apostrophes inside a word stay: "don't" is one word."""
    return re.findall(r"\w+(?:'\w+)*", text.lower().replace("’", "'"))


def word_errors(reference: str, heard: str) -> tuple[int, int]:
    """Least number of words to insert, delete or replace, and the number of words in the reference."""
    said, got = normalise(reference), normalise(heard)
    row = list(range(len(got) + 1))  # distances of the words said so far to every beginning of what was heard
    for i, word in enumerate(said, 1):
        previous, row = row, [i]
        for j, other in enumerate(got, 1):
            row.append(min(previous[j] + 1, row[-1] + 1, previous[j - 1] + (word != other)))
    return row[-1], len(said)


def word_error_rate(reference: str, heard: str) -> float:
    """Errors over words said: 0.0 is perfect, and it may exceed 1.0. When nothing was said: 0.0 or 1.0."""
    errors, words = word_errors(reference, heard)
    return errors / words if words else float(bool(errors))
