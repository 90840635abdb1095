"""What an LLM is told of a function, and what is taken of the arguments that it writes.

Annotations are strings here; test_function_annotations.py has them as they are.
"""

from __future__ import annotations

import datetime
import enum
import json
import math
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import pydantic
import pytest
from pydantic import BaseModel, Field

from orchestrator.functions import CallContext as Context
from orchestrator.functions import ai_function, as_ai_function, functions_of
from tests.orchestrator.function_examples import (
    Address,
    Day,
    Dish,
    Part,
    Receptionist,
    Size,
    Strict,
    called,
    of,
    properties,
    refusal,
    wrong,
)

if TYPE_CHECKING:
    from somewhere import Elsewhere  # type: ignore[import-not-found]

    from orchestrator.functions import CallContext

OWN = object()


# --- what the LLM is told ---------------------------------------------------------------------------------------------


def test_the_whole_schema_of_a_method() -> None:
    book = functions_of(Receptionist())[0]
    assert book.description == "Book a table.\n\nOnly for today's guests."
    assert book.parameters == {
        "type": "object",
        "properties": {
            "day": {"type": "string", "enum": ["Monday", "Tuesday"], "description": "The day of the week."},
            "guests": {"type": "integer", "default": 2, "description": "How many come."},
        },
        "required": ["day"],
        "additionalProperties": False,
    }


def test_a_given_description_replaces_the_docstring() -> None:
    assert functions_of(Receptionist())[1].description == "Cancel it."

    @ai_function(description="")
    def secret() -> None:
        """Not told."""

    assert as_ai_function(secret).description == ""


@pytest.mark.parametrize(
    "docstring",
    [
        "Book.\n\n    Args:\n        day: The day.\n            It matters.\n        n (int): How many.\n    ",
        "Book.\n\n    Parameters\n    ----------\n    day : str\n        The day.\n        It matters.\n    n : int\n"
        "        How many.\n\n    Returns\n    -------\n    str\n        Words.\n    ",
        "Book.\n\n    :param day: The day.\n        It matters.\n    :param n: How many.\n    :returns: Words.\n    ",
    ],
    ids=["google", "numpy", "rest"],
)
def test_docstrings_of_all_styles_describe_the_parameters(docstring: str) -> None:
    def book(day: str, n: int) -> None: ...

    book.__doc__ = docstring
    function = of(book)
    assert function.description == "Book."
    assert {name: part["description"] for name, part in function.parameters["properties"].items()} == {
        "day": "The day. It matters.",
        "n": "How many.",
    }


def test_the_docstring_is_more_than_what_a_type_says_of_itself() -> None:
    def order(first: Dish, second: Dish) -> None:
        """Order.

        Args:
            first: The starter.
        """

    assert properties(order)["first"]["description"] == "The starter."
    assert properties(order)["second"]["description"] == "Something to eat."


def test_simple_types() -> None:
    def all_of(
        size: Size,
        count: Annotated[int, Field(ge=1, le=9, description="One digit.")],
        names: list[str],
        prices: dict[str, float],
        at: datetime.datetime,
        on: datetime.date,
        either: int | str,
        anything: Any,
    ) -> None: ...

    assert properties(all_of) == {
        "size": {"type": "string", "enum": ["small", "large"]},
        "count": {"type": "integer", "minimum": 1, "maximum": 9, "description": "One digit."},
        "names": {"type": "array", "items": {"type": "string"}},
        "prices": {"type": "object", "additionalProperties": {"type": "number"}},
        "at": {"type": "string", "format": "date-time"},
        "on": {"type": "string", "format": "date"},
        "either": {"anyOf": [{"type": "integer"}, {"type": "string"}]},
        "anything": {},
    }


def test_defaults_are_told_and_make_a_parameter_optional() -> None:
    def all_of(
        required: int, size: Size = Size.LARGE, note: str | None = None, old: str = cast(Any, None), own: Any = OWN
    ) -> None: ...

    assert of(all_of).parameters["required"] == ["required"]
    told = properties(all_of)
    assert told["size"]["default"] == "large"
    assert told["note"] == told["old"] == {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None}
    assert "default" not in told["own"]


def test_a_default_that_json_does_not_have_is_told_in_words() -> None:
    def buy(limit: float = math.inf) -> None: ...

    assert json.loads(json.dumps(properties(buy)["limit"], allow_nan=False))["default"] == "Infinity"


def test_models_stand_where_they_are_used() -> None:
    def order(dish: Dish, others: list[Dish], to: Address | None = None) -> None: ...

    dish = {
        "type": "object",
        "description": "Something to eat.",
        "properties": {
            "name": {"type": "string"},
            "size": {"type": "string", "enum": ["small", "large"], "default": "small"},
            "title": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
        },
        "required": ["name"],
    }
    address = {
        "type": "object",
        "properties": {"street": {"type": "string"}, "number": {"type": "integer"}},
        "required": ["street", "number"],
    }
    assert properties(order) == {
        "dish": dish,
        "others": {"type": "array", "items": dish},
        "to": {"anyOf": [address, {"type": "null"}], "default": None},
    }
    assert "$defs" not in of(order).parameters


