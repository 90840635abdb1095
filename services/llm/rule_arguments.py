"""A function's arguments, taken from the words that were said. What was not said is asked for, never made up.

Knows JSON schemas as far as speech can fill them: choices, numbers, yes and no, text, and lists of choices or text.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from services.llm.rule_words import MAX_COMPARED, NEGATIONS, Number, Word, content, name_words, numbers, position, words

Kind = Literal["choice", "integer", "number", "boolean", "text", "choices", "texts", "other"]

_KINDS: dict[str, Kind] = {"integer": "integer", "number": "number", "boolean": "boolean", "string": "text"}
_QUOTED = re.compile(r"\"([^\"]+)\"|“([^”]+)”|«([^»]+)»")
_LIST_SEPARATOR = re.compile(r"\s*,\s*(?:and\s+)?|\s+and\s+", re.IGNORECASE)
# What comes before the thing itself: "about my invoice", "because it is late", "it is Monday".
_LEAD = re.compile(
    r"(?:[\s,:;.-]+|(?:please|me|us|him|her|now|for|to|about|because|that|of|in|at|on|with|from|by|as|under|called|named|"
    r"saying|which|it|it's|its|is|are|was|be|the|a|an|my|i'm|am|and|so)\b)+",
    re.IGNORECASE,
)
_ANSWER_LEAD = re.compile(r"(?:it is|it's|that is|that's|i am|i'm|because|the \w+ is|my \w+ is)\s+", re.IGNORECASE)
_KEPT = frozenset(("my", "the", "a", "an", "that", "it", "its", "it's", "i'm", "which"))  # may begin the thing itself
_TRAILING = re.compile(r"[\s,;:]*(?:,?\s*\bplease\b)?[\s.,;:!?]*$", re.IGNORECASE)
_YES = frozenset(("yes", "yeah", "yep", "sure", "true", "correct", "right", "ok", "okay", "please", "definitely"))
_NO = NEGATIONS | {"nope", "false", "wrong"}
_EMPTY = object()


@dataclass(frozen=True)
class Parameter:
    """One parameter of a function. `choices`: what its values are called, in the order of `values`."""

    name: str
    title: str
    kind: Kind
    required: bool
    values: tuple[Any, ...] = ()

    @property
    def choices(self) -> list[str]:
        """The allowed values, as one says them."""
        return [_said(value) for value in self.values]

    @property
    def question(self) -> str:
        """What to ask when it was not said."""
        if self.kind in ("choice", "choices") and self.values:
            return f"Which {self.title}: {listed(self.choices, 'or')}?"
        if self.kind == "boolean":
            return f"{self.title.capitalize()}: yes or no?"
        return f"What {'are' if self.kind == 'texts' else 'is'} the {self.title}?"


def parameters_of(schema: Mapping[str, Any]) -> tuple[Parameter, ...]:
    """The parameters of a JSON schema of type object; what it has that speech cannot fill is of kind "other"."""
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return ()
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    return tuple(_parameter(name, part, name in names, schema) for name, part in properties.items())


def find_arguments(parameters: Sequence[Parameter], text: str, matched: set[str]) -> dict[str, Any]:
    """The arguments that `text` says. `matched`: the stems by which its function was recognised."""
    text = text[:MAX_COMPARED]
    said = words(text)
    found: dict[str, Any] = {}
    free = list(numbers(said))
    for parameter in sorted(parameters, key=lambda parameter: _place(said, parameter.title) is None):
        value = _structured(parameter, said, free)
        if value is _EMPTY and parameter.kind in ("text", "texts"):
            value = _named_text(parameter, text, said)
        if value is not _EMPTY:
            found[parameter.name] = value
    _give_the_rest(parameters, text, said, matched, found)
    return {parameter.name: found[parameter.name] for parameter in parameters if parameter.name in found}


def read_answer(parameter: Parameter, text: str) -> Any | None:
    """The value that an answer to the parameter's question gives, or None."""
    text = text[:MAX_COMPARED]
    said = words(text)
    if parameter.kind == "boolean":
        return _yes_or_no(said)
    if parameter.kind in ("text", "texts"):
        quoted = _quoted(text)
        plain = _TRAILING.sub("", _ANSWER_LEAD.sub("", text.strip(), count=1)) if quoted is None else quoted
        return (_split(plain) if parameter.kind == "texts" else plain) or None
    value = _structured(parameter, said, list(numbers(said)))
    return None if value is _EMPTY else value


def bare_answer(parameter: Parameter, text: str) -> Any | None:
    """The value of the parameter, if the text says that and nothing else ("A large one, please."); or None."""
    if parameter.kind in ("text", "texts", "other") or (value := read_answer(parameter, text)) is None:
        return None
    said = words(text[:MAX_COMPARED])
    meant = {word.stem for word in words(parameter.title)}
    if parameter.kind in ("choice", "choices"):
        values = value if isinstance(value, list) else [value]
        meant |= {word.stem for each in values for word in words(_said(each))}
    elif parameter.kind == "boolean":
        meant |= {word.stem for word in said if word.text in _YES or word.text in _NO}
    else:
        number = next(numbers(said))
        meant |= {word.stem for word in said[number.first : number.last + 1]}
    return value if content(said) <= meant else None


def listed(parts: Sequence[str], last: str) -> str:
    """Parts as one says them: "a, b and c"."""
    return f" {last} ".join(part for part in (", ".join(parts[:-1]), *parts[-1:]) if part)


