"""Assertions over what happened in a call, in order."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, Self

from orchestrator.chat import ChatMessage, FunctionCall, FunctionOutput, Handoff
from protocol.errors import AntiphonError

Text = str | re.Pattern[str] | None


class Expect:
    """A cursor over the items of a conversation. Each assertion looks at the next one, and returns this object.

    A text is compared as a whole, a compiled pattern is searched for, None allows any. What differs is told with all
    that happened.
    """

    def __init__(self, happened: list[Any]) -> None:
        self._happened = happened
        self._next = 0

    def message(self, text: Text = None, *, role: str = "assistant", interrupted: bool | None = None) -> Self:
        """The agent said this, as the caller heard it."""

        def fits(item: Any) -> bool:
            if not isinstance(item, ChatMessage) or item.role != role or not _same(text, item.text):
                return False
            return interrupted is None or item.interrupted is interrupted

        cut = "" if interrupted is None else " that was cut off" if interrupted else " that was not cut off"
        return self._take(f"a message of the {role}{_about(text)}{cut}", fits)

    def user(self, text: Text = None) -> Self:
        """The user said this."""
        return self.message(text, role="user")

    def function_call(self, name: str | None = None, **arguments: Any) -> Self:
        """The LLM called this function, with at least these arguments."""

        def fits(item: Any) -> bool:
            if not isinstance(item, FunctionCall) or name not in (None, item.name):
                return False
            given = json.loads(item.arguments or "{}") if arguments else {}
            return all(key in given and given[key] == value for key, value in arguments.items())

        with_ = f" with {arguments}" if arguments else ""
        return self._take(f"a call of {name or 'a function'}{with_}", fits)

    def function_output(self, output: Text = None, *, name: str | None = None, is_error: bool | None = None) -> Self:
        """A function gave this back to the LLM."""

        def fits(item: Any) -> bool:
            if not isinstance(item, FunctionOutput) or name not in (None, item.name):
                return False
            return _same(output, item.output) and is_error in (None, item.is_error)

        kind = "" if is_error is None else " that is an error" if is_error else " that is no error"
        return self._take(f"an output of {name or 'a function'}{_about(output)}{kind}", fits)

    def handoff(self, to: type | str | None = None, *, from_: type | str | None = None) -> Self:
        """Another task became the current one."""
        wanted, before = _class(to), _class(from_)

        def fits(item: Any) -> bool:
            if not isinstance(item, Handoff) or wanted not in (None, item.to_task):
                return False
            return before in (None, item.from_task)

        return self._take(f"a handoff{f' from {before}' if before else ''} to {wanted or 'another task'}", fits)

    def error(self, code: str | None = None, text: Text = None) -> Self:
        """The client was told of an error."""
        return self._take(
            f"an error {code or ''}{_about(text)}",
            lambda item: isinstance(item, AntiphonError) and code in (None, item.code) and _same(text, str(item)),
        )

    def nothing_more(self) -> Self:
        """Nothing else has happened so far."""
        if self._next < len(self._happened):
            raise AssertionError(f"expected nothing more; {self.told()}")
        return self

    def skip(self, number: int | None = None) -> Self:
        """Look past the next so many items; without a number, past all that there are."""
        self._next = len(self._happened) if number is None else self._next + number
        return self

    def told(self) -> str:
        """What happened, with the place of the cursor."""
        if not self._happened:
            return "nothing happened"
        lines = [
            f"{'->' if number == self._next else '  '} {_show(item)}" for number, item in enumerate(self._happened)
        ]
        if self._next >= len(self._happened):
            lines.append("-> (nothing more)")
        return "what happened:\n" + "\n".join(lines)

    def _take(self, wanted: str, fits: Callable[[Any], bool]) -> Self:
        if self._next >= len(self._happened) or not fits(self._happened[self._next]):
            raise AssertionError(f"expected {wanted}; {self.told()}")
        self._next += 1
        return self


def _same(wanted: Text, text: str) -> bool:
    if wanted is None:
        return True
    return wanted.search(text) is not None if isinstance(wanted, re.Pattern) else wanted == text


def _about(text: Text) -> str:
    if text is None:
        return ""
    return f" matching {text.pattern!r}" if isinstance(text, re.Pattern) else f" {text!r}"


def _class(task: type | str | None) -> str | None:
    return task.__name__ if isinstance(task, type) else task


def _show(item: Any) -> str:
    match item:
        case ChatMessage(role, text, interrupted):
            return f"{role}: {text!r}{' (interrupted)' if interrupted else ''}"
        case FunctionCall(name, arguments):
            return f"function_call: {name}({arguments})"
        case FunctionOutput(_, name, output, is_error):
            return f"function_output: {name} -> {'error ' if is_error else ''}{output!r}"
        case Handoff(before, to):
            return f"handoff: {before} -> {to}"
        case AntiphonError():
            return f"error: {item.code}: {item}"
    return repr(item)
