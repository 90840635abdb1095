"""What the functions of a task do in a conversation: run, give back, fail, take too long, and what the LLM is told.

Schemas, parsing and decorators have tests of their own. What the caller does and hears meanwhile:
`test_functions_while_speaking.py`.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from typing import Any

import pytest

from orchestrator import AgentTask, AIError, CallContext, SpeechHandle, VoiceAgent, ai_function
from orchestrator.events import FunctionsExecuted
from orchestrator.testing import Call, calls, calls_raw, says, step, virtual_time
from tests.tasks.talk import Gate, agent_with, given_back, offered, shown

INTERNAL = "Error: an internal error occurred; the function has failed"


@dataclass
class Table:
    seats: int
    near: str


# --- several calls, and their order -----------------------------------------------------------------------------------


@virtual_time
async def test_calls_of_one_step_run_at_once_and_their_results_go_back_in_call_order() -> None:
    # Several calls in one LLM step run concurrently; results go back in call order.
    order: list[str] = []
    second_is_done = asyncio.Event()

    @ai_function
    async def first() -> str:
        order.append("first begins")
        await second_is_done.wait()
        order.append("first ends")
        return "one"

    @ai_function
    async def second() -> str:
        order.append("second begins")
        second_is_done.set()
        return "two"

    @ai_function
    async def third() -> str:
        order.append("third begins")
        return "three"

    async with Call(agent_with(first, second, third), step(*map(calls, ("first", "second", "third"))), "Done.") as call:
        await call.write("Do all three.")
    assert order == ["first begins", "second begins", "third begins", "first ends"]
    assert shown(call.script.requests[1]) == [
        "system: You help.",
        "user: Do all three.",
        "call_1: first({})",
        "call_2: second({})",
        "call_3: third({})",
        "call_1 gave: one",
        "call_2 gave: two",
        "call_3 gave: three",
    ]


@virtual_time
async def test_one_function_called_twice_in_a_step_runs_twice() -> None:
    @ai_function
    async def double(number: int) -> int:
        return 2 * number

    async with Call(agent_with(double), step(calls("double", number=1), calls("double", number=4)), "OK") as call:
        await call.write("Double them.")
    assert given_back(call.script.requests[1]) == ["2", "8"]


@virtual_time
async def test_the_calls_of_a_step_and_what_they_gave_are_one_event_and_part_of_the_chat_context() -> None:
    # functions_executed, in call order; calls and outputs are kept in the contexts of the task and the agent.
    @ai_function
    async def good() -> str:
        return "well"

    @ai_function
    async def bad() -> str:
        raise AIError("not well")

    async with Call(agent_with(good, bad), step(says("Let me see."), calls("good"), calls("bad")), "Done.") as call:
        await call.write("Go.")
        call.expect.user("Go.").message("Let me see.").function_call("good").function_call("bad")
        call.expect.function_output("well", name="good", is_error=False)
        call.expect.function_output("not well", name="bad", is_error=True).message("Done.").nothing_more()
        task = call.agent.current_task
        assert list(call.agent.chat_ctx) == list(task.chat_ctx)
    (executed,) = (event for event in call.events if isinstance(event, FunctionsExecuted))
    assert [one.name for one in executed.calls] == ["good", "bad"]
    assert [(one.output, one.is_error) for one in executed.outputs] == [("well", False), ("not well", True)]
    assert [one.call_id for one in executed.calls] == [one.call_id for one in executed.outputs]
    assert executed.task is task


# --- what a function returns ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ("a table", "a table"),
        ("", ""),
        (3, "3"),
        (False, "false"),
        ({"seats": 4}, '{"seats":4}'),
        (["a", 1], '["a",1]'),
        (Table(2, "the window"), '{"seats":2,"near":"the window"}'),
        ([Table(2, "the bar")], '[{"seats":2,"near":"the bar"}]'),
        (("a", "b"), '["a","b"]'),
    ],
)
@virtual_time
async def test_what_a_function_returns_is_told_to_the_llm_which_is_asked_again(value: Any, told: str) -> None:
    # Return value: anything JSON-able.
    @ai_function
    async def find() -> Any:
        return value

    async with Call(agent_with(find), calls("find"), "I have found it.") as call:
        await call.write("Find it.")
        call.expect.user().function_call("find").function_output(told, is_error=False).message("I have found it.")
    assert given_back(call.script.requests[1]) == [told]


@virtual_time
async def test_a_function_that_returns_nothing_gets_no_follow_up_reply() -> None:
    # None with no value: no follow-up reply.
    @ai_function
    async def note() -> None:
        pass

    async with Call(agent_with(note), step(says("I have noted it."), calls("note"))) as call:
        await call.write("Note it.")
        call.expect.user().message("I have noted it.").function_call("note").function_output("").nothing_more()
    assert len(call.script.requests) == 1


@virtual_time
async def test_one_value_among_nothings_is_enough_for_a_follow_up_reply() -> None:
    @ai_function
    async def nothing() -> None:
        pass

    @ai_function
    async def value() -> str:
        return "a value"

    async with Call(agent_with(nothing, value), step(calls("nothing"), calls("value")), "A value.") as call:
        await call.write("Go.")
    assert given_back(call.script.requests[1]) == ["", "a value"]


@virtual_time
async def test_a_return_value_that_json_cannot_hold_is_logged_and_told_as_an_internal_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @ai_function
    async def find() -> Any:
        return object()

    async with Call(agent_with(find), calls("find"), "Sorry.") as call:
        await call.write("Find it.")
    assert given_back(call.script.requests[1]) == [INTERNAL]
    assert "a value of type builtins.object cannot be told to the LLM" in caplog.text


# --- what goes wrong --------------------------------------------------------------------------------------------------


@virtual_time
async def test_an_ai_error_is_told_to_the_llm_and_is_no_failure_of_the_program(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # AIError is told to the LLM.
    @ai_function
    async def find() -> str:
        raise AIError("there is no such guest")

    async with Call(agent_with(find), calls("find"), "There is no such guest.") as call:
        await call.write("Find Ann.")
    assert given_back(call.script.requests[1]) == ["Error: there is no such guest"]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("error", [ValueError("password1"), TimeoutError("password1"), StopAsyncIteration("password1")])
@virtual_time
async def test_any_other_exception_is_logged_with_its_traceback_and_told_only_as_an_internal_error(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    # Logged with its traceback, and told to the LLM only as an internal error; nor does the client learn more.
    @ai_function
    async def find() -> str:
        raise error

    async with Call(agent_with(find), calls("find"), "Sorry.") as call:
        await call.write("Find Ann.")
        call.expect.user().function_call().function_output(is_error=True).message("Sorry.").nothing_more()
    assert given_back(call.script.requests[1]) == [INTERNAL]
    assert "password1" not in repr([call.script.requests, call.messages, call.agent.chat_ctx.items])
    assert "the function find of AgentTask failed" in caplog.text
    assert "Traceback" in caplog.text
    assert f"{type(error).__name__}: password1" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (calls("book", seats="many"), "seats"),
        (calls("book"), "seats"),
        (calls("book", seats=2, smoking=True), "smoking"),
        (calls_raw("book", '{"seats": 2'), "JSON"),
        (calls_raw("book", "[2]"), "object"),
        (calls_raw("book", ""), "seats"),
    ],
    ids=["wrong type", "missing", "unknown", "broken JSON", "not an object", "empty"],
)
@virtual_time
async def test_bad_arguments_never_reach_the_function_and_the_llm_is_told_why(wrong: Any, told: str) -> None:
    # Bad arguments from the LLM never reach the function: the validation error goes back to the LLM.
    booked: list[int] = []

    @ai_function
    async def book(seats: int) -> str:
        booked.append(seats)
        return "booked"

    async with Call(agent_with(book), wrong, calls("book", seats=2), "Booked.") as call:
        await call.write("Book a table for two.")
    (output,) = given_back(call.script.requests[1])
    assert output.startswith("Error: ")
    assert told in output
    assert given_back(call.script.requests[2]) == [output, "booked"]
    assert booked == [2]


@virtual_time
async def test_a_function_that_there_is_not_is_told_with_those_that_there_are() -> None:
    @ai_function
    async def find() -> str:
        return "found"

    async with Call(agent_with(find), step(calls("serach"), calls("find")), "Found.") as call:
        await call.write("Find it.")
    assert given_back(call.script.requests[1]) == ["Error: there is no function 'serach'; there are: find", "found"]


# --- how often, and how long ------------------------------------------------------------------------------------------


@virtual_time
async def test_after_max_fnc_steps_rounds_the_llm_is_asked_once_more_without_functions() -> None:
    # max_fnc_steps bounds the rounds.
    @ai_function
    async def more() -> str:
        return "there is more"

    async with Call(agent_with(more, max_fnc_steps=2), calls("more"), calls("more"), "That is all.") as call:
        await call.write("Go on.")
        call.expect.skip(5).message("That is all.").nothing_more()
    assert [offered(request) for request in call.script.requests] == [["more"], ["more"], []]
    assert given_back(call.script.requests[2]) == ["there is more"] * 2


@virtual_time
async def test_three_rounds_are_the_default() -> None:
    @ai_function
    async def more() -> str:
        return "there is more"

    async with Call(agent_with(more), *[calls("more")] * 3, "That is all.") as call:
        await call.write("Go on.")
    assert [offered(request) for request in call.script.requests] == [["more"]] * 3 + [[]]


@virtual_time
async def test_an_llm_that_calls_functions_without_end_is_stopped_and_the_agent_can_still_speak(
    caplog: pytest.LogCaptureFixture,
) -> None:
    called: list[str] = []

    @ai_function
    async def more() -> str:
        called.append("more")
        return "there is more"

    async with Call(agent_with(more, max_fnc_steps=1), calls("more"), calls("more"), "I am back.") as call:
        await call.write("Go on.")
        await call.write("Are you there?")
        call.expect.skip().nothing_more()
        assert call.transcript[-1] == ("agent", "I am back.")
    assert called == ["more"]
    assert "functions were called without end" in caplog.text


@virtual_time
async def test_a_function_that_overruns_its_timeout_is_cancelled_and_said_to_have_failed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # A function that overruns its timeout is cancelled and said to have failed; its own limit comes before the agent's.
    ended: list[str] = []

    async def hangs(name: str) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(name)

    @ai_function
    async def usual() -> None:
        await hangs("usual")

    @ai_function(timeout=2)
    async def quick() -> None:
        await hangs("quick")

    @ai_function
    async def well() -> str:
        return "fine"

    agent = agent_with(usual, quick, well, function_timeout=5)
    async with Call(agent, step(calls("usual"), calls("quick"), calls("well")), "Only one did it.") as call:
        await call.write("Go.")
    assert ended == ["quick", "usual"]
    assert given_back(call.script.requests[1]) == [
        "Error: it took longer than 5 s and was cancelled",
        "Error: it took longer than 2 s and was cancelled",
        "fine",
    ]
    assert "the function quick of AgentTask was cancelled: it took longer than 2 s" in caplog.text


# --- functions that are not async -------------------------------------------------------------------------------------


@virtual_time
async def test_a_function_that_is_not_async_runs_in_a_thread_and_does_not_block_the_conversation() -> None:
    gate = Gate()
    threads: list[int] = []

    @ai_function
    def compute() -> str:
        threads.append(threading.get_ident())
        gate.wait()
        return "42"

    async with Call(agent_with(compute), calls("compute"), "It is 42.") as call:
        call.send("Compute it.")
        await call.until(lambda: threads)
        await call.agent.say("This takes a while.")  # it is heard meanwhile
        gate.open()
        await call.settled()
        call.expect.user().message("This takes a while.").function_call().function_output("42").message("It is 42.")
    assert threads != [threading.get_ident()]


@virtual_time
async def test_a_function_that_is_not_async_may_take_too_long_too() -> None:
    gate = Gate()

    @ai_function(timeout=0.05)
    def compute() -> str:
        gate.wait()
        return "42"

    async with Call(agent_with(compute), calls("compute"), "It took too long.") as call:
        await call.write("Compute it.")
        gate.open()
        call.expect.user().function_call().function_output(is_error=True).message("It took too long.").nothing_more()
    assert given_back(call.script.requests[1]) == ["Error: it took longer than 0.05 s and was cancelled"]


@pytest.mark.parametrize(
    "use",
    [
        lambda context: context.agent.say("Hello."),
        lambda context: context.agent.generate_reply(),
        lambda context: context.agent.update_task(AgentTask(instructions="")),
        lambda context: context.agent.interrupt(),
        lambda context: context.speech_handle.interrupt(),
    ],
    ids=["say", "generate_reply", "update_task", "interrupt", "interrupt the speech"],
)
@virtual_time
async def test_a_function_that_is_not_async_may_not_use_the_agent(use: Any, caplog: pytest.LogCaptureFixture) -> None:
    @ai_function
    def wrong(context: CallContext) -> str:
        use(context)
        return "never"

    async with Call(agent_with(wrong), calls("wrong"), "Sorry.") as call:
        await call.write("Go.")
        call.expect.user().function_call().function_output(is_error=True).message("Sorry.").nothing_more()
    assert "can't be used from another thread" in caplog.text
    assert "write it as `async def`" in caplog.text


# --- what a call knows, and may say -----------------------------------------------------------------------------------


class Desk(AgentTask):
    def __init__(self) -> None:
        super().__init__(instructions="You help.", ai_functions=[free])
        self.contexts: list[CallContext] = []

    @ai_function
    async def method(self, context: CallContext, guest: str) -> None:
        self.contexts.append(context)


@ai_function
async def free(context: CallContext) -> None:
    assert isinstance(context.task, Desk)
    context.task.contexts.append(context)


@virtual_time
async def test_functions_are_given_as_methods_and_as_a_list_and_know_their_conversation() -> None:
    # CallContext: agent, task, function_call, speech_handle, userdata; it is not in the schema.
    task = Desk()
    speeches: list[SpeechHandle] = []
    agent = VoiceAgent(task=task, userdata={"guests": 3})
    agent.on("speech_created", lambda event: speeches.append(event.speech))
    async with Call(agent, step(calls("method", guest="Ann"), calls("free"))) as call:
        await call.write("Ann is here.")
    assert offered(call.script.requests[0]) == ["method", "free"]
    assert [list(one.parameters["properties"]) for one in call.script.requests[0].functions] == [["guest"], []]
    first, second = task.contexts
    for context in task.contexts:
        assert (context.agent, context.task, context.userdata) == (agent, task, {"guests": 3})
        assert context.speech_handle is speeches[0]
    assert (first.function_call.name, first.function_call.arguments) == ("method", '{"guest": "Ann"}')
    assert (second.function_call.name, second.function_call.call_id) == ("free", "call_2")
