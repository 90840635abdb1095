"""Hooks as functions of a Context, which run for every task.

Those around every turn are in `test_turn_hooks.py`, and what a Context has in `test_hook_context.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import Context, StopResponse, TaskFailed, VoiceAgent, ai_function
from orchestrator.hooks import Hook
from orchestrator.testing import Call, calls, virtual_time
from tests.tasks import hooked
from tests.tasks.hooked import Asking, Hooked, agent_of, all_three, hands_over, notes, told, ways_to_end

# --- adding them ------------------------------------------------------------------------------------------------------


def sync(ctx: Context) -> None:
    """No hook: it is not async."""


class Callback:
    """A hook need not be a function."""

    def __init__(self) -> None:
        self.ran = 0

    async def __call__(self, ctx: Context) -> None:
        self.ran += 1


@pytest.mark.parametrize(
    ("given", "error", "why"),
    [
        ({}, ValueError, "at least one of on_enter=, on_end_of_turn=, on_exit="),
        ({"on_enter": sync}, TypeError, "must be an async function of one Context"),
        ({"on_exit": "exit"}, TypeError, "must be an async function of one Context"),
        ({"on_enter": hooked.fails, "scope": "call"}, ValueError, 'scope=\'call\': it is "task" or "turn"'),
    ],
)
def test_what_is_no_hook_is_refused_when_it_is_added(given: dict[str, Any], error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        VoiceAgent(instructions="x").hooks.add(**given)


@virtual_time
async def test_an_object_with_an_async_call_is_a_hook_too() -> None:
    hook = Callback()
    agent = VoiceAgent(instructions="x")
    agent.hooks.add(on_enter=hook, on_exit=hook)
    async with Call(agent) as call:
        await call.settled()
    assert hook.ran == 2


# --- scope="task" -----------------------------------------------------------------------------------------------------


@virtual_time
async def test_functions_enter_in_the_order_added_before_the_method_and_exit_in_reverse_after_it() -> None:
    noted: list[str] = []
    agent = agent_of(Hooked(noted, "method"))
    agent.hooks.add(**all_three(noted, "one"))
    agent.hooks.add(**all_three(noted, "two"), scope="task")
    async with Call(agent, "Hello.") as call:
        await call.write("Hi.")
    order = ["one", "two", "method"]
    forth = [f"{event} {name}" for event in ("enter", "end of turn") for name in order]
    assert noted == [*forth, "exit method", "exit two", "exit one"]


@virtual_time
async def test_functions_of_scope_task_run_for_every_task_handed_over_to_and_inline() -> None:
    noted: list[str] = []

    async def complete(task: Asking) -> None:
        task.complete("blue")

    @ai_function
    async def ask() -> str:
        """Ask."""
        return await Asking([], enter=complete)

    async def note_enter(ctx: Context) -> None:
        noted.append(f"enter {type(ctx.agent.current_task).__name__}")

    async def note_exit(ctx: Context) -> None:
        noted.append(f"exit {type(ctx.agent.current_task).__name__}")

    class Second(Hooked):
        """Another class, to be told by its name."""

    agent = agent_of(Hooked([], ai_functions=[ask, hands_over(Second([], "second"))]))
    agent.hooks.add(on_enter=note_enter, on_exit=note_exit)
    async with Call(agent, calls("ask"), "Blue.", calls("transfer")) as call:
        await call.write("Ask me.")
        await call.until(lambda: noted == ["enter Hooked", "enter Asking", "exit Asking"])
        await call.write("Transfer me.")
        await call.until(lambda: len(noted) == 5)
    assert noted[3] == "enter Second"
    assert len(noted) == 6  # two exits more: of the first task, then of the second


@pytest.mark.parametrize(
    ("hook", "why"),
    [
        (hooked.fails, "hook fails for Hooked raised ValueError: the hook is broken"),
        (hooked.hangs, "hook hangs for Hooked took longer than 5 s"),
    ],
)
@virtual_time
async def test_an_on_enter_function_that_fails_or_times_out_blocks_the_transition_as_the_method_does(
    hook: Hook, why: str
) -> None:
    noted: list[str] = []
    first = Hooked(noted)
    async with Call(agent_of(first), "Still here.") as call:
        await call.settled()
        call.agent.hooks.add(on_enter=hook, on_exit=notes(noted, "exit function"))
        with pytest.raises(TaskFailed, match=why):
            await call.agent.update_task(Hooked(noted, "second"))
        assert call.agent.current_task is first
        assert told(call) == [f"Hooked could not be entered: {why}"]
        await call.write("Hi.")
    # The method was not reached; on_exit is owed all the same, for the function may have begun something.
    assert noted[1:] == ["exit second", "exit function", "end of turn first", "exit first", "exit function"]


@virtual_time
async def test_an_on_enter_function_that_fails_for_the_first_task_ends_the_conversation() -> None:
    agent = agent_of(Hooked([]))
    agent.hooks.add(on_enter=hooked.fails)
    async with Call(agent) as call:
        await call.settled()
        assert call.closed == "task_failed"
    assert told(call) == ["Hooked could not be entered: hook fails for Hooked raised ValueError: the hook is broken"]


@pytest.mark.parametrize(("hook", "why"), [(hooked.fails, "raised ValueError"), (hooked.hangs, "took longer than 5 s")])
@virtual_time
async def test_functions_at_the_end_of_a_turn_and_at_exit_that_fail_or_hang_are_logged_and_the_others_run(
    hook: Hook, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    noted: list[str] = []
    agent = agent_of(Hooked(noted))
    agent.hooks.add(on_end_of_turn=hook, on_exit=notes(noted, "exit function"))
    agent.hooks.add(on_end_of_turn=notes(noted, "end of turn function"), on_exit=hook)
    async with Call(agent, "Hello.") as call:
        await call.write("Hi.")
        call.expect.user("Hi.").message("Hello.").nothing_more()
    assert noted == ["enter first", "end of turn function", "end of turn first", "exit first", "exit function"]
    assert caplog.text.count(f"for Hooked {why}") == 2
    assert "the turn goes on" in caplog.text


@virtual_time
async def test_a_function_may_raise_stop_response_and_the_others_run_all_the_same() -> None:
    noted: list[str] = []

    async def silence(ctx: Context) -> None:
        raise StopResponse

    agent = agent_of(Hooked(noted))
    agent.hooks.add(on_end_of_turn=silence)
    async with Call(agent) as call:
        await call.write("Hi.")
        call.expect.user("Hi.").nothing_more()
    assert noted == ["enter first", "end of turn first", "exit first"]


@virtual_time
async def test_functions_may_await_an_inline_task_and_have_the_llm_write_something() -> None:
    noted: list[str] = []

    async def answer(task: Asking) -> None:
        assert task.message is not None
        task.complete(task.message.text)
        raise StopResponse

    async def hook(ctx: Context) -> None:
        if type(ctx.agent.current_task) is Hooked:
            ctx.store["name"] = await Asking(noted, "asking", end_of_turn=answer)
            await ctx.agent.generate_reply(instructions=f"Greet {ctx.store['name']}.")

    agent = agent_of(Hooked(noted))
    agent.hooks.add(on_enter=hook)
    async with Call(agent, "Hello, Ann.") as call:
        await call.until(lambda: "enter asking" in noted)
        await call.write("Ann")
        await call.settled()
        assert call.transcript == [("user", "Ann"), ("agent", "Hello, Ann.")]
        assert "Greet Ann." in call.script.requests[0].instructions
    assert noted == ["enter asking", "end of turn asking", "exit asking", "enter first", "exit first"]


@ways_to_end
@virtual_time
async def test_on_exit_functions_run_however_the_conversation_ends(end: Callable[[Call], Any]) -> None:
    noted: list[str] = []
    agent = agent_of(Hooked(noted, enter=hooked.hangs), hook_timeout=60)
    agent.hooks.add(on_exit=notes(noted, "exit one"))
    agent.hooks.add(on_exit=notes(noted, "exit two"))
    async with Call(agent) as call:
        await call.until(lambda: noted)
        await end(call)
    assert noted == ["enter first", "exit first", "exit two", "exit one"]
