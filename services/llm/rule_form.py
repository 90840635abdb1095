"""The call that a conversation is about: which function, and which of its arguments are still to be asked for.

The engine keeps nothing between two requests, so the conversation is read again from its items: a request that left a
required argument open, our question, the answer to it, and so on.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from protocol.node import ChatItem
from services.llm.rule_arguments import Parameter, bare_answer, find_arguments, read_answer
from services.llm.rule_functions import Function, asked_for
from services.llm.rule_words import content, words

MAX_ITEMS = 40  # of the conversation that are read again; a request with so many open arguments is not for speech

_LEAVE = ("cancel", "stop", "never mind", "nevermind", "forget it", "no thanks", "no thank you")


@dataclass
class Form:
    """A function that was asked for, and the arguments that were said."""

    function: Function
    arguments: dict[str, Any] = field(default_factory=dict)
    misread: bool = False  # the last answer said nothing that the question could take

    @property
    def missing(self) -> Parameter | None:
        """The first required parameter that was not said."""
        required = (each for each in self.function.parameters if each.required)
        return next((each for each in required if each.name not in self.arguments), None)

    def asks(self, text: str) -> bool:
        """Whether `text`, which may have been cut off, is this form's question."""
        missing, heard = self.missing, text.strip()
        return missing is not None and bool(heard) and (missing.question in heard or missing.question.startswith(heard))

    def answer(self, text: str) -> None:
        """Take the answer to the question."""
        missing = self.missing
        value = None if missing is None else read_answer(missing, text)
        self.misread = value is None
        if missing is not None and value is not None:
            self.arguments[missing.name] = value


@dataclass(frozen=True)
class Wanted:
    """What the last thing that the user said is about. All empty: no function."""

    form: Form | None = None
    left: bool = False  # the user does not want it any more
    unclear: Sequence[Function] = ()  # functions that fit equally well


def wanted(chat: Sequence[ChatItem], functions: Iterable[Function]) -> Wanted:
    """What the conversation's last item, which the user said, asks for."""
    offered = list(functions)
    now, asked = Wanted(), ""
    for item in chat[-MAX_ITEMS:]:
        if item.role == "user":
            now, asked = _said(now.form, asked, item.text, offered), ""
        elif item.role == "function" or item.call is not None:
            now, asked = Wanted(), ""
        elif item.role == "assistant":
            asked = item.text
    return now


def _said(form: Form | None, asked: str, text: str, functions: Sequence[Function]) -> Wanted:
    if form is not None and form.asks(asked):
        if " ".join(word.text for word in words(text)).startswith(_LEAVE):
            return Wanted(left=True)
        form.answer(text)
        if not form.misread:
            return Wanted(form)
    said = words(text)
    fitting = asked_for(said, functions)
    if form is not None and form.misread and len(fitting) != 1:
        return Wanted(form)  # ask again
    if not fitting:
        return Wanted(_answered(asked, text, functions))
    if len(fitting) > 1:
        return Wanted(unclear=fitting)
    function, stems = fitting[0], {word.stem for word in said}
    matched = function.name_stems & stems or function.other_stems & stems
    return Wanted(Form(function, find_arguments(function.parameters, text, matched)))


def _answered(asked: str, text: str, functions: Sequence[Function]) -> Form | None:
    """The only function that takes what was said as an argument, if what was asked before is about that function."""
    about = content(words(asked))
    forms = [
        Form(function, {parameter.name: value})
        for function in functions
        if about & (function.name_stems | function.other_stems)
        for parameter in function.parameters
        if parameter.required and (value := bare_answer(parameter, text)) is not None
    ]
    return forms[0] if len(forms) == 1 else None
