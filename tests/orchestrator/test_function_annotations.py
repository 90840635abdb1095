"""AI functions whose annotations are not strings, as in a module without `from __future__ import annotations`."""

import dataclasses
import enum
from typing import Annotated, Any, Literal, Optional, cast

import pytest
import typing_extensions
from pydantic import BaseModel, Field

from orchestrator.functions import CallContext, ai_function, as_ai_function, functions_of
from tests.support import run_async


class Later(typing_extensions.TypedDict):
    """A dict whose keys are known."""

    name: str
    count: typing_extensions.NotRequired[int]


def test_types_that_are_local_to_a_function_are_found() -> None:
    class Colour(enum.Enum):
        RED = "red"

    class Thing(BaseModel):
        name: str

    @dataclasses.dataclass
    class Box:
        things: list[Thing]

    class Shop:
        @ai_function
        def pack(self, around: CallContext, colour: Colour, box: Box, mark: Literal["a"] = "a") -> tuple[str, str, str]:
            return colour.value, box.things[0].name, mark

    (pack,) = functions_of(Shop())
    assert list(pack.parameters["properties"]) == ["colour", "box", "mark"]
    arguments = pack.parse('{"colour": "red", "box": {"things": [{"name": "hat"}]}}')
    assert run_async(pack.invoke(cast(Any, None), arguments)) == ("red", "hat", "a")


def test_a_context_may_be_written_as_text_or_as_optional() -> None:
    @ai_function
    async def written(n: int, context: "CallContext", other: Optional[CallContext] = None) -> Any:  # noqa: UP045
        return n, context, other

    context = cast(Any, object())
    function = as_ai_function(written)
    assert list(function.parameters["properties"]) == ["n"]
    assert run_async(function.invoke(context, function.parse('{"n": 1}'))) == (1, context, context)


def test_a_typed_dict_is_told_and_checked() -> None:
    @ai_function
    def order(what: Later, more: "list[Later]") -> None: ...

    function = as_ai_function(order)
    assert function.parameters["properties"]["what"] == {
        "type": "object",
        "description": "A dict whose keys are known.",
        "properties": {"name": {"type": "string"}, "count": {"type": "integer"}},
        "required": ["name"],
    }
    assert function.parse('{"what": {"name": "x", "count": "3"}, "more": []}')["what"] == {"name": "x", "count": 3}


def test_annotated_limits_are_told_and_checked() -> None:
    @ai_function
    def rate(stars: Annotated[int, Field(ge=1, le=5, description="How good it was.")] = 5) -> int:
        return stars

    function = as_ai_function(rate)
    assert function.parameters["properties"]["stars"] == {
        "type": "integer",
        "minimum": 1,
        "maximum": 5,
        "description": "How good it was.",
        "default": 5,
    }
    assert run_async(function.invoke(cast(Any, None), function.parse("{}"))) == 5


def test_a_text_that_names_nothing_is_told_as_such() -> None:
    @ai_function
    def broken(n: "Nothing") -> None:  # type: ignore[name-defined]  # noqa: F821
        ...

    with pytest.raises(TypeError, match=r"<locals>\.broken: the annotation 'Nothing' of the parameter 'n' names"):
        as_ai_function(broken)