def test_a_type_that_holds_itself_stays_a_reference() -> None:
    def build(whole: Part, spare: list[Part]) -> None: ...

    schema = of(build).parameters
    reference = {"$ref": "#/$defs/Part"}
    assert schema["properties"] == {"whole": reference, "spare": {"type": "array", "items": reference}}
    parts = {"type": "array", "items": reference, "default": []}
    assert schema["$defs"] == {
        "Part": {"type": "object", "properties": {"name": {"type": "string"}, "parts": parts}, "required": ["name"]}
    }
    assert of(build).parse('{"whole": {"name": "car", "parts": [{"name": "door"}]}, "spare": []}') == {
        "whole": Part(name="car", parts=[Part(name="door")]),
        "spare": [],
    }


class Folder(BaseModel):
    files: list[File]


class File(BaseModel):
    within: Folder | None


def test_types_that_hold_each_other_stay_references_that_can_be_followed() -> None:
    def move(file: File, to: Folder, mark: dict[str, str] = {"$ref": "not one"}) -> None: ...  # noqa: B006

    schema = of(move).parameters
    assert schema["properties"]["mark"]["default"] == {"$ref": "not one"}
    references = {each for each in json.dumps(schema).split('"') if each.startswith("#/$defs/")}
    assert references == {f"#/$defs/{name}" for name in schema["$defs"]}
    assert of(move).parse('{"file": {"within": null}, "to": {"files": []}}')["to"] == Folder(files=[])


def test_two_types_of_one_name_that_hold_themselves_are_refused() -> None:
    def build(one: Part, other: Any) -> None: ...

    namespace: dict[str, Any] = {"__name__": "elsewhere", "BaseModel": BaseModel}
    exec("class Part(BaseModel):\n    n: int\n    inner: 'list[Part]' = []", namespace)
    build.__annotations__["other"] = namespace["Part"]
    assert "both called 'Part': rename one" in refusal(build)


def test_names_that_mean_something_to_pydantic_are_only_names() -> None:
    def odd(schema: int, model_config: int, _private: int, json: int, copy: int) -> None: ...

    names = ["schema", "model_config", "_private", "json", "copy"]
    assert list(properties(odd)) == names
    assert of(odd).parse(json.dumps(dict.fromkeys(names, 1))) == dict.fromkeys(names, 1)


# --- annotations ------------------------------------------------------------------------------------------------------


def test_the_context_is_filled_in_wherever_it_stands_and_however_it_is_written() -> None:
    def last(n: int, told_of: CallContext) -> Any:
        return told_of.userdata, n

    def only_by_name(*, context: Context | None = None, n: int) -> Any:
        return context and context.userdata, n

    def annotated(around: Annotated[CallContext, "whatever"], n: int) -> Any:
        return around.userdata, n

    for function in (last, only_by_name, annotated):
        found = of(function)
        assert list(found.parameters["properties"]) == ["n"]
        assert called(found, '{"n": 3}', "Ann") == ("Ann", 3)


def test_types_of_the_class_body_are_found() -> None:
    class Shop:
        class Colour(enum.Enum):
            RED = "red"

        Kind = Literal["a", "b"]

        @ai_function
        def paint(self, colour: Colour, kinds: list[Kind]) -> str:
            return colour.value + kinds[0]

        def Part(self) -> None:  # noqa: N802  # not a type, though one of the module has its name
            ...

        @ai_function
        def build(self, part: Part) -> str:  # type: ignore[valid-type]
            return cast(Any, part).name  # type: ignore[no-any-return]

    paint, build = functions_of(Shop())
    assert called(paint, '{"colour": "red", "kinds": ["b"]}') == "redb"
    assert called(build, '{"part": {"name": "door"}}') == "door"


def test_annotations_are_looked_at_when_the_function_is_used() -> None:
    @ai_function
    def later(thing: DefinedBelow) -> str:
        return thing.name

    assert called(as_ai_function(later), '{"thing": {"name": "x"}}') == "x"


class DefinedBelow(BaseModel):
    name: str


def test_a_type_that_cannot_be_found_is_named_with_the_remedy() -> None:
    class Local(enum.Enum):
        A = "a"

    def local(kind: list[Local]) -> None: ...

    def elsewhere(kind: Elsewhere) -> None: ...

    said = refusal(local)
    assert "test_function_schema.test_a_type_that_cannot_be_found_is_named_with_the_remedy.<locals>.local: " in said
    assert "'list[Local]' of the parameter 'kind' names 'Local'" in said
    assert "define it there" in said
    assert "names 'Elsewhere'" in refusal(elsewhere)


def test_what_is_returned_may_have_any_annotation() -> None:
    def given() -> Elsewhere: ...

    assert properties(given) == {}


def test_a_parameter_without_annotation_is_named() -> None:
    def plain(a: int, b) -> None:  # type: ignore[no-untyped-def]
        ...

    assert "<locals>.plain: the parameter 'b' has no annotation: annotate it, as in `b: str`" in refusal(plain)


