"""Handing over from one task to another by what a function returns.

Handing over by `update_task`: `test_update_task.py`; while something else happens: `test_handoff_races.py`.
"""

from __future__ import annotations

import asyncio
import logging
import re
from typing import Any

import pytest

from orchestrator import (
    AgentTask,
    CallContext,
    ChatContext,
    ChatMessage,
    InlineTask,
    SpeechHandle,
    VoiceAgent,
    ai_function,
)
from orchestrator.events import FunctionsExecuted, SpeechCreated
from orchestrator.testing import Call, Script, calls, says, step, virtual_time
from protocol.engine import EngineSpec
from tests.tasks.hooked import Hooked, agent_of, fails, hands_over, hangs
from tests.tasks.talk import Billing, changes, given_back, greets, offered, shown

logger = logging.getLogger(__name__)


@virtual_time
async def test_a_task_alone_hands_over_without_a_word_and_without_another_llm_step() -> None:
    # An AgentTask alone hands over.
    noted: list[str] = []
    billing = Billing(noted, "billing", enter=greets)
    async with Call(agent_of(Hooked(noted, ai_functions=[hands_over(billing)])), calls("transfer")) as call:
        await call.write("Billing, please.")
        call.expect.user().function_call("transfer").function_output("", is_error=False)
        call.expect.handoff(Billing, from_=Hooked).message("Billing here.").nothing_more()
        assert call.agent.current_task is billing
        assert noted == ["enter first", "end of turn first", "enter billing", "exit first"]
    assert noted[4:] == ["exit billing"]


@pytest.mark.parametrize("task_first", [True, False])
@virtual_time
async def test_a_task_with_a_message_says_it_word_for_word_before_the_new_task_speaks(task_first: bool) -> None:
    # (AgentTask, message), in either order: the message is the function's output and is said; no LLM step.
    noted: list[str] = []
    billing = Billing(noted, "billing", enter=greets)

    @ai_function
    async def transfer() -> Any:
        return (billing, "One moment.") if task_first else ("One moment.", billing)

    script = Script(step(says("Well."), calls("transfer")), "You owe nothing.")
    async with Call(agent_of(Hooked(noted, ai_functions=[transfer])), script) as call:
        await call.write("Billing, please.")
        assert call.transcript[1:] == [("agent", "Well."), ("agent", "One moment."), ("agent", "Billing here.")]
        call.expect.user().message("Well.").function_call("transfer").function_output("One moment.")
        call.expect.handoff(Billing).message("One moment.").message("Billing here.").nothing_more()
        assert len(script.requests) == 1
        await call.write("What do I owe?")
    assert script.requests[1].instructions == "You are billing."


@virtual_time
async def test_the_old_task_is_left_after_its_speech_has_been_played() -> None:
    # The new task is entered before the old one is left; its on_exit comes when its speech was played to its end.
    heard: list[str] = []

    async def note_heard(task: Hooked) -> None:
        heard.extend([f"exit of {task.name} after:", *(text for who, text in call.transcript if who == "agent")])

    billing = Billing([], "billing", enter=greets)
    reception = Hooked([], leave=note_heard, ai_functions=[hands_over(billing, "One moment.")])
    async with Call(agent_of(reception), step(says("I see, I see."), calls("transfer"))) as call:
        await call.write("Billing, please.")
        assert heard == ["exit of first after:", "I see, I see.", "One moment."]
        assert call.transcript[-1] == ("agent", "Billing here.")


@virtual_time
async def test_of_two_functions_that_hand_over_in_one_step_the_first_wins_and_the_other_is_told() -> None:
    # In call order, not in the order in which they return.
    noted: list[str] = []
    late = asyncio.Event()

    @ai_function
    async def first() -> Any:
        await late.wait()
        return Billing(noted, "billing"), "To billing."

    @ai_function
    async def second() -> Any:
        late.set()
        return Hooked(noted, "support"), "To support."

    reception = Hooked(noted, ai_functions=[first, second])
    async with Call(agent_of(reception), step(calls("first"), calls("second"))) as call:
        await call.write("Where to?")
        call.expect.user().function_call("first").function_call("second").function_output("To billing.")
        call.expect.function_output("not done: first has handed over to Billing already", is_error=True)
        call.expect.handoff(Billing).message("To billing.").nothing_more()
    assert "enter support" not in noted


BROKEN = [(fails, "on_enter of Billing raised ValueError"), (hangs, "on_enter of Billing took longer than 5 s")]


