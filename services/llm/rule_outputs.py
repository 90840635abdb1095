"""What a function returned, as a sentence to speak. Knows JSON, and no function."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from services.llm.rule_arguments import listed
from services.llm.rule_words import name_words

_ERROR = re.compile(r"\s*(?:\w*error|failed)\s*(?::|$)", re.IGNORECASE)
_FAILED = "I am sorry, that did not work"


def spoken_outputs(outputs: Sequence[str]) -> str:
    """The outputs of the functions that were called in one step, one sentence after the other."""
    return " ".join(spoken_output(output) for output in outputs)


def spoken_output(output: str) -> str:
    """One function's output: text as it is, JSON in words, an error with an apology."""
    value: Any = output
    with suppress(ValueError):  # most outputs are plain text
        value = json.loads(output)
    if isinstance(value, dict) and value.get("error"):
        return _apology(_phrase(value["error"]))
    if isinstance(value, str) and (error := _ERROR.match(value)):
        return _apology(value[error.end() :])
    phrase = _phrase(value)
    return sentence(phrase[:1].upper() + phrase[1:]) if isinstance(value, dict) else sentence(phrase)


def sentence(text: str) -> str:
    """The text with something at its end that a voice goes down on."""
    text = text.strip()
    return text if text.endswith((".", "!", "?", "…")) else f"{text}."


def _apology(reason: str) -> str:
    return sentence(f"{_FAILED}: {reason.strip()}") if reason.strip() else f"{_FAILED}."


def _phrase(value: Any) -> str:
    if value is None or value in ("", [], {}):
        return "Done"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{name_words(key) or key}: {_phrase(part)}" for key, part in value.items())
    if isinstance(value, list):
        return listed([_phrase(part) for part in value], "and")
    return str(value).strip()