def test_parameters_without_a_name_are_refused() -> None:
    def several(*names: str) -> None: ...

    def keywords(**options: str) -> None: ...

    def positional(a: int, /) -> None: ...

    assert "cannot be told of *names" in refusal(several)
    assert "cannot be told of *options" in refusal(keywords)
    assert "remove the / after it" in refusal(positional)


def test_types_that_no_json_can_be_are_refused() -> None:
    def calls(back: Callable[[], None]) -> None: ...

    def holds(lock: threading.Thread) -> None: ...

    def limits(name: Annotated[str, Field(pattern="(")]) -> None: ...

    def nonsense(name: "3 +") -> None: ...  # type: ignore[valid-type]  # noqa: F722

    def field(n: int = Field(default=3)) -> None: ...

    for function, name in ((calls, "back"), (holds, "lock"), (limits, "name"), (nonsense, "name"), (field, "n")):
        said = refusal(function)
        assert f"<locals>.{function.__name__}: " in said
        assert f"'{name}'" in said
        assert "\n" not in said


# --- arguments --------------------------------------------------------------------------------------------------------


def test_arguments_become_what_the_function_wants() -> None:
    def all_of(
        size: Size, to: Address, dish: Dish, at: datetime.datetime, on: Strict, several: tuple[int, str], n: int = 3
    ) -> None: ...

    assert of(all_of).parse(
        '{"size": "large", "to": {"street": "Main St", "number": 3}, "dish": {"name": "soup"}, '
        '"at": "2024-05-01T12:00:00Z", "on": {"on": "2024-05-01"}, "several": [1, "a"]}'
    ) == {
        "size": Size.LARGE,
        "to": Address("Main St", 3),
        "dish": Dish(name="soup"),
        "at": datetime.datetime(2024, 5, 1, 12, tzinfo=datetime.UTC),
        "on": Strict(on=datetime.date(2024, 5, 1)),
        "several": (1, "a"),
    }


def test_numbers_and_truth_may_be_written_as_text() -> None:
    def lax(n: int, x: float, yes: bool) -> None: ...

    assert of(lax).parse('{"n": "3", "x": "2.5", "yes": "true"}') == {"n": 3, "x": 2.5, "yes": True}


@pytest.mark.parametrize("nothing", ["", "  \n", "{}"])
def test_no_arguments_may_be_written_as_nothing(nothing: str) -> None:
    def quiet(n: int = 1) -> None: ...

    assert of(quiet).parse(nothing) == {}


def test_everything_that_is_wrong_is_told_at_once() -> None:
    def book(day: Day, guests: Annotated[int, Field(ge=1)], to: Address, name: str) -> None: ...

    assert wrong(book, '{"day": "Mnday", "guests": 0, "colour": "red", "to": {"street": 1}}') == (
        'The function was not called: its arguments are wrong: there is no argument "colour"; '
        "day is \"Mnday\": input should be 'Monday' or 'Tuesday'; "
        "guests is 0: input should be greater than or equal to 1; "
        "to.street is 1: input should be a valid string; to.number is missing; name is missing. "
        "The arguments are: day, guests, to, name."
    )


def test_a_function_without_parameters_says_that_it_has_none() -> None:
    def quiet() -> None: ...

    assert wrong(quiet, '{"n": 1}').endswith('there is no argument "n". The arguments are: none.')


def test_the_context_cannot_be_given_by_the_llm() -> None:
    def book(context: CallContext) -> None: ...

    assert 'there is no argument "context"' in wrong(book, '{"context": {}}')


def test_wrong_values_and_long_lists_of_them_are_shortened() -> None:
    def add(numbers: list[int]) -> None: ...

    said = wrong(add, json.dumps({"numbers": ["x" * 1000] * 1000}))
    assert "…" in said
    assert "numbers.7 " in said
    assert "numbers.8 " not in said
    assert "; and 992 more." in said
    assert len(said) < 2000


@pytest.mark.parametrize(
    "text", ["{", "{'a': 1}", "[" * 100_000, '{"n": ' + "1" * 5000 + "}", '{"n": "\\ud800"}', "\ud800", "day=Monday"]
)
def test_what_is_not_json_is_told(text: str) -> None:
    def book(n: Any) -> None: ...

    assert "they are not JSON (" in wrong(book, text)


@pytest.mark.parametrize("text", ["[1, 2]", '"Monday"', "null", "3"])
def test_what_is_no_object_is_told(text: str) -> None:
    def book(n: Any) -> None: ...

    said = wrong(book, text)
    assert "which is no JSON object. Write one JSON object." in said
    assert text.replace(" ", "") in said


def test_a_validator_of_the_users_own_tells_the_llm_what_it_raises() -> None:
    def even(n: int) -> int:
        if n % 2:
            raise ValueError("must be even")
        return n

    def share(n: int) -> None: ...

    share.__annotations__["n"] = Annotated[int, pydantic.AfterValidator(even)]
    assert "n is 3: value error, must be even" in wrong(share, '{"n": 3}')
