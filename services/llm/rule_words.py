"""Words as the rule engine compares them: where they stand, their stems, which carry content, and spelled numbers.

English, and by spelling alone. This room knows nothing of functions, topics or chats.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

MAX_COMPARED = 2_000  # characters of one text that are looked at; nobody says more in one turn

_WORD = re.compile(r"\d+(?:[.,]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)*")
_NAME_PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\dA-Za-z_]+")
_SUFFIXES = ("ations", "ation", "ings", "ing", "ies", "ed", "es", "s")


def _all(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that say nothing of what a sentence is about.
STOP_WORDS = _all(
    """
    a about all also am an and any are as at be because been being but by can could did do does done for from had
    has have he hello her hey hi him his how i if in into is it its just kindly let like may me might more my of off
    on one or our out over please really she should so some than thank thanks that the their them then there these
    they this those to too up us very was we were what when where which who whom whose why will with would you your
    i'm i'd i'll i've it's that's what's where's who's you're we're can't
    """
)
# Verbs that stand in the names of many functions and in most requests: they tell nothing apart.
GENERIC_WORDS = _all(
    """
    call check find get give handle help know look lookup make need now ok okay process run say set show start take talk
    tell today use want
    """
)
REFUSALS = frozenset(("not", "never", "don't", "dont", "won't"))  # of what a sentence asks for
NEGATIONS = REFUSALS | {"no", "without", "cannot", "can't"}  # of the words that follow

_UNITS = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
"""
_TENTHS = "twenty thirty forty fifty sixty seventy eighty ninety"
_SMALL = {word: value for value, word in enumerate(_UNITS.split())}
_TENS = {word: 10 * value for value, word in enumerate(_TENTHS.split(), 2)}
_LARGE = {"hundred": 100, "thousand": 1_000, "million": 1_000_000}


class Word(NamedTuple):
    """One word of a text. `start` and `end` are characters of it."""

    text: str  # in lower case, with straight apostrophes
    stem: str
    start: int
    end: int


class Number(NamedTuple):
    """A number in a run of words: those from `first` to `last`, both included."""

    value: float
    first: int
    last: int


def words(text: str) -> list[Word]:
    """The words of a text, without punctuation."""
    found = []
    for match in _WORD.finditer(text[:MAX_COMPARED]):
        plain = match.group().lower().replace("’", "'")
        found.append(Word(plain, stem(plain), match.start(), match.end()))
    return found


def stem(word: str) -> str:
    """A word without its usual endings: `hours` and `hour`, `billing` and `bill`, `transferred` and `transfer`."""
    word = word.removesuffix("'s")
    for suffix in _SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word.removesuffix(suffix) + ("y" if suffix == "ies" else "")
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "aeiouls":
        word = word[:-1]
    return word.removesuffix("e") if len(word) > 3 else word


def content(found: Sequence[Word]) -> set[str]:
    """The stems of the words that say what a text is about."""
    return {word.stem for word in found if word.text not in STOP_WORDS and word.text not in GENERIC_WORDS}


def name_words(name: str) -> str:
    """An identifier as it is said: `transferToBilling` and `transfer_to_billing` are "transfer to billing"."""
    return " ".join(part.lower() for part in _NAME_PART.findall(name))


def position(found: Sequence[Word], phrase: str) -> int | None:
    """Where the words of `phrase` follow one another in `found`, or None."""
    wanted = [word.stem for word in words(phrase)]
    stems = [word.stem for word in found]
    last = len(stems) - len(wanted)
    return next((at for at in range(last + 1) if wanted and stems[at : at + len(wanted)] == wanted), None)


def numbers(found: Sequence[Word]) -> Iterator[Number]:
    """The numbers in order, as digits ("1,250", "2.5") or spelled ("twenty five", "two hundred and one")."""
    at = 0
    while at < len(found):
        if found[at].text[0].isdigit():
            yield Number(_digits(found[at].text), at, at)
            at += 1
        elif (number := _spelled(found, at)) is not None:
            yield number
            at = number.last + 1
        else:
            at += 1


def _digits(text: str) -> float:
    whole, comma, rest = text.rpartition(",")
    decimal_comma = bool(comma) and "." not in text and "," not in whole and len(rest) != 3
    plain = text.replace(",", "." if decimal_comma else "")
    try:
        return float(plain)
    except ValueError:  # "1.2.3", a date or a version: its first number
        return float(plain.split(".", maxsplit=1)[0])


def _spelled(found: Sequence[Word], first: int) -> Number | None:
    total, part, last, free = 0, 0, None, 100  # `free`: what is added to `part` must be less
    for at in range(first, len(found)):
        word = found[at].text
        if word in _TENS and free == 100:
            part, free = part + _TENS[word], 10
        elif word in _SMALL and (free == 100 or (free == 10 and 0 < _SMALL[word] < 10)):
            part, free = part + _SMALL[word], 0
        elif word in _LARGE and part:
            total, part = (total, part * 100) if word == "hundred" else (total + part * _LARGE[word], 0)
            free = 100
        elif word == "and" and last is not None and found[at - 1].text in _LARGE:
            continue
        else:
            break
        last = at
    return None if last is None else Number(float(total + part), first, last)
