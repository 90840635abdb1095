"""AI functions: decorated, found on a task, called, offered in a reply, and what their values are told as."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime
import enum
import functools
import math
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, assert_type, cast

import pytest

from orchestrator.functions import (
    AIError,
    FunctionContext,
    StopResponse,
    ai_function,
    as_ai_function,
    encode_output,
    functions_of,
)
from tests.orchestrator import function_examples
from tests.orchestrator.function_examples import (
    Address,
    Concierge,
    Dish,
    Receptionist,
    Size,
    call_context,
    called,
    of,
    weather,
)
from tests.support import run_async

ROOT = Path(__file__).parent.parent.parent


def undecorated() -> None: ...


# --- decorating -------------------------------------------------------------------------------------------------------


def test_a_decorated_function_and_its_types_are_what_they_were() -> None:
    async def talk() -> tuple[str, str]:
        here = Receptionist()
        by_method = here.book(call_context("Ann"), day="Monday")
        by_function = weather("Rome")
        return assert_type(await by_method, str), assert_type(await by_function, str)

    assert run_async(talk()) == ("Ritz: 2 on Monday for Ann", "sunny in Rome")
    assert weather.__name__ == "weather"


def test_the_decorator_may_be_called_without_anything() -> None:
    @ai_function()
    def greet() -> str:
        return "hello"

    assert assert_type(greet(), str) == "hello"
    assert as_ai_function(greet).name == "greet"


@pytest.mark.parametrize("name", ["", "two words", "x" * 65, "größe", "a.b"])
def test_a_name_that_an_llm_cannot_call_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"test_functions\.undecorated: an LLM cannot call a function .* 1 to 64"):
        ai_function(name=name)(undecorated)


def test_a_lambda_needs_a_name() -> None:
    with pytest.raises(ValueError, match="name="):
        ai_function(lambda: 1)
    assert as_ai_function(ai_function(name="one")(lambda: 1)).name == "one"


@pytest.mark.parametrize("timeout", [0, -1, math.nan])
def test_a_timeout_must_be_a_time(timeout: float) -> None:
    with pytest.raises(ValueError, match="more than 0 seconds"):
        ai_function(timeout=timeout)(undecorated)


@pytest.mark.parametrize("thing", ["book", 3, Receptionist, functools.partial(print), staticmethod(print)])
def test_only_a_function_can_be_decorated(thing: Any) -> None:
    with pytest.raises(TypeError, match="goes right above a def, below @staticmethod"):
        ai_function(thing)


def test_a_function_is_decorated_once() -> None:
    with pytest.raises(TypeError, match="weather is an AI function already"):
        ai_function(name="forecast")(weather)


def test_a_generator_is_refused() -> None:
    def many() -> Any:
        yield 1

    async def streamed() -> Any:
        yield 1

    for function in (many, streamed):
        with pytest.raises(TypeError, match="yields"):
            ai_function(function)


# --- finding ----------------------------------------------------------------------------------------------------------


def test_decorated_methods_are_found_in_the_order_of_definition() -> None:
    found = functions_of(Receptionist())
    assert [function.name for function in found] == ["book", "cancel-booking", "opening_hours", "kind"]
    assert [function.timeout for function in found] == [None, 2.5, None, None]
    assert [function.is_async for function in found] == [True, False, False, False]


def test_an_override_takes_the_place_of_the_method_and_an_undecorated_one_removes_it() -> None:
    found = functions_of(Concierge())
    assert [function.name for function in found] == ["book", "opening_hours", "kind", "taxi"]
    assert called(found[0], '{"day": "Monday"}') == "by the concierge"


def test_an_override_without_a_docstring_keeps_that_of_the_base_class() -> None:
    assert functions_of(Concierge())[0].description == functions_of(Receptionist())[0].description


def test_methods_are_bound_to_their_instance() -> None:
    ritz, plaza = (functions_of(Receptionist(hotel))[0] for hotel in ("Ritz", "Plaza"))
    assert called(ritz, '{"day": "Monday"}', "Ann") == "Ritz: 2 on Monday for Ann"
    assert called(plaza, '{"day": "Monday"}', "Bob") == "Plaza: 2 on Monday for Bob"


def test_static_methods_and_class_methods_are_called_as_such() -> None:
    functions = FunctionContext(functions_of(Concierge()))
    assert called(functions["opening_hours"]) == "Monday: all day"
    assert called(functions["kind"], '{"polite": "yes"}') == "Concierge True"


def test_a_schema_is_built_once_for_all_instances() -> None:
    first, second = (functions_of(Receptionist())[0] for _ in range(2))
    assert first.parameters is second.parameters


def test_a_function_behind_another_decorator_is_found() -> None:
    def logged(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapper(*args: Any, **keywords: Any) -> Any:
            return function(*args, **keywords)

        return wrapper

    class Shop:
        @logged
        @ai_function
        async def inside(self, n: int) -> int:
            return n

        @ai_function
        @logged
        async def outside(self, n: int) -> int:
            return -n

    inside, outside = functions_of(Shop())
    assert list(inside.parameters["properties"]) == list(outside.parameters["properties"]) == ["n"]
    assert (called(inside, '{"n": 3}'), called(outside, '{"n": 3}')) == (3, -3)


def test_what_ai_functions_takes() -> None:
    receptionist = Receptionist()
    function = as_ai_function(weather)
    assert as_ai_function(function) is function
    assert called(function, '{"city": "Rome"}') == "sunny in Rome"
    assert called(as_ai_function(receptionist.book), '{"day": "Tuesday"}', "Ann") == "Ritz: 2 on Tuesday for Ann"


def test_a_function_that_is_not_decorated_is_told_how_to_be_one() -> None:
    with pytest.raises(
        TypeError, match=r"test_functions\.undecorated is no AI function: put @ai_function above its def"
    ):
        as_ai_function(undecorated)
    for other in (3, Receptionist, None, print):
        with pytest.raises(TypeError, match="takes functions that are decorated with @ai_function, not"):
            as_ai_function(other)


def test_a_method_without_its_instance_is_told_so() -> None:
    with pytest.raises(TypeError, match=r"Receptionist\.book: the parameter 'self' .* give the method of an instance"):
        as_ai_function(Receptionist.book)


# --- calling ----------------------------------------------------------------------------------------------------------


def test_an_async_function_runs_on_the_loop_and_a_plain_one_in_a_thread() -> None:
    async def here() -> int:
        return threading.get_ident()

    def beside() -> int:
        return threading.get_ident()

    assert called(of(here)) == threading.get_ident()
    assert called(of(beside)) != threading.get_ident()


def test_a_plain_function_does_not_block_the_loop() -> None:
    free = threading.Event()

    def waits() -> bool:
        return free.wait(10)

    async def talk() -> Any:
        call = asyncio.create_task(of(waits).invoke(call_context(), {}))
        await asyncio.sleep(0)
        free.set()
        return await call

    assert run_async(talk()) is True


def test_what_a_function_raises_reaches_the_caller() -> None:
    async def fails() -> None:
        raise AIError("no table is free")

    def fails_too() -> None:
        raise KeyError("x")

    with pytest.raises(AIError, match="no table is free"):
        called(of(fails))
    with pytest.raises(KeyError):
        called(of(fails_too))


def test_a_plain_function_that_raises_stop_iteration_ends() -> None:
    def finds() -> int:
        return next(iter([]))

    with pytest.raises(RuntimeError, match=r"<locals>\.finds raised StopIteration"):
        called(of(finds))


def test_cancellation_ends_an_async_function() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            ended.append("begun")
            await asyncio.Event().wait()
        finally:
            ended.append("ended")

    async def talk() -> None:
        call = asyncio.create_task(of(waits).invoke(call_context(), {}))
        await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

    run_async(talk())
    assert ended == ["begun", "ended"]


def test_something_that_can_be_awaited_is_returned_as_it_is() -> None:
    class Inline:
        def __await__(self) -> Any:
            raise AssertionError("awaited")

    inline = Inline()

    def hands_over() -> Any:
        return inline

    assert called(of(hands_over)) is inline


# --- what is offered --------------------------------------------------------------------------------------------------


def test_a_function_context_is_read_by_name_and_in_order() -> None:
    functions = FunctionContext([*functions_of(Receptionist()), as_ai_function(weather)])
    assert [function.name for function in functions] == ["book", "cancel-booking", "opening_hours", "kind", "weather"]
    assert len(functions) == 5
    assert "book" in functions
    assert functions["book"] in functions
    assert "taxi" not in functions
    assert functions["weather"].name == "weather"
    with pytest.raises(KeyError, match="no AI function 'taxi'; there are: book, cancel-booking"):
        functions["taxi"]


def test_a_function_context_is_narrowed_without_changing() -> None:
    functions = FunctionContext(functions_of(Receptionist()))
    assert [function.name for function in functions.only("kind", "book")] == ["book", "kind"]
    assert [function.name for function in functions.without("kind", "book")] == ["cancel-booking", "opening_hours"]
    assert len(functions.only()) == 0
    assert len(functions) == 4
    for narrow in (functions.only, functions.without):
        with pytest.raises(ValueError, match="no AI function 'taxi'; there are: book"):
            narrow("taxi")
    with pytest.raises(ValueError, match="there are: none"):
        FunctionContext().only("book")


def test_two_functions_of_one_name_are_refused() -> None:
    def weather() -> None: ...

    with pytest.raises(ValueError, match=r"called 'weather': .*function_examples\.weather and .*<locals>\.weather"):
        FunctionContext([as_ai_function(function_examples.weather), of(weather)])


def test_the_nodes_are_told_of_each_function() -> None:
    functions = FunctionContext(functions_of(Receptionist()))
    assert [(schema.name, schema.description) for schema in functions.schemas()][1] == ("cancel-booking", "Cancel it.")
    assert functions.schemas()[0].parameters == functions["book"].parameters


# --- what a value is told as ------------------------------------------------------------------------------------------


class Mood(enum.StrEnum):
    GOOD = "good"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("It is 20 °C", "It is 20 °C"),
        ("", ""),
        (None, ""),
        (3, "3"),
        (True, "true"),
        (Size.LARGE, "large"),
        (Mood.GOOD, "good"),
        (Dish(name="soup"), '{"name":"soup","size":"small","title":null}'),
        (Address("Straße", 3), '{"street":"Straße","number":3}'),
        ([Address("a", 1), Size.SMALL, None], '[{"street":"a","number":1},"small",null]'),
        ({"on": datetime.date(2024, 5, 1)}, '{"on":"2024-05-01"}'),
        ((1, 2), "[1,2]"),
        ([math.nan], '["NaN"]'),
    ],
)
def test_values_are_told_as_text_or_json(value: object, text: str) -> None:
    assert encode_output(value) == text


@pytest.mark.parametrize("value", [object(), [threading.Lock()], "\ud800", b"\xff", Receptionist()])
def test_a_value_that_cannot_be_told_is_named(value: object) -> None:
    with pytest.raises(TypeError, match=rf"a value of type .*{type(value).__name__} cannot be told to the LLM"):
        encode_output(value)


def test_a_value_that_holds_itself_cannot_be_told() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(TypeError, match="list cannot be told"):
        encode_output(value)


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_a_call_context_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        call_context().agent = cast(Any, None)  # type: ignore[misc]


def test_stop_response_is_told_to_nobody() -> None:
    assert not issubclass(StopResponse, AIError)


def test_the_help_of_the_command_line_loads_no_pydantic() -> None:
    code = (
        "import sys, click.testing, antiphon.main as m\n"
        "done = click.testing.CliRunner().invoke(m.main, ['--help'])\n"
        "assert done.exit_code == 0, done\n"
        "sys.exit(bool({'pydantic', 'pydantic_core', 'orchestrator.functions'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr or "antiphon --help loads pydantic"
