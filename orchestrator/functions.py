"""AI functions: what the LLM may call. Finds them on a task, offers them in a reply, and calls them.

Knows nothing of how a call is asked for, timed, logged or answered.
"""

from __future__ import annotations

import asyncio
import enum
import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from orchestrator.function_marks import Definition, definition_of
from orchestrator.function_marks import ai_function as ai_function
from orchestrator.function_schema import AIError as AIError
from orchestrator.function_schema import InvalidArguments as InvalidArguments
from orchestrator.function_schema import located
from protocol.node import FunctionSchema

if TYPE_CHECKING:
    from orchestrator.agent import VoiceAgent
    from orchestrator.chat import FunctionCall
    from orchestrator.speech_handle import SpeechHandle
    from orchestrator.task import AgentTask


class StopResponse(Exception):
    """Raise it in `on_end_of_turn`: the user's message stays in the chat context, and no reply is made to it."""


@dataclass(frozen=True, slots=True)
class CallContext:
    """What a call knows of its surroundings. A parameter of this type is filled in, and the LLM is not told of it."""

    agent: VoiceAgent
    task: AgentTask
    function_call: FunctionCall
    speech_handle: SpeechHandle

    @property
    def userdata(self) -> Any:
        """The agent's `userdata`."""
        return self.agent.userdata


class AIFunction:
    """A function that can be offered to the LLM; of a method, with its instance. `functions_of` makes them.

    `parameters` is a JSON schema of type object; it is shared, so do not change it. `timeout`: seconds; None: the
    agent's. `is_async`: it runs on the event loop, not in a thread.
    """

    __slots__ = ("_parameters", "_target", "description", "is_async", "name", "timeout", "where")

    def __init__(self, definition: Definition, target: Callable[..., Any]) -> None:
        self._target = target
        self._parameters = definition.parameters(target, CallContext)
        self.name = definition.name
        given = definition.description
        self.description = self._parameters.description if given is None else given
        self.timeout = definition.timeout
        self.is_async = inspect.iscoroutinefunction(target)
        self.where = located(definition.function)

    def __repr__(self) -> str:
        return f"<AIFunction {self.name}: {self.where}>"

    @property
    def parameters(self) -> dict[str, Any]:
        """The JSON schema of the arguments."""
        return self._parameters.schema

    @property
    def schema(self) -> FunctionSchema:
        """What an LLM node is told."""
        return FunctionSchema(self.name, self.description, self.parameters)

    def parse(self, arguments_json: str) -> dict[str, Any]:
        """The keyword arguments that the LLM wrote, as the types that the function wants.

        Lax, as pydantic means it: "3" is taken for 3. Raises `InvalidArguments`, whose text is for the LLM.
        """
        return self._parameters.parse(arguments_json)

    async def invoke(self, context: CallContext, arguments: dict[str, Any]) -> Any:
        """Call it with what `parse` gave, and return or raise what it does.

        Cancellation ends an async function. A thread cannot be ended: the await returns at once, and the function goes
        on by itself, its result unheard.
        """
        keywords = {**arguments, **dict.fromkeys(self._parameters.filled, context)}
        result = self._target(**keywords) if self.is_async else await asyncio.to_thread(self._in_thread, keywords)
        # A plain decorator around an async function returns its coroutine. Not any awaitable: an InlineTask is one.
        return await result if inspect.iscoroutine(result) else result

    def _in_thread(self, keywords: dict[str, Any]) -> Any:
        try:
            return self._target(**keywords)
        except StopIteration as error:  # no future can hold one: the call would never end
            raise RuntimeError(f"{self.where} raised StopIteration: give next() a default") from error


class FunctionContext:
    """The functions that are offered in one reply, in order: `name in functions`, `functions[name]`, iteration, len.

    Never changes: `only` and `without` make new ones. Raises ValueError for two functions of one name.
    """

    def __init__(self, functions: Iterable[AIFunction] = ()) -> None:
        self._functions: dict[str, AIFunction] = {}
        for function in functions:
            other = self._functions.setdefault(function.name, function)
            if other is not function:
                raise ValueError(
                    f"two AI functions are called {function.name!r}: {other.where} and {function.where}. "
                    "Give one of them another with @ai_function(name=…)"
                )

    def __iter__(self) -> Iterator[AIFunction]:
        return iter(self._functions.values())

    def __len__(self) -> int:
        return len(self._functions)

    def __contains__(self, name: object) -> bool:
        return name in self._functions or name in self._functions.values()

    def __getitem__(self, name: str) -> AIFunction:
        if name not in self._functions:
            raise KeyError(self._unknown(name))
        return self._functions[name]

    def __repr__(self) -> str:
        return f"FunctionContext({', '.join(self._functions)})"

    def only(self, *names: str) -> FunctionContext:
        """These functions alone, in the order that they have here. Raises ValueError for a name that is not here."""
        self._check(names)
        return FunctionContext(function for function in self if function.name in names)

    def without(self, *names: str) -> FunctionContext:
        """All but these. Raises ValueError for a name that is not here."""
        self._check(names)
        return FunctionContext(function for function in self if function.name not in names)

    def schemas(self) -> list[FunctionSchema]:
        """What an LLM node is told of them."""
        return [function.schema for function in self]

    def _check(self, names: tuple[str, ...]) -> None:
        for name in names:
            if name not in self:
                raise ValueError(self._unknown(name))

    def _unknown(self, name: object) -> str:
        return f"there is no AI function {name!r}; there are: {', '.join(self._functions) or 'none'}"


def functions_of(instance: object) -> list[AIFunction]:
    """The AI functions among an instance's methods, those of base classes first, each in the order of definition.

    One that a subclass overrides keeps its place; if the override is not decorated, it is not offered. Raises TypeError
    for a parameter that an LLM cannot be told of.
    """
    classes = reversed(type(instance).__mro__)
    names = dict.fromkeys(name for cls in classes for name, value in vars(cls).items() if definition_of(value))
    # Looked up on the class first: getting a property would run it.
    offered = [name for name in names if definition_of(inspect.getattr_static(type(instance), name))]
    return [as_ai_function(getattr(instance, name)) for name in offered]


def as_ai_function(function: object) -> AIFunction:
    """What `ai_functions=[…]` takes: a decorated function, or an AIFunction as it is. Raises TypeError for all else."""
    if isinstance(function, AIFunction):
        return function
    definition = definition_of(function)
    if definition is not None and callable(function):
        return AIFunction(definition, function)
    if inspect.isfunction(function) or inspect.ismethod(function):
        raise TypeError(f"{located(function)} is no AI function: put @ai_function above its def")
    raise TypeError(f"ai_functions takes functions that are decorated with @ai_function, not {function!r}")


def encode_output(value: object) -> str:
    """What the LLM is told of a function's return value: text as it is, None as "", anything else as JSON.

    Takes what pydantic can write: numbers, lists, dicts, dataclasses, pydantic models, enums (their values), dates and
    the like. Raises TypeError, which names the type, for anything else.
    """
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None:
        return ""
    try:
        encoded = to_json(value, inf_nan_mode="strings").decode()
    except ValueError as error:
        raise TypeError(
            f"a value of type {type(value).__module__}.{type(value).__qualname__} cannot be told to the LLM: {error}. "
            "Return text, numbers, lists, dicts, dataclasses or pydantic models"
        ) from error
    return value if isinstance(value, str) else encoded