@pytest.mark.parametrize(("act", "why"), BROKEN, ids=["fails", "times out"])
@virtual_time
async def test_when_the_new_task_cannot_be_entered_the_earlier_one_stays_and_the_llm_is_told(
    act: Any, why: str
) -> None:
    # If on_enter fails the transition is blocked: the earlier task stays active, and is told why.
    noted: list[str] = []
    billing = Billing(noted, "billing", enter=act)
    reception = Hooked(noted, ai_functions=[hands_over(billing)])
    script = Script(calls("transfer"), "Billing is closed.", "Still here.")
    async with Call(agent_of(reception), script) as call:
        await call.write("Billing, please.")
        call.expect.user().function_call().function_output(re.compile(why), is_error=True)
        call.expect.message("Billing is closed.").nothing_more()
        assert call.agent.current_task is reception
        await call.write("Hello?")
        assert noted == ["enter first", "end of turn first", "enter billing", "exit billing", "end of turn first"]
        assert changes(call) == [(None, reception), (reception, billing), (billing, reception)]
        assert all(event.speech.done() for event in call.events if isinstance(event, SpeechCreated))
    assert why in given_back(script.requests[1])[0]
    assert script.requests[2].instructions == "You are first."


@virtual_time
async def test_who_asked_for_silence_is_not_told_of_a_handoff_that_fails() -> None:
    # Explicit interrupt(): no follow-up at all.
    begun, gate = asyncio.Event(), asyncio.Event()

    @ai_function
    async def transfer() -> AgentTask:
        begun.set()
        await gate.wait()
        return Billing([], "billing", enter=fails)

    async with Call(agent_of(Hooked([], ai_functions=[transfer])), calls("transfer")) as call:
        call.send("Billing, please.")
        await begun.wait()
        call.agent.interrupt()
        gate.set()
        await call.settled()
        call.expect.user().function_call().function_output(is_error=True).nothing_more()


@virtual_time
async def test_the_new_task_may_wait_for_what_the_old_one_says() -> None:
    speeches: list[SpeechHandle] = []
    heard: list[str] = []

    async def waits(_: Hooked) -> None:
        for speech in speeches:  # the reply, and the message
            await speech
        heard.extend(text for who, text in call.transcript if who == "agent")

    billing = Billing([], "billing", enter=waits)
    agent = agent_of(Hooked([], ai_functions=[hands_over(billing, "One moment.")]))
    agent.on("speech_created", lambda event: speeches.append(event.speech))
    async with Call(agent, step(says("Well."), calls("transfer"))) as call:
        await call.write("Billing, please.")
        assert call.agent.current_task is billing
    assert heard == ["Well.", "One moment."]


@virtual_time
async def test_what_the_caller_says_while_the_function_works_goes_to_the_task_that_it_hands_over_to() -> None:
    begun, gate = asyncio.Event(), asyncio.Event()
    billing = Billing([], "billing")

    @ai_function
    async def transfer() -> AgentTask:
        begun.set()
        await gate.wait()
        return billing

    script = Script(calls("transfer"), "Nothing.")
    async with Call(agent_of(Hooked([], ai_functions=[transfer])), script) as call:
        call.send("Billing, please.")
        await begun.wait()
        call.send("What do I owe?")
        await asyncio.sleep(1)
        gate.set()
        await call.settled()
        assert [message.text for message in billing.chat_ctx.messages] == ["What do I owe?", "Nothing."]
    assert shown(script.requests[1]) == ["system: You are billing.", "user: What do I owe?"]


@virtual_time
async def test_a_function_that_returns_an_inline_task_is_told_to_await_it(caplog: pytest.LogCaptureFixture) -> None:
    class Ask(InlineTask[str]):
        pass

    reception = Hooked([], ai_functions=[hands_over(Ask(instructions=""))])
    async with Call(agent_of(reception), calls("transfer"), "Sorry.") as call:
        await call.write("Go.")
        call.expect.user().function_call().function_output(is_error=True).message("Sorry.").nothing_more()
    assert "returned the InlineTask Ask: an async function awaits it, `await Ask(…)`" in caplog.text


@virtual_time
async def test_a_function_that_hands_over_to_its_own_task_fails_and_the_llm_is_told() -> None:
    # Entering a task that is running is a RuntimeError.
    @ai_function
    async def again(context: CallContext) -> AgentTask:
        return context.task

    reception = Hooked([], ai_functions=[again])
    async with Call(agent_of(reception), calls("again"), "I am here already.") as call:
        await call.write("Reception, please.")
        call.expect.user().function_call().function_output(re.compile("is running already"), is_error=True)
        call.expect.message("I am here already.").nothing_more()


