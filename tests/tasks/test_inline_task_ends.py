"""How an InlineTask ends: complete, by its `run()`, or with the code that awaits it; and the turns around its ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from orchestrator import InlineTask, ai_function
from orchestrator.testing import Call, calls, step, virtual_time
from tests.tasks.hooked import Act, Asking, Hooked, agent_of, hands_over
from tests.tasks.inline import BOOK, Ask, completes, desk, outputs, raised, said

HELLO = "examples/audio/01-slt-hello.wav"
ANSWER = calls("answer", value="Ann")


def running(noted: list[str], run: Callable[[InlineTask[str]], Awaitable[None]], name: str = "name") -> InlineTask[str]:
    """One that asks, and whose `run()` is this."""

    class Running(Ask):
        async def run(self) -> None:
            await run(self)

    return Running(noted, name)


def noting_its_end(noted: list[str], awaitable: Awaitable[object]) -> Callable[[], Awaitable[object]]:
    """A function that awaits this, and notes how that ended."""

    async def act() -> object:
        try:
            result = await awaitable
        except asyncio.CancelledError:
            noted.append("cancelled")
            raise
        noted.append(f"result {result}")
        return result

    return act


# --- complete() -------------------------------------------------------------------------------------------------------


@virtual_time
async def test_completing_it_in_its_on_enter_ends_it_without_the_caller() -> None:
    noted: list[str] = []
    task = desk(noted, lambda: Asking(noted, "name", enter=completes))
    async with Call(agent_of(task), BOOK, "Booked.") as call:
        await call.write("Book.")
        assert outputs(call) == ["done"]
        assert said(task) == ["Book.", "Booked."]
    assert noted == ["enter desk", "end of turn desk", "enter name", "exit name", "exit desk"]


@virtual_time
async def test_a_function_that_has_completed_its_task_goes_on_to_its_end_before_on_exit_runs() -> None:
    noted: list[str] = []

    class Working(Asking):
        @ai_function
        async def answer(self) -> str:
            """Take it."""
            self.complete("Ann")
            await self.agent.say("One moment.")
            await asyncio.sleep(10)
            noted.append("worked")
            return "stored"

    task = desk(noted, noting_its_end(noted, Working(noted, "name")))
    async with Call(agent_of(task), BOOK, calls("answer"), "Booked.") as call:
        await call.write("Book.")
        await call.write("Ann")
        assert outputs(call, "answer") == ["stored"]
        assert said(task) == ["Book.", "Ann", "One moment.", "Booked."]  # its result is nobody's any more to tell
    assert noted[3:] == ["end of turn name", "worked", "exit name", "result Ann", "exit desk"]


@virtual_time
async def test_what_it_still_says_is_played_to_its_end_before_it_is_left() -> None:
    noted: list[str] = []

    async def enter(task: Asking) -> None:
        task.agent.say("Thank you so much.").add_done_callback(lambda speech: noted.append(f"said {speech.heard}"))
        task.complete("Ann")

    task = desk(noted, noting_its_end(noted, Asking(noted, "name", enter=enter)))
    async with Call(agent_of(task), BOOK, "Booked.") as call:
        await call.write("Book.")
    assert noted[3:] == ["said Thank you so much.", "exit name", "result Ann", "exit desk"]


@virtual_time
async def test_completing_it_twice_is_a_runtime_error_and_the_first_result_counts() -> None:
    errors: list[str] = []

    async def enter(task: Asking) -> None:
        task.complete("first")
        with pytest.raises(RuntimeError) as error:
            task.complete("second")
        errors.append(str(error.value))

    async with Call(agent_of(desk([], lambda: Asking([], "name", enter=enter))), BOOK, "Booked.") as call:
        await call.write("Book.")
        assert outputs(call) == ["first"]
    assert errors == ["Asking is complete already"]


@virtual_time
async def test_completing_one_that_does_not_run_is_a_runtime_error() -> None:
    not_running = r"Asking is not running: complete\(\) is called while the task is awaited"
    ask = Asking([], "name", enter=lambda _: asyncio.Event().wait())
    task = desk([], lambda: asyncio.wait_for(ask, 1.0))
    with pytest.raises(RuntimeError, match=not_running):
        ask.complete("too early")
    async with Call(agent_of(task), BOOK, "Sorry.") as call:
        await call.write("Book.")
        await call.until(lambda: outputs(call))
        await call.settled()
        with pytest.raises(RuntimeError, match=not_running):
            ask.complete("too late")


@virtual_time
async def test_completing_it_from_a_function_that_is_not_async_is_a_runtime_error() -> None:
    errors: list[str] = []

    class Wrong(Asking):
        @ai_function
        def answer(self) -> None:
            """Take it."""
            try:
                self.complete("Ann")
            except RuntimeError as error:
                errors.append(str(error))

    async with Call(agent_of(desk([], lambda: Wrong([], "name"))), BOOK, calls("answer")) as call:
        await call.write("Book.")
        await call.write("Ann")
        assert isinstance(call.agent.current_task, Wrong)
    assert errors == ["Wrong.complete() was called from a function that is not async: write `async def`"]


# --- run() ------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_run_begins_when_on_enter_has_ended_and_is_cancelled_when_the_task_is_complete() -> None:
    noted: list[str] = []

    async def run(_: object) -> None:
        noted.append("run")
        try:
            await asyncio.Event().wait()
        finally:
            noted.append("run ends")

    task = desk(noted, noting_its_end(noted, running(noted, run)))
    async with Call(agent_of(task), BOOK, ANSWER, "Booked.") as call:
        await call.write("Book.")
        await call.write("Ann")
        assert outputs(call) == ["Ann"]
    ends = ["run ends", "exit name", "result Ann", "exit desk"]
    assert noted[2:] == ["enter name", "run", "end of turn name", *ends]


@virtual_time
async def test_what_run_raises_is_raised_by_the_await() -> None:
    noted: list[str] = []

    async def run(_: object) -> None:
        raise LookupError("no such row")

    task = desk(noted, lambda: raised(running(noted, run)))
    async with Call(agent_of(task), BOOK, "Sorry.") as call:
        await call.write("Book.")
        assert outputs(call) == ["LookupError: no such row"]
    assert noted[2:] == ["enter name", "exit name", "exit desk"]


@virtual_time
async def test_a_run_that_returns_without_completing_leaves_the_task_to_the_caller() -> None:
    async def run(_: object) -> None:
        return

    async with Call(agent_of(desk([], lambda: running([], run))), BOOK, ANSWER, "Booked.") as call:
        await call.write("Book.")
        await asyncio.sleep(100)
        await call.write("Ann")
        assert outputs(call) == ["Ann"]


@virtual_time
async def test_a_run_that_goes_on_after_complete_is_waited_for_and_what_it_raises_then_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    noted: list[str] = []

    async def run(task: InlineTask[str]) -> None:
        task.complete("Ann")
        await asyncio.sleep(5)
        noted.append("run on")
        raise LookupError("no such row")

    task = desk(noted, noting_its_end(noted, running(noted, run)))
    async with Call(agent_of(task), BOOK, "Booked.") as call:
        await call.write("Book.")
        await call.until(lambda: outputs(call))
        await call.settled()
        assert outputs(call) == ["Ann"]
    assert noted[2:] == ["enter name", "run on", "exit name", "result Ann", "exit desk"]
    assert "run() of Running failed after the task was complete" in caplog.text


@virtual_time
async def test_a_run_that_never_ends_after_complete_is_cancelled() -> None:
    async def run(task: InlineTask[str]) -> None:
        task.complete("Ann")
        await asyncio.Event().wait()

    async with Call(agent_of(desk([], lambda: running([], run))), BOOK, "Booked.") as call:
        await call.write("Book.")
        await call.until(lambda: outputs(call))
        await call.settled()


# --- the awaiting code ends, or the conversation does -----------------------------------------------------------------


@virtual_time
async def test_when_the_code_stops_waiting_the_task_is_left_first_and_its_speech_is_cut_off() -> None:
    noted: list[str] = []

    async def enter(task: Asking) -> None:
        task.agent.say("What is your name? " * 10)

    async def act() -> str:
        outcome = await raised(asyncio.wait_for(Asking(noted, "name", enter=enter), 3.0))
        noted.append("goes on")
        return outcome

    task = desk(noted, act)
    async with Call(agent_of(task), BOOK, "Sorry.") as call:
        await call.write("Book.")
        assert outputs(call) == ["TimeoutError: "]
        assert call.agent.current_task is task
        call.expect.user("Book.").handoff().message(interrupted=True).handoff().function_call().function_output()
    assert noted[2:] == ["enter name", "exit name", "goes on", "exit desk"]


@virtual_time
async def test_a_handoff_from_inside_ends_it_then_the_awaiting_code_then_the_earlier_task() -> None:
    noted: list[str] = []
    ask = Asking(noted, "name", ai_functions=[hands_over(Hooked(noted, "billing"), "I transfer you.")])
    task = desk(noted, noting_its_end(noted, ask))
    async with Call(agent_of(task), BOOK, calls("transfer"), "Billing.") as call:
        await call.write("Book.")
        await call.write("I want billing.")
        assert call.agent.current_task.instructions == "You are billing."
        await call.write("Hello.")
        assert call.transcript[-1] == ("agent", "Billing.")
    assert noted[3:7] == ["end of turn name", "enter billing", "exit name", "cancelled"]
    assert noted[7:] == ["exit desk", "end of turn billing", "exit billing"]


async def updates(call: Call, noted: list[str]) -> None:
    await call.agent.update_task(Hooked(noted, "other"))


async def hangs_up(call: Call, _: list[str]) -> None:
    await call.hang_up()


async def shuts_down(call: Call, _: list[str]) -> None:
    await call.shut_down()


async def is_lost(call: Call, _: list[str]) -> None:
    await call.lose_client()


ENDS = pytest.mark.parametrize("end", [updates, hangs_up, shuts_down, is_lost])
End = Callable[[Call, list[str]], Awaitable[None]]


@ENDS
@pytest.mark.parametrize("kind", ["function", "on_enter", "on_end_of_turn", "run"])
@virtual_time
async def test_whatever_ends_the_conversation_or_the_task_ends_it_with_on_exit_once(kind: str, end: End) -> None:
    noted: list[str] = []

    async def slow(_: object) -> None:
        await asyncio.sleep(3)
        noted.append("left name")

    awaits = noting_its_end(noted, Asking(noted, "name", leave=slow))

    async def hook(_: object) -> None:
        await awaits()

    hooks: dict[str, Act] = {kind.removeprefix("on_"): hook} if kind.startswith("on_") else {}
    task = desk(noted, (lambda: running(noted, hook, "form")) if kind == "run" else awaits, **hooks)
    async with Call(agent_of(task), BOOK) as call:
        if kind != "on_enter":
            call.send("Book.")
        await call.until(lambda: "enter name" in noted and call.state == "listening")
        await end(call, noted)
        await call.until(lambda: "exit desk" in noted)
    exits = [note for note in noted if not note.startswith("en")]  # enter, end of turn
    form = ["exit form"] if kind == "run" else []
    assert exits == ["exit name", "left name", "cancelled", *form, "exit desk", *["exit other"] * (end is updates)]


@ENDS
@virtual_time
async def test_one_that_on_exit_awaits_ends_with_the_conversation_and_on_exit_goes_on(end: End) -> None:
    noted: list[str] = []

    async def leave(_: object) -> None:
        noted.append(await raised(Asking(noted, "name")))

    async def hook(_: object) -> None:
        noted.append("exit hook")

    agent = agent_of(desk(noted, leave=leave))
    agent.hooks.add(on_exit=hook)
    async with Call(agent) as call:
        await call.settled()
        await agent.update_task(Hooked(noted, "second"))
        await call.until(lambda: "enter name" in noted)
        await end(call, noted)
        await call.until(lambda: noted.count("exit hook") >= 2)
    assert [note for note in noted[:4] if note != "enter second"] == ["enter desk", "exit desk", "enter name"]
    assert noted.count("exit name") == noted.count("exit desk") == noted.count("exit second") == 1


# --- turns and speech around it ---------------------------------------------------------------------------------------


@virtual_time
async def test_what_the_caller_says_while_it_is_entered_waits_for_its_on_enter_and_is_for_it() -> None:
    noted: list[str] = []

    class Slow(Ask):
        async def on_enter(self) -> None:
            await super().on_enter()
            await asyncio.sleep(3)
            noted.append("entered")

    task = desk(noted, lambda: Slow(noted, "name"))
    async with Call(agent_of(task), BOOK, ANSWER, "Booked.") as call:
        call.send("Book.")
        await call.until(lambda: "enter name" in noted)
        await call.write("Ann.")
        assert outputs(call) == ["Ann"]
        assert call.script.requests[1].instructions == "You are name."
    assert noted[2:] == ["enter name", "entered", "end of turn name", "exit name", "exit desk"]


@virtual_time
async def test_what_the_caller_says_while_it_is_left_waits_for_the_awaiting_code_and_is_for_the_earlier_task() -> None:
    noted: list[str] = []

    async def slow(_: object) -> None:
        await asyncio.sleep(3)
        noted.append("left name")

    async def act() -> str:
        result = await Ask(noted, "name", leave=slow)
        await asyncio.sleep(3)
        noted.append("function ends")
        return result

    task = desk(noted, act)
    async with Call(agent_of(task), BOOK, ANSWER, "Booked for two.") as call:
        await call.write("Book.")
        call.send("Ann.")
        await call.until(lambda: "exit name" in noted)
        await call.write("For two.")
        last = call.script.requests[-1]
        assert last.instructions == "You are desk."
        assert [item.text for item in last.chat[-2:]] == ["Ann", "For two."]  # the result, and then the turn
        assert len(call.script.requests) == 3  # one reply to both
    ends = ["left name", "function ends", "end of turn desk", "exit desk"]
    assert noted[3:] == ["end of turn name", "exit name", *ends]


@virtual_time
async def test_a_turn_that_waits_goes_to_the_second_of_two_inline_tasks_and_not_to_what_lies_between() -> None:
    noted: list[str] = []

    async def slow(_: object) -> None:
        await asyncio.sleep(3)

    task = desk(noted, lambda: Ask(noted, "name", leave=slow), lambda: Ask(noted, "town"))
    steps = step(BOOK, calls("book2")), ANSWER, calls("answer", value="Rome"), "Booked."
    async with Call(agent_of(task), *steps) as call:
        await call.write("Book.")
        call.send("Ann.")
        await call.until(lambda: "exit name" in noted)
        await call.write("Rome.")
        assert (outputs(call), outputs(call, "book2")) == (["Ann"], ["Rome"])
    assert "end of turn desk" not in noted[2:]


@virtual_time
async def test_it_waits_with_its_on_exit_for_its_on_end_of_turn_and_keeps_the_message() -> None:
    noted: list[str] = []

    async def slow(_: object) -> None:
        await asyncio.sleep(3)
        noted.append("turn ended")

    class Polling(Asking):
        async def run(self) -> None:
            await asyncio.sleep(2)
            self.complete("Ann")

    task = desk(noted, lambda: Polling(noted, "name", end_of_turn=slow))
    async with Call(agent_of(task), BOOK, "Booked.") as call:
        await call.write("Book.")
        call.send("Wait.")
        await call.until(lambda: outputs(call))
        await call.settled()
        assert said(task) == ["Book.", "Wait.", "Booked."]
    assert noted[2:] == ["enter name", "end of turn name", "turn ended", "exit name", "exit desk"]


@virtual_time
async def test_the_caller_may_cut_it_off_and_it_stays_the_current_task() -> None:
    noted: list[str] = []

    class Long(Ask):
        async def on_enter(self) -> None:
            self.agent.say("Before we begin I have to tell you a number of things about names. " * 3)

    ask = Long(noted, "name")
    task = desk(noted, lambda: ask)
    async with Call(agent_of(task), BOOK, ANSWER, "Booked.") as call:
        call.send("Book.")
        await call.until(lambda: call.state == "speaking")
        await call.speak(HELLO, "Ann")
        assert call.interruptions == 1
        assert outputs(call) == ["Ann"]
        cut, *rest = said(task)[1:]
        assert cut.startswith("Before we begin")
        assert rest == ["Ann", "Booked."]
        assert [message.interrupted for message in task.chat_ctx.messages] == [False, True, False, False]
