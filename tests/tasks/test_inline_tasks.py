"""InlineTask: awaited where it may be, it is the current task; its result, or its error, is the await's.

How it ends, and what becomes of it when the code that awaits it ends, is in `test_inline_task_ends.py`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import pytest

from orchestrator import AgentTask, InlineTask, VoiceAgent, ai_function
from orchestrator.testing import Call, calls, step, virtual_time
from tests.tasks.hooked import Act, Asking, Hooked, agent_of, fails, told
from tests.tasks.inline import BOOK, Ask, completes, desk, outputs, raised, said

# --- awaited, it is the current task; its result is the await's -------------------------------------------------------


@virtual_time
async def test_awaited_in_a_function_it_is_the_current_task_until_it_is_complete_and_its_result_is_returned() -> None:
    noted: list[str] = []
    ask = Ask(noted, "name")
    task = desk(noted, lambda: ask)
    async with Call(agent_of(task), BOOK, calls("answer", value="Ann"), "Booked.") as call:
        await call.write("A room, please.")
        assert call.agent.current_task is ask
        assert ask.agent is call.agent
        await call.write("It is Ann.")
        assert call.agent.current_task is task
        first, second, third = call.script.requests
        assert (first.instructions, [one.name for one in first.functions]) == ("You are desk.", ["book"])
        assert (second.instructions, [one.name for one in second.functions]) == ("You are name.", ["answer", "refuse"])
        assert third.instructions == "You are desk."
        call.expect.user("A room, please.").handoff(Ask, from_=Hooked).message("Your name?").user("It is Ann.")
        call.expect.function_call("answer").function_output("").handoff(Hooked, from_=Ask)
        call.expect.function_call("book").function_output("Ann").message("Booked.").nothing_more()
    # The awaiting task's hooks are not run again.
    assert noted == ["enter desk", "end of turn desk", "enter name", "end of turn name", "exit name", "exit desk"]


@virtual_time
async def test_what_was_said_in_it_is_part_of_the_earlier_tasks_chat_context_in_order() -> None:
    task = desk([], lambda: Ask([], "name"))
    async with Call(agent_of(task), BOOK, calls("answer", value="Ann"), "Booked.") as call:
        for text in ("A room.", "It is Ann."):
            await call.write(text)
        assert said(task) == ["A room.", "Your name?", "It is Ann.", "Booked."]
        kinds = [item.kind for item in task.chat_ctx.items if item.kind != "message"]
        assert kinds == ["function_call", "function_output"] * 2  # those of the inline task, then its own
        assert [item.text for item in call.script.requests[-1].chat if item.role == "user"] == ["A room.", "It is Ann."]
        assert call.agent.chat_ctx.messages == task.chat_ctx.messages


@virtual_time
async def test_an_inline_task_that_was_given_the_earlier_context_knows_it_and_gives_back_only_what_is_new() -> None:
    class Knowing(InlineTask[str]):
        async def on_enter(self) -> None:
            await self.agent.say("Your name?")
            self.complete("Ann")

    class Desk(AgentTask):
        @ai_function
        async def book(self) -> str:
            """Book."""
            knowing = Knowing(instructions="", chat_ctx=self.chat_ctx)
            assert said(knowing) == ["A room."]
            return await knowing

    task = Desk(instructions="")
    async with Call(agent_of(task), BOOK, "Booked.") as call:
        await call.write("A room.")
        assert said(task) == ["A room.", "Your name?", "Booked."]


@virtual_time
async def test_it_is_in_order_too_where_a_speech_was_kept_after_what_came_later() -> None:
    async def enter(ask: Asking) -> None:
        long = ask.agent.say("This takes a while to say.", allow_interruptions=False)
        await asyncio.sleep(0.1)
        reply = ask.agent.generate_reply(user_input="While it is said.")
        await long
        await reply
        ask.complete("Ann")

    task = desk([], lambda: Asking([], "name", enter=enter))
    async with Call(agent_of(task), BOOK, "And then?", "Booked.") as call:
        await call.write("A room.")
        await call.until(lambda: outputs(call))
        await call.settled()
        spoken = ["This takes a while to say.", "While it is said.", "And then?"]
        assert said(task) == ["A room.", *spoken, "Booked."]


@virtual_time
async def test_it_may_be_awaited_in_every_hook_of_a_task() -> None:
    noted: list[str] = []

    def asks(name: str) -> Act:
        async def act(_: object) -> None:
            noted.append(await Ask(noted, name))

        return act

    task = desk(noted, enter=asks("name"), end_of_turn=asks("age"), leave=asks("mood"))
    answer = [calls("answer", value=value) for value in ("Ann", "40", "good")]
    async with Call(agent_of(task), answer[0], answer[1], "I see.", answer[2]) as call:
        await call.until(lambda: "enter name" in noted)
        for text in ("Ann", "Hello.", "40"):
            await call.write(text)
        call.agent.update_task(AgentTask(instructions="Something else."))
        await call.until(lambda: "enter mood" in noted)
        await call.write("Good.")
        await call.until(lambda: "good" in noted)
        assert type(call.agent.current_task) is AgentTask
    steps = [["enter name", "end of turn name", "exit name", "Ann"], ["enter age", "end of turn age", "exit age", "40"]]
    assert noted[:11] == ["enter desk", *steps[0], "end of turn desk", *steps[1], "exit desk"]
    assert noted[11:] == ["enter mood", "end of turn mood", "exit mood", "good"]


@virtual_time
async def test_it_may_be_awaited_in_the_run_of_another() -> None:
    noted: list[str] = []

    class Form(InlineTask[str]):
        async def run(self) -> None:
            self.complete(f"{await Ask(noted, 'name')} {await Ask(noted, 'town')}")

    task = desk(noted, lambda: Form(instructions=""))
    steps = BOOK, calls("answer", value="Ann"), calls("answer", value="Rome"), "Booked."
    async with Call(agent_of(task), *steps) as call:
        for text in ("Book.", "Ann", "Rome"):
            await call.write(text)
        call.expect.skip(len(call.happened) - 2).function_output("Ann Rome").message("Booked.")


@dataclass
class Address:
    """What a typed inline task gives."""

    street: str
    number: int


@virtual_time
async def test_a_result_may_be_of_any_type_and_reaches_the_awaiting_code_as_it_is() -> None:
    given: list[Address] = []

    class AskAddress(InlineTask[Address]):
        @ai_function
        async def answer(self, street: str, number: int) -> None:
            """Take it."""
            self.complete(Address(street, number))

    async def act() -> Address:
        address = await AskAddress(instructions="Ask where they live.")
        given.append(address)
        return address

    async with Call(agent_of(desk([], act)), BOOK, calls("answer", street="Elm", number=3), "Thanks.") as call:
        await call.write("Book.")
        await call.write("Elm 3")
        call.expect.skip(len(call.happened) - 2).function_output('{"street":"Elm","number":3}').message("Thanks.")
    assert given == [Address("Elm", 3)]


@virtual_time
async def test_three_inline_tasks_nest_and_end_from_the_innermost_out() -> None:
    noted: list[str] = []
    inner = Ask(noted, "third")
    middle = Asking(noted, "second", enter=lambda task: finish(task, inner))
    outer = Asking(noted, "first", enter=lambda task: finish(task, middle))

    async def finish(task: Asking, below: InlineTask[str]) -> None:
        task.complete(f"{await below} via {task.name}")

    task = desk(noted, lambda: outer)
    async with Call(agent_of(task), BOOK, calls("answer", value="Ann"), "Booked.") as call:
        await call.write("Book.")
        await call.write("Ann")
        call.expect.skip(len(call.happened) - 2).function_output("Ann via second via first").message("Booked.")
        assert said(task) == ["Book.", "Your third?", "Ann", "Booked."]
    entered = ["enter first", "enter second", "enter third", "end of turn third"]
    assert noted[2:] == [*entered, "exit third", "exit second", "exit first", "exit desk"]


@virtual_time
async def test_two_functions_of_one_step_that_each_await_one_get_them_one_after_the_other() -> None:
    noted: list[str] = []
    task = desk(noted, lambda: Ask(noted, "name"), lambda: Ask(noted, "town"))
    both = step(BOOK, calls("book2"))
    answers = calls("answer", value="Ann"), calls("answer", value="Rome")
    async with Call(agent_of(task), both, *answers, "Booked.") as call:
        for text in ("Book.", "Ann", "Rome"):
            await call.write(text)
        call.expect.skip(len(call.happened) - 3).function_output("Ann").function_output("Rome").message("Booked.")
    first = ["enter name", "end of turn name", "exit name"]
    assert noted[2:] == [*first, "enter town", "end of turn town", "exit town", "exit desk"]


@virtual_time
async def test_time_limits_of_functions_and_hooks_stand_still_while_they_await_one() -> None:
    async def enter(_: object) -> None:
        await Ask([], "name")

    task = desk([], lambda: Ask([], "town"), enter=enter)
    agent = agent_of(task, function_timeout=2.0, hook_timeout=2.0)
    answers = calls("answer", value="Ann"), calls("answer", value="Rome")
    async with Call(agent, answers[0], BOOK, answers[1], "Booked.") as call:
        await asyncio.sleep(100)  # the caller takes their time
        await call.write("Ann")
        await call.write("Book.")
        await asyncio.sleep(100)
        await call.write("Rome")
        call.expect.skip(len(call.happened) - 2).function_output("Rome").message("Booked.")
        assert told(call) == []


# --- errors -----------------------------------------------------------------------------------------------------------


@virtual_time
async def test_an_ai_error_is_raised_by_the_await_and_told_to_the_llm_when_the_function_lets_it_through() -> None:
    caught: list[str] = []

    async def careful() -> str:
        caught.append(await raised(Ask([], "town")))
        return "no town"

    task = desk([], lambda: Ask([], "name"), careful)
    steps = BOOK, calls("refuse"), calls("book2"), calls("refuse"), "Very well."
    async with Call(agent_of(task), *steps) as call:
        for text in ("Book.", "No.", "No again."):
            await call.write(text)
        assert outputs(call) == ["the caller refused"]
        assert outputs(call, "book2") == ["no town"]
        assert call.script.requests[2].chat[-1].text == "Error: the caller refused"
    assert caught == ["AIError: the caller refused"]


@virtual_time
async def test_one_that_can_not_be_entered_raises_task_failed_in_the_code_that_awaits_it() -> None:
    noted: list[str] = []
    task = desk(noted, lambda: raised(Asking(noted, "broken", enter=fails)))
    async with Call(agent_of(task), BOOK, "Sorry.") as call:
        await call.write("Book.")
        [output] = outputs(call)
        assert output.startswith("TaskFailed: Asking could not be entered: on_enter of Asking raised ValueError")
        assert call.agent.current_task is task
    assert noted == ["enter desk", "end of turn desk", "enter broken", "exit broken", "exit desk"]


@virtual_time
async def test_awaiting_one_twice_is_a_runtime_error() -> None:
    async def twice() -> str:
        ask = Asking([], "name", enter=completes)
        return f"{await ask}; {await raised(ask)}"

    async with Call(agent_of(desk([], twice)), BOOK, "Done.") as call:
        await call.write("Book.")
        assert outputs(call) == ["done; RuntimeError: Asking was awaited already: make a new one for each await"]


@virtual_time
async def test_awaiting_one_while_another_awaits_it_is_a_runtime_error() -> None:
    async def twice() -> str:
        ask = Asking([], "name", enter=completes)
        return "; ".join(await asyncio.gather(raised(ask), raised(ask)))

    async with Call(agent_of(desk([], twice)), BOOK, "Done.") as call:
        await call.write("Book.")
        assert outputs(call) == ["done; RuntimeError: Asking was awaited already: make a new one for each await"]


@virtual_time
async def test_awaiting_one_where_it_may_not_be_is_a_runtime_error_that_says_where_it_may() -> None:
    where = r"can't be awaited here: await it in an async @ai_function, in a hook, or in the run\(\) of another"
    async with Call(VoiceAgent(instructions="")):
        with pytest.raises(RuntimeError, match=where):
            await Asking([], "name")


@virtual_time
async def test_awaiting_one_in_a_function_that_is_not_async_is_a_runtime_error() -> None:
    @ai_function(name="book")
    def in_a_thread() -> str:
        """Book."""
        return asyncio.run(raised(Asking([], "name")))

    async with Call(agent_of(Hooked([], "desk", ai_functions=[in_a_thread])), BOOK, "Done.") as call:
        await call.write("Book.")
        [output] = outputs(call)
        assert output.startswith("RuntimeError: Asking can't be awaited in the function book of Hooked: await it in an")


@virtual_time
async def test_awaiting_one_in_what_outlives_the_function_that_started_it_is_a_runtime_error() -> None:
    ended = asyncio.Event()
    left: list[asyncio.Task[str]] = []

    async def later() -> str:
        await ended.wait()
        return await raised(Asking([], "name"))

    async def act() -> str:
        left.append(asyncio.create_task(later()))
        return "begun"

    async with Call(agent_of(desk([], act)), BOOK, "Done.") as call:
        await call.write("Book.")
        ended.set()
        assert (
            await left[0] == "RuntimeError: Asking can't be awaited here: the function book of Hooked has ended already"
        )


@virtual_time
async def test_one_that_waits_for_its_turn_when_the_function_ends_is_a_runtime_error_too() -> None:
    left: list[asyncio.Task[str]] = []
    noted: list[str] = []

    async def act() -> str:
        ask = Ask(noted, "name")
        left.append(asyncio.create_task(raised(Ask(noted, "town"))))  # goes first
        left.append(asyncio.create_task(raised(ask)))
        await asyncio.sleep(1)
        return "begun"

    task = desk(noted, act)
    async with Call(agent_of(task), BOOK, "Done.") as call:
        await call.write("Book.")
        await call.until(lambda: all(one.done() for one in left) or call.agent.current_task is task)
        await asyncio.wait({left[1]})
        assert left[0].cancelled()
        assert left[1].result() == "RuntimeError: Ask can't be awaited: the function book of Hooked has ended"
        assert call.agent.current_task is task
    assert noted == ["enter desk", "end of turn desk", "enter town", "exit town", "exit desk"]


@virtual_time
async def test_returning_one_from_a_function_is_an_error_that_the_log_explains(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def act() -> InlineTask[str]:
        return Asking([], "name")

    task = desk([], act)
    async with Call(agent_of(task), BOOK, "Sorry.") as call:
        await call.write("Book.")
        assert outputs(call) == ["an internal error occurred; the function has failed"]
        assert call.agent.current_task is task
    assert "returned the InlineTask Asking: an async function awaits it, `await Asking(…)`" in caplog.text


@virtual_time
async def test_when_the_conversation_ends_on_exit_can_not_await_one_any_more() -> None:
    noted: list[str] = []

    async def leave(_: object) -> None:
        noted.append(await raised(Asking(noted, "name")))

    async with Call(agent_of(desk(noted, leave=leave))) as call:
        await call.settled()
        await call.shut_down()
    assert noted[-1] == "ConversationOver: Asking can't be awaited: the conversation is ending"


@virtual_time
async def test_handing_over_to_one_is_an_error_and_changes_nothing() -> None:
    task = desk([])
    async with Call(agent_of(task)) as call:
        message = await raised(call.agent.update_task(Asking([], "name")))
        assert message == "TaskFailed: Asking is an InlineTask: it is awaited, not handed over to"
        assert call.agent.current_task is task


# --- the example of the documentation ---------------------------------------------------------------------------------


class MyTask(InlineTask[str]):
    """Needs no caller."""

    async def run(self) -> None:
        result = await some_async_operation()
        self.complete(result)


async def some_async_operation() -> str:
    """Takes its time."""
    await asyncio.sleep(2)
    return "42 rows"


@ai_function()
async def process_data() -> str:
    """Process the data."""
    task = MyTask(instructions="Process data")
    return await task


@virtual_time
async def test_a_task_whose_run_completes_it_gives_its_result_to_a_free_function() -> None:
    agent = VoiceAgent(task=AgentTask(instructions="", ai_functions=[process_data]), function_timeout=1.0)
    async with Call(agent, calls("process_data"), "Done: 42 rows.") as call:
        await call.write("Process it.")  # at rest while the task runs: the caller might say something
        await call.until(lambda: outputs(call, "process_data"))
        await call.settled()
        call.expect.user("Process it.").handoff(MyTask).handoff(AgentTask, from_=MyTask)
        call.expect.function_call("process_data").function_output("42 rows", is_error=False).message("Done: 42 rows.")
