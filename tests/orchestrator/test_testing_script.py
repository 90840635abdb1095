"""The script of a simulated LLM: steps in their order, and what it says when it is asked too much."""

from __future__ import annotations

import json
from datetime import date

import pytest

from orchestrator.testing.script import (
    Calls,
    Fails,
    Hangs,
    Pause,
    Script,
    Step,
    Unscripted,
    calls,
    calls_raw,
    fails,
    hangs,
    pause,
    says,
    step,
)
from protocol.errors import EngineError, NodeLost
from protocol.node import ChatItem, FunctionCall, FunctionSchema, Generate

LOOK_UP = FunctionSchema("look_up", "Find somebody.", {"type": "object", "properties": {}})


def asked(*texts: str, instructions: str = "", functions: tuple[FunctionSchema, ...] = ()) -> Generate:
    items = [ChatItem("system", instructions)] if instructions else []
    return Generate(0, 0, 0, [*items, *(ChatItem("user", text) for text in texts)], list(functions))


def test_text_is_said_word_by_word_and_several_strings_as_they_are() -> None:
    assert says("Good morning,  Ann.").chunks == ("Good ", "morning,  ", "Ann.")
    assert says(" Hm. ").chunks == (" Hm. ",)
    assert says("Good mor", "ning.").chunks == ("Good mor", "ning.")
    assert says("").chunks == ()


def test_chunks_are_the_text() -> None:
    text = "  One\ntwo  three. "
    assert "".join(says(text).chunks) == text


def test_steps_come_in_their_order_whatever_they_are_written_as() -> None:
    script = Script("Hello.", says("Yes."), step("Wait.", pause(0.5), calls("look_up")))
    assert script.answer(asked("a")) == Step((says("Hello."),))
    assert script.answer(asked("b")) == Step((says("Yes."),))
    assert script.answer(asked("c")) == Step((says("Wait."), Pause(0.5), Calls("look_up", "{}")))
    assert script.left == 0


def test_steps_can_be_appended_at_any_time() -> None:
    script = Script()
    script.append("One.")
    assert script.answer(asked("a")) == step("One.")
    script.append("Two.", "Three.")
    assert script.left == 2


def test_a_function_chooses_the_step_from_what_was_asked() -> None:
    def choose(chat: list[ChatItem], functions: list[FunctionSchema]) -> Step:
        return step(f"{chat[-1].text}, with {functions[0].name}")

    script = Script(choose, lambda chat, functions: "a string", lambda chat, functions: hangs())
    assert script.answer(asked("hello", functions=(LOOK_UP,))) == step("hello, with look_up")
    assert script.answer(asked("hello")) == step("a string")
    assert script.answer(asked("hello")) == Step((Hangs(),))


def test_every_request_is_kept() -> None:
    script = Script("One.", "Two.")
    script.answer(asked("hello", instructions="You are Ann.", functions=(LOOK_UP,)))
    script.answer(asked("bye"))
    first, second = script.requests
    assert first.instructions == "You are Ann."
    assert [item.text for item in first.chat] == ["You are Ann.", "hello"]
    assert first.functions == [LOOK_UP]
    assert second.instructions == ""


def test_an_exhausted_script_says_which_request_it_was_and_what_was_said_last() -> None:
    script = Script("One.")
    script.answer(asked("hello"))
    with pytest.raises(Unscripted, match=r"no step for request 2 of the LLM; .*'I want pizza' of the role 'user'"):
        script.answer(asked("hello", "I want pizza"))
    call = FunctionCall("call_1", "look_up", '{"name": "Ann"}')
    with pytest.raises(Unscripted, match=r'request 3 .* a call of look_up\(\{"name": "Ann"\}\)'):
        script.answer(Generate(0, 0, 0, [ChatItem("assistant", call=call)]))
    with pytest.raises(Unscripted, match=r"request 4 .* an empty chat"):
        script.answer(asked())


def test_a_script_may_have_an_answer_for_whatever_else_is_asked() -> None:
    script = Script("One.", otherwise=lambda chat, functions: f"You said {chat[-1].text}.")
    answers = [script.answer(asked(text)) for text in ("a", "b", "c")]
    assert answers == [step("One."), step("You said b."), step("You said c.")]


def test_arguments_travel_as_json() -> None:
    part = calls("look_up", name="Zoë", tags=["a", 1, None], after=2)
    assert json.loads(part.arguments) == {"name": "Zoë", "tags": ["a", 1, None], "after": 2}
    assert calls_raw("look_up", '{"name": ').arguments == '{"name": '


@pytest.mark.parametrize("value", [date(2025, 1, 1), {1, 2}, float("nan"), b"x"])
def test_an_argument_that_json_cannot_hold_is_named(value: object) -> None:
    with pytest.raises(TypeError, match=r"calls\('look_up'\): the argument when is .* can't write as JSON"):
        calls("look_up", name="Ann", when=value)


def test_call_ids_count_over_the_whole_script() -> None:
    script = Script()
    assert [script.call(calls("look_up")).call_id for _ in range(3)] == ["call_1", "call_2", "call_3"]


def test_a_failure_is_an_error_or_a_sentence() -> None:
    lost = NodeLost("it is gone")
    assert fails(lost) == Fails(lost)
    error = fails("the model is down", "fatal").error
    assert isinstance(error, EngineError)
    assert (str(error), error.category) == ("the model is down", "fatal")


def test_what_is_no_part_of_a_step_is_refused() -> None:
    with pytest.raises(TypeError, match="not 7"):
        step("One.", 7)  # type: ignore[arg-type]  # that is the mistake
    script = Script(lambda chat, functions: None)  # type: ignore[arg-type, return-value]  # as above
    with pytest.raises(TypeError, match="not None"):
        script.answer(asked("hello"))