@virtual_time
async def test_after_a_handoff_the_llm_is_offered_the_new_tasks_functions_and_told_its_instructions() -> None:
    @ai_function
    async def pay() -> None:
        pass

    billing = Billing([], "billing", ai_functions=[pay])
    script = Script(calls("transfer"), "Yes?")
    async with Call(agent_of(Hooked([], ai_functions=[hands_over(billing)])), script) as call:
        await call.write("Billing, please.")
        await call.write("Hello.")
    assert [offered(request) for request in script.requests] == [["transfer"], ["pay"]]
    assert shown(script.requests[1]) == ["system: You are billing.", "user: Hello."]


@virtual_time
async def test_each_task_has_what_was_said_in_it_and_the_agent_has_it_all() -> None:
    # chat_ctx: the task's own; the agent's is the whole conversation, over all tasks.
    known = ChatContext()
    known.add_message("system", "Ann owes nothing.")
    billing = AgentTask(instructions="You are billing.", chat_ctx=known)
    reception = Hooked([], ai_functions=[hands_over(billing, "One moment.")])
    async with Call(agent_of(reception), calls("transfer"), "Nothing.") as call:
        await call.write("Billing, please.")
        await call.write("What do I owe?")
        whole = [getattr(item, "text", item.kind) for item in call.agent.chat_ctx]
    old = ["Billing, please.", "function_call", "function_output", "One moment."]
    assert [getattr(item, "text", item.kind) for item in reception.chat_ctx] == old
    new = ["Ann owes nothing.", "What do I owe?", "Nothing."]
    assert [message.text for message in billing.chat_ctx.messages] == new
    assert whole == [*old[:3], "handoff", "One moment.", "What do I owe?", "Nothing."]
    (executed,) = (event for event in call.events if isinstance(event, FunctionsExecuted))
    assert executed.task is reception


# --- as it was first written ------------------------------------------------------------------------------------------


class AlloyTask(AgentTask):
    def __init__(self) -> None:
        super().__init__(
            instructions="You are Alloy.",
            stt=EngineSpec("stt", "deepgram"),
            llm=EngineSpec("llm", "openai", {"model": "gpt-4o-mini"}),
            tts=EngineSpec("tts", "cartesia"),
        )

    async def on_enter(self) -> None:
        logger.info("enter Alloy")

    async def on_exit(self) -> None:
        logger.info("exit Alloy")

    async def on_end_of_turn(self, chat_ctx: ChatContext, new_message: ChatMessage) -> None:
        logger.debug("on_end_of_turn: chat_ctx=%s; new_message=%s", chat_ctx, new_message)

    @ai_function
    async def talk_to_echo(self, context: CallContext) -> Any:
        logger.info(context.function_call.name)
        return EchoTask(), "Transferring you to Echo."


class EchoTask(AgentTask):
    def __init__(self) -> None:
        super().__init__(instructions="You are Echo.")

    async def on_enter(self) -> None:
        logger.info("enter Echo")

    async def on_exit(self) -> None:
        logger.info("exit Echo")

    @ai_function
    async def talk_to_alloy(self, context: CallContext) -> Any:
        return AlloyTask(), "Transferring you to Alloy."


@virtual_time
async def test_two_tasks_may_hand_over_to_each_other(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=__name__)
    script = Script(calls("talk_to_echo"), calls("talk_to_alloy"), "Alloy here.")
    async with Call(VoiceAgent(task=AlloyTask()), script) as call:
        for text in ("Echo, please.", "Alloy, please.", "Hello."):
            await call.write(text)
        call.expect.user().function_call("talk_to_echo").function_output("Transferring you to Echo.")
        call.expect.handoff(EchoTask, from_=AlloyTask).message("Transferring you to Echo.")
        call.expect.user().function_call("talk_to_alloy").function_output("Transferring you to Alloy.")
        call.expect.handoff(AlloyTask, from_=EchoTask).message("Transferring you to Alloy.")
        call.expect.user("Hello.").message("Alloy here.").nothing_more()
    assert [request.instructions for request in script.requests] == [
        "You are Alloy.", "You are Echo.", "You are Alloy."
    ]  # fmt: skip
    logged = [record.message for record in caplog.records if record.name == __name__]
    assert logged == [
        "enter Alloy",
        "talk_to_echo",
        "enter Echo",
        "exit Alloy",
        "enter Alloy",
        "exit Echo",
        "exit Alloy",
    ]
