"""What a scripted LLM says, request by request. Knows nothing of nodes or of time: `llm.py` plays it.

Script(
    "Good morning.",                                    # a string is said, word by word
    step(says("Let me look."), calls("find", name="Ann")),
    lambda chat, functions: says(f"You said {chat[-1].text}."),
    fails("the model is down"),
)
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from protocol.errors import AntiphonError, Category, EngineError
from protocol.node import ChatItem, FunctionCall, FunctionSchema, Generate

_WORD = re.compile(r"\s*\S+\s*")
_SHOWN = 200  # characters of an item that an error repeats


class Unscripted(AntiphonError):
    """The simulation was asked for something that the test has not said: the test is to be mended, or the agent."""

    code = "unscripted"


@dataclass(frozen=True, slots=True)
class Says:
    """Text, as it streams: the first chunk `after_s`, each further one `every_s` after the one before it."""

    chunks: tuple[str, ...]
    after_s: float = 0.0
    every_s: float | None = None  # None: as the simulated llm's `pace_s` says


@dataclass(frozen=True, slots=True)
class Calls:
    """A function that is called. `arguments` is JSON text, or what a confused LLM takes for it."""

    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing, for so long."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Fails:
    """The stream ends with this error."""

    error: AntiphonError


@dataclass(frozen=True, slots=True)
class Hangs:
    """The stream never ends."""


Part = Says | Calls | Pause | Fails | Hangs


@dataclass(frozen=True, slots=True)
class Step:
    """The answer to one request, part by part."""

    parts: tuple[Part, ...]


Chooser = Callable[[list[ChatItem], list[FunctionSchema]], "Step | Part | str"]


def says(*text: str, after: float = 0.0, every: float | None = None) -> Says:
    """Say this. One string is streamed word by word; of several, each is a chunk.

    `after`: seconds before the first chunk. `every`: seconds between two; unless told, the simulated llm's `pace_s`.
    """
    return Says(text if len(text) > 1 else tuple(_words("".join(text))), after, every)


def calls(name: str, /, **arguments: Any) -> Calls:
    """Call this function. Raises `TypeError` for an argument that JSON can't hold."""
    for argument, value in arguments.items():
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"calls({name!r}): the argument {argument} is {value!r}, which an LLM can't write as JSON ({error})"
            ) from None
    return Calls(name, json.dumps(arguments, ensure_ascii=False))


def calls_raw(name: str, arguments: str) -> Calls:
    """Call this function with this text in place of JSON: what a confused LLM may write."""
    return Calls(name, arguments)


def pause(seconds: float) -> Pause:
    """Wait, in the middle of a step."""
    return Pause(seconds)


def fails(error: AntiphonError | str, category: Category = "retryable") -> Fails:
    """Fail with this error; with a sentence alone, as an engine fails (`EngineError` of this category)."""
    return Fails(EngineError(error, category=category) if isinstance(error, str) else error)


def hangs() -> Hangs:
    """Say nothing more, and never end."""
    return Hangs()


def step(*parts: Part | str) -> Step:
    """One answer of several parts: `step(says("One moment."), calls("find", name="Ann"), calls("count"))`."""
    return _step(parts)


@dataclass(frozen=True, slots=True)
class Request:
    """What the LLM was asked."""

    chat: list[ChatItem]  # all of it, the instructions included
    functions: list[FunctionSchema]

    @property
    def instructions(self) -> str:
        """The system message that the chat begins with; "" if it does not."""
        return self.chat[0].text if self.chat and self.chat[0].role == "system" else ""

    def __str__(self) -> str:
        if not self.chat:
            return "an empty chat"
        last = self.chat[-1]
        said = f"a call of {last.call.name}({last.call.arguments})" if last.call is not None else repr(last.text)
        return f"the last item of the chat is {said[:_SHOWN]} of the role {last.role!r}"


class Script:
    """A queue of steps, one for each request; `append` more at any time. Keeps what was asked in `requests`.

    A step is a `Step`, a part, a string, or a function of `(chat, functions)` that returns one of these. `otherwise`
    answers when no step is left; without it that is an error, `Unscripted`.
    """

    def __init__(self, *steps: Step | Part | str | Chooser, otherwise: Chooser | None = None) -> None:
        self.requests: list[Request] = []
        self._steps: deque[Step | Part | str | Chooser] = deque(steps)
        self._otherwise = otherwise
        self._calls = 0

    @property
    def left(self) -> int:
        """Steps that were not asked for yet."""
        return len(self._steps)

    def append(self, *steps: Step | Part | str | Chooser) -> None:
        """Add steps after those that there are."""
        self._steps.extend(steps)

    def answer(self, asked: Generate) -> Step:
        """The step for this request. Raises `Unscripted` when none is left, and what a function of the test raises."""
        request = Request(asked.chat, asked.functions)
        self.requests.append(request)
        if self._steps:
            chosen = self._steps.popleft()
        elif self._otherwise is not None:
            chosen = self._otherwise
        else:
            raise Unscripted(
                f"the script has no step for request {len(self.requests)} of the LLM; {request}. "
                f"Append one to the script, or find out why the agent asks"
            )
        if callable(chosen):
            chosen = chosen(list(request.chat), list(request.functions))
        return chosen if isinstance(chosen, Step) else _step((chosen,))

    def call(self, part: Calls) -> FunctionCall:
        """The call as it travels. Ids are `call_1`, `call_2`, … in the order of the calls of the whole script."""
        self._calls += 1
        return FunctionCall(f"call_{self._calls}", part.name, part.arguments)


def _step(parts: tuple[Any, ...]) -> Step:
    for part in parts:
        if not isinstance(part, Part | str):
            raise TypeError(f"a step of a script holds says(…), calls(…), fails(…) and the like, not {part!r}")
    return Step(tuple(says(part) if isinstance(part, str) else part for part in parts))


def _words(text: str) -> list[str]:
    return _WORD.findall(text) or ([text] if text else [])
