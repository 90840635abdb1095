"""The hooks of a task: when each runs, in which order, and what becomes of the conversation when one fails.

`on_exit` has a page of its own, `test_lifecycle_exit.py`, and so have the times, `test_lifecycle_times.py`.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

import pytest

from orchestrator import AgentTask, ChatContext, ChatMessage, StopResponse, TaskFailed, ai_function
from orchestrator.events import ErrorOccurred, TurnMetrics
from orchestrator.testing import Call, says, step, virtual_time
from orchestrator.testing.script import calls
from protocol.ingest import Closed
from tests.tasks.hooked import Act, Asking, Hooked, agent_of, fails, hands_over, hangs, told

BROKEN: list[tuple[Act, str]] = [
    (fails, "on_enter of Hooked raised ValueError: the hook is broken"),
    (hangs, "on_enter of Hooked took longer than 5 s"),
]
broken = pytest.mark.parametrize(("act", "why"), BROKEN, ids=["fails", "times out"])


# --- when, and in which order -----------------------------------------------------------------------------------------


@virtual_time
async def test_hooks_run_in_the_order_enter_end_of_turn_exit() -> None:
    # The order column: first, second, last.
    noted: list[str] = []
    async with Call(agent_of(Hooked(noted)), "Hello.") as call:
        await call.write("Hi.")
    assert noted == ["enter first", "end of turn first", "exit first"]


@virtual_time
async def test_on_enter_runs_once_when_the_task_becomes_the_active_one_and_before_any_turn_of_it() -> None:
    # on_enter: the task becomes the active one; first. A turn that comes meanwhile waits for it.
    noted: list[str] = []
    opened = asyncio.Event()

    async def enter(task: AgentTask) -> None:
        assert task.agent.current_task is task
        await opened.wait()
        noted.append("entered")

    async with Call(agent_of(Hooked(noted, enter=enter)), "Hello.", "Hello again.") as call:
        call.send("Hi.")
        await call.until(lambda: noted)
        opened.set()
        await call.settled()
        await call.write("Hi again.")
    assert noted == ["enter first", "entered", "end of turn first", "end of turn first", "exit first"]


@virtual_time
async def test_a_task_has_an_agent_from_on_enter_until_on_exit_and_not_outside() -> None:
    # agent: RuntimeError while not running.
    seen: list[Any] = []

    async def look(task: AgentTask) -> None:
        seen.append(task.agent)

    task = Hooked([], enter=look, end_of_turn=look, leave=look)
    with pytest.raises(RuntimeError, match="Hooked is not running"):
        _ = task.agent
    async with Call(agent_of(task), "Hello.") as call:
        await call.write("Hi.")
    assert seen == [call.agent] * 3
    with pytest.raises(RuntimeError, match="Hooked is not running"):
        _ = task.agent


@virtual_time
async def test_at_a_handoff_the_new_task_is_entered_before_the_old_one_is_left() -> None:
    # The transition is blocked by a failing on_enter, so the new task's comes before the old task's on_exit.
    noted: list[str] = []
    first = Hooked(noted, ai_functions=[hands_over(Hooked(noted, "second"))])
    async with Call(agent_of(first), calls("transfer"), "Second here.") as call:
        await call.write("Transfer me.")
        assert noted == ["enter first", "end of turn first", "enter second", "exit first"]
        await call.write("Hi.")
    assert noted[4:] == ["end of turn second", "exit second"]


@virtual_time
async def test_on_end_of_turn_runs_once_a_turn_before_its_reply_is_generated() -> None:
    # on_end_of_turn: the user's turn is complete, before the reply is generated; not for each step of the reply.
    noted: list[str] = []

    @ai_function
    async def look() -> str:
        """Look."""
        noted.append("function")
        return "nothing there"

    class Writing(Hooked):
        async def llm_node(self, chat_ctx: Any, fnc_ctx: Any) -> Any:
            noted.append("llm")
            async for chunk in self.default.llm_node(chat_ctx, fnc_ctx):
                yield chunk

    async with Call(agent_of(Writing(noted, ai_functions=[look])), calls("look"), "I see.", "Yes.") as call:
        await call.write("Look.")
        await call.write("Sure?")
    turns = ["end of turn first", "llm", "function", "llm", "end of turn first", "llm"]
    assert noted == ["enter first", *turns, "exit first"]


@virtual_time
async def test_on_end_of_turn_does_not_run_for_what_the_agent_says_of_itself() -> None:
    # on_end_of_turn: of the user's turns alone.
    noted: list[str] = []
    async with Call(agent_of(Hooked(noted)), "It is late.") as call:
        await call.settled()
        await call.agent.say("Good evening.")
        await call.agent.generate_reply(instructions="Say something about the time.")
    assert noted == ["enter first", "exit first"]


# --- on_enter fails or times out: the transition is blocked -----------------------------------------------------------


@broken
@virtual_time
async def test_a_handoff_to_a_task_that_cannot_be_entered_leaves_the_earlier_one_active_and_tells_its_llm_why(
    act: Act, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    noted: list[str] = []
    first = Hooked(noted, ai_functions=[hands_over(Hooked(noted, "second", enter=act), "Goodbye.")])
    async with Call(agent_of(first), calls("transfer"), "I can't transfer you.", "Yes, still.") as call:
        await call.write("Transfer me.")
        call.expect.user("Transfer me.").function_call("transfer")
        call.expect.function_output(f"Hooked could not be entered: {why}", is_error=True)
        call.expect.message("Goodbye.").message("I can't transfer you.").nothing_more()
        assert why in call.script.requests[-1].chat[-2].text  # what it is told of the function; "Goodbye." came after
        assert call.agent.current_task is first
        await call.write("Are you there?")
        call.expect.user("Are you there?").message("Yes, still.").nothing_more()
    assert noted.count("exit first") == 1
    assert noted.index("exit second") < noted.index("end of turn first", 2) < noted.index("exit first")
    assert why in caplog.text


@broken
@virtual_time
async def test_update_task_raises_when_awaited_and_an_error_event_tells_why(act: Act, why: str) -> None:
    noted: list[str] = []
    first, second = Hooked(noted), Hooked(noted, "second", enter=act)
    async with Call(agent_of(first), "Hello.") as call:
        await call.settled()
        with pytest.raises(TaskFailed, match=re.escape(why)):
            await call.agent.update_task(second)
        assert [str(event.error) for event in call.events if isinstance(event, ErrorOccurred)] == told(call)
        assert told(call) == [f"Hooked could not be entered: {why}"]
        assert call.agent.current_task is first
        await call.write("Hi.")
    assert noted == ["enter first", "enter second", "exit second", "end of turn first", "exit first"]


@virtual_time
async def test_update_task_that_nobody_awaits_tells_of_its_failure_by_an_error_event() -> None:
    noted: list[str] = []
    first = Hooked(noted)
    async with Call(agent_of(first)) as call:
        await call.settled()
        call.agent.update_task(Hooked(noted, "second", enter=fails))
        await call.until(lambda: "exit second" in noted)
        await call.settled()
        call.expect.error("task_failed", re.compile("the hook is broken")).nothing_more()
        assert call.agent.current_task is first


@broken
@virtual_time
async def test_a_first_task_that_cannot_be_entered_ends_the_conversation_with_a_clear_error_to_the_client(
    act: Act, why: str
) -> None:
    noted: list[str] = []
    async with Call(agent_of(Hooked(noted, enter=act))) as call:
        await call.settled()
        assert call.closed == "task_failed"
    assert told(call) == [f"Hooked could not be entered: {why}"]
    assert isinstance(call.messages[-1], Closed)
    assert call.messages[-1].reason == "task_failed"
    assert noted == ["enter first", "exit first"]


@broken
@virtual_time
async def test_an_inline_task_that_cannot_be_entered_raises_where_it_is_awaited(act: Act, why: str) -> None:
    noted: list[str] = []

    @ai_function
    async def ask() -> str:
        """Ask."""
        with pytest.raises(TaskFailed, match=why.replace("Hooked", "Asking")):
            await Asking(noted, "asking", enter=act)
        return "not asked"

    first = Hooked(noted, ai_functions=[ask])
    async with Call(agent_of(first), calls("ask"), "I could not ask.") as call:
        await call.write("Ask me.")
        call.expect.user().function_call("ask").function_output("not asked").message("I could not ask.").nothing_more()
        assert call.agent.current_task is first
    assert noted == ["enter first", "end of turn first", "enter asking", "exit asking", "exit first"]


@virtual_time
async def test_what_a_task_says_before_its_on_enter_fails_is_cut_off() -> None:
    async def enter(task: AgentTask) -> None:
        task.agent.say("Welcome to billing, where all your questions will be answered.")
        await asyncio.sleep(1)
        raise ValueError("the account is locked")

    first = Hooked([], ai_functions=[hands_over(Hooked([], "second", enter=enter))])
    async with Call(agent_of(first), calls("transfer"), "Billing is closed.") as call:
        await call.write("Billing, please.")
        call.expect.user().function_call("transfer")
        call.expect.function_output(re.compile("the account is locked"), is_error=True)
        call.expect.message(re.compile("^Welcome to billing"), interrupted=True)
        call.expect.message("Billing is closed.").nothing_more()


@virtual_time
async def test_a_task_that_could_not_be_entered_may_be_entered_later() -> None:
    # Every begun on_enter has its on_exit; a task may be entered again after it has left.
    noted: list[str] = []
    second = Hooked(noted, "second", enter=fails)
    async with Call(agent_of(Hooked(noted))) as call:
        await call.settled()
        with pytest.raises(TaskFailed):
            await call.agent.update_task(second)
        second.enter = None
        await call.agent.update_task(second)
        await call.settled()
        assert call.agent.current_task is second
    assert noted == ["enter first", "enter second", "exit second", "enter second", "exit first", "exit second"]


# --- on_end_of_turn: it may edit, it may refuse, it can't stop the turn -----------------------------------------------


@pytest.mark.parametrize(
    ("act", "why"), [(fails, "raised ValueError: the hook is broken"), (hangs, "took longer than 5 s")]
)
@virtual_time
async def test_an_on_end_of_turn_that_fails_or_times_out_is_logged_and_the_turn_goes_on(
    act: Act, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    noted: list[str] = []
    async with Call(agent_of(Hooked(noted, end_of_turn=act)), "Hello.") as call:
        await call.write("Hi.")
        call.expect.user("Hi.").message("Hello.").nothing_more()
    assert f"on_end_of_turn of Hooked {why}; the turn goes on" in caplog.text
    assert told(call) == []
    assert noted == ["enter first", "end of turn first", "exit first"]


class Editing(AgentTask):
    """Adds what it knows to the first reply's context, and corrects what the user has said."""

    def __init__(self) -> None:
        super().__init__(instructions="You are careful.")
        self.turns = 0

    async def on_end_of_turn(self, chat_ctx: ChatContext, new_message: ChatMessage) -> None:
        self.turns += 1
        if self.turns == 1:
            chat_ctx.add_message("system", "The caller is a member.")
            new_message.text = new_message.text.replace("anti phone", "Antiphon")