def _parameter(name: str, part: Any, required: bool, root: Mapping[str, Any]) -> Parameter:
    schema = _resolved(part, root)
    title = name_words(name) or name
    if isinstance(schema.get("enum"), list):
        values = tuple(value for value in schema["enum"] if value is not None)
        return Parameter(name, title, "choice", required, values)
    if "const" in schema:
        return Parameter(name, title, "choice", required, (schema["const"],))
    if schema.get("type") == "array":
        items = _parameter(name, schema.get("items", {}), required, root)
        kinds: dict[Kind, Kind] = {"choice": "choices", "text": "texts"}
        return Parameter(name, title, kinds.get(items.kind, "other"), required, items.values)
    return Parameter(name, title, _KINDS.get(str(schema.get("type")), "other"), required)


def _resolved(part: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """A property's schema without references, null and alternatives: the first that is left of them."""
    for _ in range(8):  # deep enough for what is written by hand or by pydantic, and no circle is endless
        if not isinstance(part, dict):
            return {}
        options = part.get("anyOf") or part.get("oneOf") or part.get("allOf")
        if isinstance(part.get("$ref"), str):
            definitions = root.get("$defs") or root.get("definitions") or {}
            part = definitions.get(part["$ref"].rpartition("/")[2], {})
        elif isinstance(options, list):
            part = next((option for option in options if option != {"type": "null"}), {})
        elif isinstance(part.get("type"), list):
            part = {**part, "type": next((kind for kind in part["type"] if kind != "null"), "")}
        else:
            return part
    return {}


def _structured(parameter: Parameter, said: Sequence[Word], free: list[Number]) -> Any:
    """The value of a parameter that can be recognised by itself, or `_EMPTY`. A number that is used leaves `free`."""
    if parameter.kind in ("choice", "choices"):
        mentioned = _mentioned(parameter, said)
        if parameter.kind == "choices":
            return mentioned or _EMPTY
        return mentioned[0] if len(mentioned) == 1 else _EMPTY
    if parameter.kind in ("integer", "number"):
        return _number(parameter, said, free)
    if parameter.kind == "boolean" and (at := _place(said, parameter.title)) is not None:
        return not any(word.text in NEGATIONS for word in said[max(at - 2, 0) : at])
    return _EMPTY


def _mentioned(parameter: Parameter, said: Sequence[Word]) -> list[Any]:
    """The values that were said, in that order; not "large" where "extra large" was."""
    spans = []
    for value in parameter.values:
        name = _said(value)
        if (at := position(said, name)) is not None:
            spans.append((at, at + len(words(name)), value))
    inside = [
        any(other is not span and other[0] <= span[0] and span[1] <= other[1] for other in spans) for span in spans
    ]
    kept = [span for span, covered in zip(spans, inside, strict=True) if not covered]
    return [value for _, _, value in sorted(kept, key=lambda span: span[0])]


def _number(parameter: Parameter, said: Sequence[Word], free: list[Number]) -> Any:
    fitting = [number for number in free if parameter.kind == "number" or number.value.is_integer()]
    if not fitting:
        return _EMPTY
    at = _place(said, parameter.title)
    number = fitting[0] if at is None else min(fitting, key=lambda number: abs(number.first - at))
    free.remove(number)
    return int(number.value) if number.value.is_integer() else number.value


def _place(said: Sequence[Word], title: str) -> int | None:
    """Where a parameter's name was said: as a whole, else its last word ("size" of "party size")."""
    at = position(said, title)
    return position(said, title.split()[-1]) if at is None and title else at


def _named_text(parameter: Parameter, text: str, said: Sequence[Word]) -> Any:
    """What follows "<name> is", "<name>:" or "<name> equals"."""
    at = _place(said, parameter.title)
    if at is None:
        return _EMPTY
    rest = re.match(r"\s*(?::|=|\b(?:is|are|equals|will be|should be)\b)\s*(.+)", text[said[at].end :], re.DOTALL)
    plain = _TRAILING.sub("", rest[1]) if rest else ""
    return (_split(plain) if parameter.kind == "texts" else plain) or _EMPTY


def _give_the_rest(
    parameters: Sequence[Parameter], text: str, said: Sequence[Word], matched: set[str], found: dict[str, Any]
) -> None:
    """Give what was quoted, or what follows the function's words, to the one text that is required and still open."""
    empty = [each for each in parameters if each.kind in ("text", "texts") and each.name not in found]
    required = [each for each in empty if each.required]
    quoted = _quoted(text)
    open_texts = required or (empty if quoted is not None else [])
    if len(open_texts) != 1:
        return
    rest = _after(text, said, matched) if quoted is None else quoted
    if rest:
        found[open_texts[0].name] = _split(rest) if open_texts[0].kind == "texts" else rest


def _after(text: str, said: Sequence[Word], matched: set[str]) -> str:
    ends = [word.end for word in said if word.stem in matched]
    rest = text[ends[-1] :] if ends else ""
    lead = _LEAD.match(rest)
    if lead:
        # "about my invoice": the last small word belongs to the thing, if one may begin with it.
        before = lead.group().split()
        kept = f"{before[-1]} " if before and before[-1].lower() in _KEPT else ""
        rest = kept + rest[lead.end() :] if rest[lead.end() :].strip(" .,!?") else ""
    return _TRAILING.sub("", rest)


def _quoted(text: str) -> str | None:
    match = _QUOTED.search(text)
    return next(part for part in match.groups() if part) if match else None


def _split(text: str) -> list[str]:
    return [part for part in _LIST_SEPARATOR.split(text) if part]


def _yes_or_no(said: Sequence[Word]) -> bool | None:
    for word in said:
        if word.text in _YES or word.text in _NO:
            return word.text in _YES
    return None


def _said(value: Any) -> str:
    return name_words(value) or value if isinstance(value, str) else str(value)
