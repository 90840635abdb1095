"""What the tests of AI functions describe and call: a class with some, types of every kind, and short ways to ask.

Annotations are strings here, and CallContext is imported for the type checker alone, as linters make users write it.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest
from pydantic import BaseModel

from orchestrator.function_marks import definition_of
from orchestrator.functions import AIError, AIFunction, InvalidArguments, ai_function, as_ai_function
from orchestrator.functions import CallContext as Context
from tests.support import run_async

if TYPE_CHECKING:
    from orchestrator.functions import CallContext

Day = Literal["Monday", "Tuesday"]


class Size(enum.Enum):
    SMALL = "small"
    LARGE = "large"


class Dish(BaseModel):
    """Something to eat."""

    name: str
    size: Size = Size.SMALL
    title: str | None = None


class Part(BaseModel):
    name: str
    parts: list[Part] = []


class Strict(BaseModel, strict=True):
    on: datetime.date


@dataclasses.dataclass
class Address:
    street: str
    number: int


class Receptionist:
    """A class with AI functions; that of the orchestrator's tasks is not needed for them."""

    def __init__(self, hotel: str = "Ritz") -> None:
        self.hotel = hotel

    @property
    def agent(self) -> Any:
        raise RuntimeError("not running")

    @ai_function
    async def book(self, context: CallContext, day: Day, guests: int = 2) -> str:
        """Book a table.

        Only for today's guests.

        Args:
            day: The day of the
                week.
            guests: How many come.

        Returns:
            What to tell them.
        """
        return f"{self.hotel}: {guests} on {day} for {context.userdata}"

    @ai_function(name="cancel-booking", description="Cancel it.", timeout=2.5)
    def cancel(self) -> None:
        """Not told."""

    @staticmethod
    @ai_function
    def opening_hours(day: Day = "Monday") -> str:
        return f"{day}: all day"

    @classmethod
    @ai_function
    def kind(cls, polite: bool) -> str:
        return f"{cls.__name__} {polite}"

    def helper(self, untyped) -> None:  # type: ignore[no-untyped-def]
        """Not for the LLM."""


class Concierge(Receptionist):
    @ai_function
    def taxi(self, size: Size) -> str:
        return f"a {size.value} taxi"

    @ai_function
    async def book(self, context: CallContext, day: Day, guests: int = 2) -> str:
        return "by the concierge"

    def cancel(self) -> None:
        """No longer offered."""


@ai_function
async def weather(city: str) -> str:
    """Tell the weather."""
    return f"sunny in {city}"


def call_context(userdata: Any = None) -> Context:
    anything = cast(Any, None)
    agent = cast(Any, SimpleNamespace(userdata=userdata))
    return Context(agent=agent, task=anything, function_call=anything, speech_handle=anything)


def of(function: Callable[..., Any]) -> AIFunction:
    return as_ai_function(function if definition_of(function) else ai_function(function))


def properties(function: Callable[..., Any]) -> Any:
    return of(function).parameters["properties"]


def refusal(function: Callable[..., Any]) -> str:
    """Of a function that an LLM cannot be told of."""
    with pytest.raises(TypeError) as refused:
        of(function)
    return str(refused.value)


def wrong(function: Callable[..., Any], arguments: str) -> str:
    """What an LLM that gave these arguments is told."""
    with pytest.raises(InvalidArguments) as refused:
        of(function).parse(arguments)
    assert isinstance(refused.value, AIError)
    return refused.value.message


def called(function: AIFunction, arguments: str = "", userdata: Any = None) -> Any:
    return run_async(function.invoke(call_context(userdata), function.parse(arguments)))
