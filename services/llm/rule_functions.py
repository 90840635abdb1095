"""Which offered function a sentence asks for, if it clearly asks for one. By words, without understanding any.

A function is asked for by the words of its name; those of its description and of its parameters only add to that.
What its arguments are, `rule_arguments.py` finds out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from protocol.node import FunctionSchema
from services.llm.rule_arguments import Parameter, parameters_of
from services.llm.rule_words import REFUSALS, STOP_WORDS, Word, content, name_words, words

_SENTENCE_END = re.compile(r"(?<=[.!?])\s|\n")
_MIN_NAME_SHARE = 0.5  # of the words of a function's name that must be said
_MIN_OTHER_WORDS = 2  # of its description and parameters, if none of its name was said
_NAME_WEIGHT = 2


@dataclass(frozen=True)
class Function:
    """An offered function, with what it can be recognised by."""

    schema: FunctionSchema
    parameters: tuple[Parameter, ...]

    @cached_property
    def title(self) -> str:
        """Its name, as one says it."""
        return name_words(self.schema.name)

    @cached_property
    def name_stems(self) -> set[str]:
        """What its name is about; all its words if that is nothing ("check", "start")."""
        found = words(self.title)
        return content(found) or {word.stem for word in found if word.text not in STOP_WORDS}

    @cached_property
    def other_stems(self) -> set[str]:
        """What its description's first sentence and its parameters are about."""
        texts = [_SENTENCE_END.split(self.schema.description, maxsplit=1)[0]]
        for parameter in self.parameters:
            texts += [parameter.title, *parameter.choices]
        return content(words(" . ".join(texts))) - self.name_stems

    def score(self, said: set[str]) -> int:
        """How well it fits what was said; 0 if not clearly."""
        name, other = len(self.name_stems & said), len(self.other_stems & said)
        if name and name >= _MIN_NAME_SHARE * len(self.name_stems):
            return _NAME_WEIGHT * name + other
        return other if not name and other >= _MIN_OTHER_WORDS else 0


def callable_functions(schemas: Iterable[FunctionSchema]) -> list[Function]:
    """The functions whose required arguments can be said: all but those that need an object."""
    functions = []
    for schema in schemas:
        parameters = parameters_of(schema.parameters)
        if all(parameter.kind != "other" for parameter in parameters if parameter.required):
            functions.append(Function(schema, parameters))
    return functions


def asked_for(said: Sequence[Word], functions: Iterable[Function]) -> list[Function]:
    """The functions that fit what was said best: none, the one, or several that fit equally well."""
    if any(word.text in REFUSALS for word in said):
        return []  # "do not cancel it" has all the words of "cancel it"
    stems = {word.stem for word in said}
    scores = [(function.score(stems), function) for function in functions]
    best = max((score for score, _ in scores), default=0)
    return [function for score, function in scores if score == best and best > 0]
