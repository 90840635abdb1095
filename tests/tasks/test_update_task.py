"""Handing over from one task to another by `update_task`: from outside, from functions, and from hooks."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from orchestrator import AgentTask, CallContext, InlineTask, TaskFailed, ai_function
from orchestrator.events import ErrorOccurred
from orchestrator.testing import Call, calls, says, step, virtual_time
from tests.tasks.hooked import Hooked, agent_of, fails, hands_over
from tests.tasks.talk import Billing, changes, greets, shown


@pytest.mark.parametrize("awaited", [True, False])
@virtual_time
async def test_update_task_from_outside_makes_another_task_the_current_one(awaited: bool) -> None:
    noted: list[str] = []
    reception, billing = Hooked(noted), Billing(noted, "billing")
    async with Call(agent_of(reception), "Hello.") as call:
        await call.settled()
        change = call.agent.update_task(billing)
        if awaited:
            await change
            assert call.agent.current_task is billing
        await call.until(lambda: "exit first" in noted)
        assert noted == ["enter first", "enter billing", "exit first"]
        assert changes(call) == [(None, reception), (reception, billing)]
        call.expect.handoff(Billing, from_=Hooked).nothing_more()
        await call.write("Hi.")
    assert call.script.requests[0].instructions == "You are billing."


@pytest.mark.parametrize("awaited", [True, False])
@virtual_time
async def test_update_task_that_fails_leaves_the_earlier_task_and_says_why(awaited: bool) -> None:
    noted: list[str] = []
    reception = Hooked(noted)
    async with Call(agent_of(reception)) as call:
        await call.settled()
        change = call.agent.update_task(Billing(noted, "billing", enter=fails))
        if awaited:
            with pytest.raises(TaskFailed, match="on_enter of Billing raised ValueError: the hook is broken"):
                await change
        await call.until(lambda: any(isinstance(event, ErrorOccurred) for event in call.events))
        assert call.agent.current_task is reception
        assert noted == ["enter first", "enter billing", "exit billing"]
        call.expect.error("task_failed", re.compile("could not be entered")).nothing_more()


@pytest.mark.parametrize("awaited", [True, False])
@virtual_time
async def test_update_task_in_a_function_hands_over_without_a_follow_up_of_the_old_task(awaited: bool) -> None:
    noted: list[str] = []

    async def enters_slowly(_: object) -> None:
        await asyncio.sleep(2)

    billing = Billing(noted, "billing", enter=enters_slowly)

    @ai_function
    async def transfer(context: CallContext) -> str:
        change = context.agent.update_task(billing)
        if awaited:
            await change
        return "done"

    async with Call(agent_of(Hooked(noted, ai_functions=[transfer])), calls("transfer"), "Yes?") as call:
        await call.write("Billing, please.")
        await call.until(lambda: "exit first" in noted)
        assert noted == ["enter first", "end of turn first", "enter billing", "exit first"]
        await call.write("Hello.")
        call.expect.user("Billing, please.")
    assert [request.instructions for request in call.script.requests] == ["You are first.", "You are billing."]


@virtual_time
async def test_the_new_task_may_wait_for_the_reply_that_has_changed_the_task() -> None:
    heard: list[str] = []

    @ai_function
    async def transfer(context: CallContext) -> str:
        async def waits(_: Hooked) -> None:
            await context.speech_handle
            heard.extend(text for who, text in call.transcript if who == "agent")

        context.agent.update_task(Billing([], "billing", enter=waits))
        return "done"

    reception = Hooked([], ai_functions=[transfer])
    async with Call(agent_of(reception), step(says("One moment."), calls("transfer"))) as call:
        await call.write("Billing, please.")
        assert isinstance(call.agent.current_task, Billing)
    assert heard == ["One moment."]


@pytest.mark.parametrize("awaited", [True, False])
@virtual_time
async def test_a_task_that_sends_the_caller_on_in_its_on_enter_is_superseded(awaited: bool) -> None:
    # From on_enter of the task that is being entered: the last one counts, and all earlier ones are left.
    noted: list[str] = []
    billing = Billing(noted, "billing")

    async def sends_on(task: AgentTask) -> None:
        change = task.agent.update_task(billing)
        if awaited:
            await change

    triage = Hooked(noted, "triage", enter=sends_on)
    async with Call(agent_of(Hooked(noted, ai_functions=[hands_over(triage)])), calls("transfer"), "Yes?") as call:
        await call.write("Where to?")
        await call.until(lambda: len(noted) == 6)
        assert call.agent.current_task is billing
        assert sorted(noted) == [
            "end of turn first", "enter billing", "enter first", "enter triage", "exit first", "exit triage"
        ]  # fmt: skip
        await call.write("Hello.")
    assert call.script.requests[1].instructions == "You are billing."


@virtual_time
async def test_a_task_that_fails_after_a_superseding_one_failed_leaves_the_first() -> None:
    noted: list[str] = []

    async def sends_on(task: AgentTask) -> None:
        await task.agent.update_task(Billing(noted, "billing", enter=fails))

    reception = Hooked(noted)
    async with Call(agent_of(reception)) as call:
        await call.settled()
        with pytest.raises(TaskFailed, match="on_enter of Hooked raised TaskFailed: Billing could not be entered"):
            await call.agent.update_task(Hooked(noted, "triage", enter=sends_on))
        assert call.agent.current_task is reception
        assert noted == ["enter first", "enter triage", "enter billing", "exit billing", "exit triage"]


@virtual_time
async def test_update_task_while_a_reply_is_spoken_lets_it_be_heard_to_its_end() -> None:
    noted: list[str] = []
    reply = "This is quite a long answer to a rather short question."
    async with Call(agent_of(Hooked(noted)), reply) as call:
        call.send("Why?")
        await call.until(lambda: call.state == "speaking")
        await call.agent.update_task(Billing(noted, "billing", enter=greets))
        assert "exit first" not in noted
        await call.settled()
        assert [text for who, text in call.transcript if who == "agent"] == [reply, "Billing here."]
        call.expect.user().message(reply, interrupted=False).handoff(Billing).message("Billing here.")
        assert noted[-1] == "exit first"


@virtual_time
async def test_a_task_that_runs_cannot_be_entered_again() -> None:
    # Entering one that is running is a RuntimeError; who does not wait for it learns of it from the error event.
    noted: list[str] = []
    async with Call(agent_of(Hooked(noted))) as call:
        await call.settled()
        with pytest.raises(RuntimeError, match="this Hooked is running already: make a new one"):
            await call.agent.update_task(call.agent.current_task)
        call.agent.update_task(call.agent.current_task)
        await call.until(lambda: len(call.happened) == 2)
        call.expect.error("task_failed").error("task_failed", re.compile("is running already")).nothing_more()
        assert noted == ["enter first"]


@virtual_time
async def test_a_task_that_was_left_may_be_entered_again_and_knows_what_was_said() -> None:
    noted: list[str] = []
    reception, billing = Hooked(noted), Billing(noted, "billing")
    async with Call(agent_of(reception), "Hello.", "Hello again.") as call:
        await call.write("Hi.")
        for task in (billing, reception):
            await call.agent.update_task(task)
            await call.until(lambda: noted[-1].startswith("exit"))
        await call.write("Me again.")
    assert shown(call.script.requests[1])[1:] == ["user: Hi.", "assistant: Hello.", "user: Me again."]
    assert [note for note in noted if "turn" not in note] == [
        "enter first", "enter billing", "exit first", "enter first", "exit billing", "exit first"
    ]  # fmt: skip


@virtual_time
async def test_a_task_that_is_being_left_is_entered_again_when_it_has_left() -> None:
    noted: list[str] = []
    gate = asyncio.Event()

    async def leaves_slowly(task: Hooked) -> None:
        await gate.wait()
        task.noted.append(f"left {task.name}")

    reception, billing = Hooked(noted, leave=leaves_slowly), Billing(noted, "billing")
    async with Call(agent_of(reception)) as call:
        await call.settled()
        await call.agent.update_task(billing)
        back = call.agent.update_task(reception)
        await call.until(lambda: "exit first" in noted)
        assert call.agent.current_task is billing
        gate.set()
        await back
        assert call.agent.current_task is reception
        await call.until(lambda: "exit billing" in noted)
        assert noted == ["enter first", "enter billing", "exit first", "left first", "enter first", "exit billing"]


@virtual_time
async def test_what_the_caller_says_during_a_handoff_goes_to_the_new_task() -> None:
    noted: list[str] = []
    gate = asyncio.Event()

    async def enters_slowly(_: object) -> None:
        await gate.wait()

    billing = Billing(noted, "billing", enter=enters_slowly)
    async with Call(agent_of(Hooked(noted)), "Yes?") as call:
        await call.settled()
        change = call.agent.update_task(billing)
        await call.until(lambda: "enter billing" in noted)
        call.send("Hello.")
        await asyncio.sleep(1)
        assert call.script.requests == []
        gate.set()
        await change
        await call.settled()
        assert [message.text for message in billing.chat_ctx.messages] == ["Hello.", "Yes?"]
    assert call.script.requests[0].instructions == "You are billing."
    assert "end of turn billing" in noted


@virtual_time
async def test_of_two_places_that_change_the_task_at_once_the_later_one_is_obeyed_last() -> None:
    noted: list[str] = []
    billing, support = Billing(noted, "billing"), Hooked(noted, "support")
    reception = Hooked(noted)
    async with Call(agent_of(reception)) as call:
        await call.settled()
        await asyncio.gather(call.agent.update_task(billing), call.agent.update_task(support))
        assert call.agent.current_task is support
        assert changes(call)[1:] == [(reception, billing), (billing, support)]
        await call.until(lambda: "exit billing" in noted)
    assert [note for note in noted if note.startswith("enter")] == ["enter first", "enter billing", "enter support"]
    assert [note for note in noted if note.startswith("exit")] == ["exit first", "exit billing", "exit support"]
    assert noted.index("exit billing") > noted.index("enter support")


@virtual_time
async def test_a_task_that_is_left_cannot_send_the_caller_elsewhere() -> None:
    # It would not be the caller's task any more; and the task that comes back must not wait for it for ever.
    noted: list[str] = []
    failures: list[str] = []

    async def sends_on(task: Hooked) -> None:
        await call.until(lambda: back is not None)
        try:
            await task.agent.update_task(Hooked(noted, "support"))
        except TaskFailed as error:
            failures.append(str(error))

    back: Any = None
    reception = Hooked(noted, leave=sends_on)
    async with Call(agent_of(reception)) as call:
        await call.settled()
        await call.agent.update_task(Billing(noted, "billing"))
        back = call.agent.update_task(reception)
        await back
        assert call.agent.current_task is reception
    assert failures[0] == "Hooked is no longer the current task, and can't hand over to another one"
    assert "enter support" not in noted


@virtual_time
async def test_there_is_no_task_to_change_before_and_after_the_conversation() -> None:
    agent = agent_of(Hooked([]))
    with pytest.raises(RuntimeError, match="the agent is in no conversation"):
        agent.update_task(Billing([]))
    async with Call(agent) as call:
        await call.settled()
    with pytest.raises(RuntimeError, match="the agent is in no conversation"):
        agent.update_task(Billing([]))


@virtual_time
async def test_an_inline_task_is_awaited_and_not_handed_over_to() -> None:
    async with Call(agent_of(Hooked([]))) as call:
        await call.settled()
        with pytest.raises(TaskFailed, match="InlineTask: it is awaited, not handed over to"):
            await call.agent.update_task(InlineTask[str](instructions=""))