@virtual_time
async def test_on_end_of_turn_may_edit_the_chat_context_for_this_reply_and_the_new_message_for_good() -> None:
    # It may edit both arguments.
    async with Call(agent_of(Editing()), "It is a runtime.", "You are welcome.") as call:
        await call.write("What is anti phone?")
        await call.write("Thanks.")
        call.expect.user("What is Antiphon?").message("It is a runtime.").user("Thanks.").message().nothing_more()
    first, second = ([item.text for item in request.chat[1:]] for request in call.script.requests)
    assert first == ["What is Antiphon?", "The caller is a member."]
    assert second == ["What is Antiphon?", "It is a runtime.", "Thanks."]


@virtual_time
async def test_on_end_of_turn_may_take_something_out_of_the_context_of_this_reply() -> None:
    async def forget(task: Any) -> None:
        for item in list(task.chat):
            task.chat.remove(item.id)

    class Forgetful(Hooked):
        async def on_end_of_turn(self, chat_ctx: ChatContext, new_message: ChatMessage) -> None:
            self.chat = chat_ctx
            await super().on_end_of_turn(chat_ctx, new_message)

    async with Call(agent_of(Forgetful([], end_of_turn=forget)), "One.", "Two.") as call:
        await call.write("First.")
        await call.write("Second.")
        assert [item.text for item in call.script.requests[-1].chat[1:]] == ["Second."]
        assert [message.text for message in call.agent.chat_ctx.messages] == ["First.", "One.", "Second.", "Two."]


