"""What the rule engine can say by itself: a few topics of small talk, time and date, and facts from its instructions.

It says what it heard and what it is when it knows nothing: it must never sound as if it had understood. This room
knows nothing of the wire; it is given texts and gives texts.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from services.llm.rule_arguments import listed
from services.llm.rule_outputs import sentence
from services.llm.rule_words import Word, content, words

WHO_I_AM = "I am the built-in rule engine"

_QUOTED_WORDS = 12
_MAX_INSTRUCTIONS = 20_000  # characters that are searched for facts
_MAX_OFFERS = 6  # functions that are named when asked for help
_FACT_SHARE = 0.5  # of the question's content words that a fact must have
_SENTENCE = re.compile(r"(?<=[.!?])\s+|\n+")
_NAME = re.compile(r"\b(?:you are(?: called)?|your name is)\s+([^.,;:!?\n]+)", re.IGNORECASE)
_GREETING = re.compile(r"\s*(good (?:morning|afternoon|evening)|hello|hi|hey)\b", re.IGNORECASE)
# Sentences that tell the agent how to behave are not facts to tell the caller.
_ORDER = re.compile(
    r"\s*(?:you\b|your\b|always|never|do not|don't|be\b|if\b|when\b|ask\b|tell\b|say\b|greet\b|speak\b|answer\b|use\b|"
    r"keep\b|please\b|help\b)",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Situation:
    """What a reply may draw on. `offers`: the functions, as they are said. `now`: local time."""

    heard: str
    instructions: str
    offers: Sequence[str]
    now: datetime
    introduced: bool  # it has already said what it is


def reply(situation: Situation) -> str:
    """The reply to what was heard, in short sentences."""
    heard = situation.heard.strip()
    if not heard:
        return "I did not hear you. Could you say that again?"
    said = words(heard)
    plain = " ".join(word.text for word in said)
    greeting = _GREETING.match(heard)
    opening = f"{greeting[1].capitalize()}! " if greeting else ""
    if (answer := _first(_CLEAR_TOPICS, plain)) is not None:
        return opening + answer(situation)
    rest = words(heard[greeting.end() :]) if greeting else said
    if (fact := _fact(rest, situation.instructions)) is not None:
        return fact
    if (answer := _first(_TOPICS, plain)) is not None:
        return opening + answer(situation)
    if greeting and not content(rest):
        return opening + "How can I help you?"
    return opening + _unknown(situation, heard)


def offered(situation: Situation) -> str:
    """What it can do, with the functions first."""
    offers = [*situation.offers[:_MAX_OFFERS], "tell you the time and the date"]
    return f"I can {listed(offers, 'or')}."


def which(offers: Sequence[str]) -> str:
    """The question when several functions fit what was said."""
    return f"Do you want me to {listed(offers[:_MAX_OFFERS], 'or')}?"


def _fact(said: Sequence[Word], instructions: str) -> str | None:
    """The sentence of the instructions that shares most with the question, if it shares enough."""
    asked = content(said)
    best, most = None, 0
    for line in _SENTENCE.split(instructions[:_MAX_INSTRUCTIONS]):
        shared = 0 if _ORDER.match(line) else len(asked & content(words(line)))
        enough = shared >= _FACT_SHARE * len(asked) if shared > 1 else shared == len(asked)
        if shared > most and enough:
            best, most = sentence(line), shared
    return best


def _time(situation: Situation) -> str:
    now = situation.now
    part = "in the morning" if now.hour < 12 else "in the afternoon" if now.hour < 18 else "in the evening"
    hour = (now.hour - 1) % 12 + 1
    return f"It is {hour} o'clock {part}." if now.minute == 0 else f"It is {hour}:{now.minute:02} {part}."


def _date(situation: Situation) -> str:
    now = situation.now
    return f"Today is {now:%A}, {now:%B} {now.day}, {now.year}."


def _name(situation: Situation) -> str:
    name = _NAME.search(situation.instructions)
    return f"I am {name[1].strip()}." if name else f"{WHO_I_AM} of Antiphon."


def _unknown(situation: Situation, heard: str) -> str:
    parts = heard.split()
    quote = " ".join(parts[:_QUOTED_WORDS]) + (" …" if len(parts) > _QUOTED_WORDS else "")
    if situation.introduced:
        return f"You said: “{quote}” I know nothing about that."
    return f"You said: “{quote}” {WHO_I_AM}, and I know nothing about that. {offered(situation)}"


Answer = Callable[[Situation], str]
Topics = Sequence[tuple[re.Pattern[str], Answer]]


def _topics(*topics: tuple[str, Answer]) -> Topics:
    return [(re.compile(rf"\b(?:{pattern})(?!\S)"), answer) for pattern, answer in topics]


def _first(topics: Topics, plain: str) -> Answer | None:
    return next((answer for pattern, answer in topics if pattern.search(plain)), None)


# Tried in this order, on the words in lower case without punctuation. The first need no look at the instructions; the
# others may be said along with a question that these answer.
_CLEAR_TOPICS = _topics(
    (r"(?:can|do|could) you hear me", lambda _: "Yes, I can hear you."),
    (r"time is it|(?:what's|what is|tell me) the time|the time please$", _time),
    (r"(?:what's|what is|tell me) (?:the|today's) date|(?:what|which) (?:day|date) is (?:it|today)|date is it", _date),
    (r"your name|who are you|what are you(?: called)?$", _name),
    (r"(?:can|could|will|would) you help(?: me)?(?: please)?$", lambda situation: f"Yes. {offered(situation)}"),
    (r"what (?:else )?can you do|what do you do|help(?: me)?(?: please)?$|how can you help", offered),
)
_TOPICS = _topics(
    (r"how are you", lambda _: "I am well, thank you. How can I help you?"),
    (r"good ?bye|bye|see you|good night", lambda _: "Goodbye!"),
    (r"thanks|thank you", lambda _: "You are welcome."),
    (r"^(?:yes|yeah|ok|okay|sure|all right|no|nope)$", lambda _: "All right. What can I do for you?"),
)