@virtual_time
async def test_stop_response_means_no_reply_and_the_message_is_kept() -> None:
    # raise StopResponse() means no reply.
    async def stay_silent(task: Hooked) -> None:
        assert task.message is not None
        if "by the way" in task.message.text:
            raise StopResponse

    async with Call(agent_of(Hooked([], end_of_turn=stay_silent)), "Seven.") as call:
        await call.write("by the way, three and four")
        call.expect.user("by the way, three and four").nothing_more()
        await call.write("The sum?")
        call.expect.user("The sum?").message("Seven.").nothing_more()
        assert [item.text for item in call.script.requests[0].chat[1:]] == ["by the way, three and four", "The sum?"]
    assert [event.outcome for event in call.events if isinstance(event, TurnMetrics)] == ["no_reply", "completed"]
    assert told(call) == []


# --- what hooks may do ------------------------------------------------------------------------------------------------


@virtual_time
async def test_every_hook_may_say_something_and_have_the_llm_write_something() -> None:
    # Hooks may call say and generate_reply; on_exit's words come before those of the next turn.
    async def speak(task: Hooked) -> None:
        task.agent.say(f"{task.noted[-1]}, said.")
        await task.agent.generate_reply(instructions=f"Say something on {task.noted[-1]}.")

    first = Hooked([], enter=speak, end_of_turn=speak, leave=speak, ai_functions=[hands_over(Hooked([], "second"))])
    script = ("Written on entering.", "Written at the end of the turn.", step(calls("transfer")), "Written on leaving.")
    async with Call(agent_of(first), *script, "Second here.") as call:
        await call.settled()
        await call.write("Transfer me.")
        call.expect.message("enter first, said.").message("Written on entering.")
        call.expect.user("Transfer me.")
        call.expect.message("end of turn first, said.").message("Written at the end of the turn.")
        call.expect.function_call("transfer").function_output().handoff("Hooked")
        call.expect.message("exit first, said.").message("Written on leaving.").nothing_more()
        await call.write("Hi.")
        call.expect.user("Hi.").message("Second here.").nothing_more()
        assert "on exit first" in call.script.requests[3].instructions


@pytest.mark.parametrize("hook", ["enter", "end_of_turn", "leave"])
@virtual_time
async def test_every_hook_may_await_an_inline_task(hook: str) -> None:
    # Hooks may await an InlineTask: it is the active task meanwhile, and the user's turns are its.
    noted: list[str] = []

    async def take(task: Asking) -> None:
        assert task.message is not None
        task.complete(task.message.text)
        raise StopResponse

    async def ask(task: Hooked) -> None:
        noted.append("answer: " + await Asking(noted, "asking", end_of_turn=take))

    first = Hooked(noted, ai_functions=[hands_over(Hooked(noted, "second"))], **{hook: ask})
    async with Call(agent_of(first), *[calls("transfer")]) as call:
        if hook != "enter":
            call.send("Transfer me.")
        await call.until(lambda: "enter asking" in noted)
        call.send("Blue.")
        await call.until(lambda: "answer: Blue." in noted)
        if hook == "enter":
            await call.write("Transfer me.")
        await call.settled()
        assert call.agent.current_task is not first
    asking = ["enter asking", "end of turn asking", "exit asking", "answer: Blue."]
    assert [note for note in noted if note in asking] == asking
    assert noted[noted.index("enter asking") - 1] == f"{hook.replace('_', ' ').replace('leave', 'exit')} first"


@virtual_time
async def test_a_hook_that_hands_over_with_update_task_is_obeyed() -> None:
    # An on_enter that finds that another task should serve.
    noted: list[str] = []
    second = Hooked(noted, "second")

    async def enter(task: AgentTask) -> None:
        task.agent.update_task(second)

    async with Call(agent_of(Hooked(noted, enter=enter)), says("Second here.")) as call:
        await call.settled()
        assert call.agent.current_task is second
        await call.write("Hi.")
    assert noted == ["enter first", "enter second", "exit first", "end of turn second", "exit second"]
