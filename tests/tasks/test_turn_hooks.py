"""Hooks as functions of a Context, which run around every turn of the caller."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orchestrator import Context, StopResponse, VoiceAgent, ai_function
from orchestrator.hooks import Hook
from orchestrator.testing import Call, calls, hangs, says, virtual_time
from protocol.ingest import Audio
from tests.tasks import hooked
from tests.tasks.hooked import Hooked, agent_of, all_three, notes, told, ways_to_end

HELLO = Path(__file__).parent.parent.parent / "examples" / "audio" / "01-slt-hello.wav"
LONG = "This is a long answer, which takes quite some time to be spoken to its very end, as you hear."


@virtual_time
async def test_functions_around_a_turn_run_in_the_order_of_the_diagram() -> None:
    # New input; on_enter; the input is processed; on_end_of_turn; on_exit when the reply has left.
    noted: list[str] = []

    class Writing(Hooked):
        async def llm_node(self, chat_ctx: Any, fnc_ctx: Any) -> Any:
            noted.append("the reply is written")
            return "Hello."

    agent = agent_of(Writing(noted, "task"))
    agent.hooks.add(**all_three(noted, "one"), scope="turn")
    agent.hooks.add(**all_three(noted, "two"), scope="turn")
    async with Call(agent) as call:
        await call.settled()
        await call.write("Hi.")
        await call.until(lambda: "exit one" in noted)
        await call.write("Hi again.")
        await call.until(lambda: noted.count("exit one") == 2)
    before = ["enter one", "enter two", "end of turn task", "the reply is written"]
    turn = [*before, "end of turn one", "end of turn two", "exit two", "exit one"]
    assert noted == ["enter task", *turn, *turn, "exit task"]


@virtual_time
async def test_on_enter_of_a_turn_runs_when_the_user_begins_to_speak_and_on_exit_when_the_reply_was_played() -> None:
    noted: list[str] = []

    async def enter(ctx: Context) -> None:
        noted.append(f"enter, {len(call.transcript)} said, the user is {call._session.states[1]}")

    async def leave(ctx: Context) -> None:
        last = [message for message in call.messages if isinstance(message, Audio)][-1]
        noted.append(f"exit, all is played: {last.last}, heard: {ctx.last_response.text}")

    agent = VoiceAgent(instructions="x")
    agent.hooks.add(on_enter=enter, on_exit=leave, scope="turn")
    async with Call(agent, "Hi there.") as call:
        await call.speak(HELLO, "hello")
        await call.until(lambda: len(noted) == 2)
    assert noted == ["enter, 0 said, the user is speaking", "exit, all is played: True, heard: Hi there."]


@virtual_time
async def test_on_end_of_turn_runs_when_the_reply_is_written_while_it_is_still_spoken() -> None:
    noted: list[str] = []

    async def end_of_turn(ctx: Context) -> None:
        noted.append(call.state)

    agent = VoiceAgent(instructions="x")
    agent.hooks.add(on_end_of_turn=end_of_turn, on_exit=notes(noted, "exit"), scope="turn")
    async with Call(agent, says(LONG, every=0.1)) as call:
        await call.write("Tell me.")
        await call.until(lambda: "exit" in noted)
    assert noted == ["speaking", "exit"]


@virtual_time
async def test_on_exit_of_a_turn_waits_for_its_on_end_of_turn() -> None:
    noted: list[str] = []

    async def slow(ctx: Context) -> None:
        await asyncio.sleep(4)
        noted.append("end of turn")

    agent = VoiceAgent(instructions="x")
    agent.hooks.add(on_end_of_turn=slow, on_exit=notes(noted, "exit"), scope="turn")
    async with Call(agent, "Hi.") as call:
        await call.write("Hello.")
        await call.until(lambda: "exit" in noted)
    assert noted == ["end of turn", "exit"]


@virtual_time
async def test_a_turn_that_comes_before_the_first_task_is_there_has_its_hooks_too() -> None:
    noted: list[str] = []
    agent = VoiceAgent(instructions="x")
    agent.hooks.add(**all_three(noted, "turn"), scope="turn")
    async with Call(agent, "Hello.") as call:
        call.send("Hi.")
        await call.settled()
        await call.until(lambda: "exit turn" in noted)
    assert noted == ["enter turn", "end of turn turn", "exit turn"]


@virtual_time
async def test_an_interrupted_turn_has_its_hooks_and_they_see_their_own_turn() -> None:
    noted: list[str] = []

    async def leave(ctx: Context) -> None:
        figures = ctx.turn_data
        noted.append(f"{ctx.turn} {figures['user_text']} interrupted={figures['interrupted']} ok={figures['ok']}")

    agent = VoiceAgent(instructions="x")
    agent.hooks.add(on_exit=leave, scope="turn")
    async with Call(agent, LONG, "Sure.") as call:
        call.send("Tell me.")
        await call.until(lambda: call.state == "speaking")
        await call.write("Stop.")
        await call.until(lambda: len(noted) == 2)
    assert noted == ["1 Tell me. interrupted=True ok=False", "2 Stop. interrupted=False ok=True"]


@virtual_time
async def test_a_turn_without_a_reply_has_its_hooks() -> None:
    noted: list[str] = []

    async def silence(task: Hooked) -> None:
        raise StopResponse

    agent = agent_of(Hooked([], end_of_turn=silence))
    agent.hooks.add(**all_three(noted, "turn"), scope="turn")
    async with Call(agent) as call:
        await call.write("Hi.")
        await call.until(lambda: "exit turn" in noted)
    assert noted == ["enter turn", "end of turn turn", "exit turn"]


@virtual_time
async def test_a_noise_in_which_nothing_was_said_has_its_hooks() -> None:
    noted: list[str] = []
    agent = VoiceAgent(instructions="x")
    agent.hooks.add(**all_three(noted, "turn"), scope="turn")
    async with Call(agent) as call:
        await call.settled()
        await call.speak(HELLO, "")
        await call.until(lambda: "exit turn" in noted)
    assert noted == ["enter turn", "end of turn turn", "exit turn"]


@pytest.mark.parametrize("hook", [hooked.fails, hooked.hangs])
@virtual_time
async def test_an_on_enter_of_a_turn_that_fails_or_times_out_blocks_this_turn_and_is_told(
    hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    # Blocks state transition if fails: the turn is not answered; its on_exit runs, and the next turn is as ever.
    noted: list[str] = []

    async def enter(ctx: Context) -> None:
        if ctx.turn == 1:
            await hook(ctx)

    agent = agent_of(Hooked([]))
    agent.hooks.add(on_enter=enter, on_exit=notes(noted, "exit"), scope="turn")
    agent.hooks.add(on_enter=notes(noted, "the next hook"), scope="turn")
    async with Call(agent, "Hello.") as call:
        await call.write("Hi.")
        await call.until(lambda: noted == ["exit"])
        assert told(call) == ["turn 1 was not answered: an on_enter hook of the turn has failed"]
        await call.write("Hi again.")
        assert call.transcript[-1] == ("agent", "Hello.")
        assert noted[1] == "the next hook"
    assert "around a turn" in caplog.text


@pytest.mark.parametrize("hook", [hooked.fails, hooked.hangs])
@virtual_time
async def test_on_end_of_turn_and_on_exit_of_a_turn_that_fail_or_hang_are_logged_and_the_turn_goes_on(
    hook: Hook, caplog: pytest.LogCaptureFixture
) -> None:
    noted: list[str] = []
    agent = agent_of(Hooked(noted))
    agent.hooks.add(on_end_of_turn=hook, on_exit=notes(noted, "exit one"), scope="turn")
    agent.hooks.add(on_end_of_turn=notes(noted, "end two"), on_exit=hook, scope="turn")
    async with Call(agent, "Hello.") as call:
        await call.write("Hi.")
        await call.until(lambda: "exit one" in noted)
        call.expect.user("Hi.").message("Hello.").nothing_more()
    assert noted == ["enter first", "end of turn first", "end two", "exit one", "exit first"]
    assert caplog.text.count("around a turn") == 2


@pytest.mark.parametrize("step", [hangs(), says(LONG), calls("work")], ids=["thinking", "speaking", "function"])
@ways_to_end
@virtual_time
async def test_a_conversation_that_ends_in_the_middle_of_a_turn_leaves_the_turn_and_then_the_task(
    end: Callable[[Call], Any], step: Any
) -> None:
    noted: list[str] = []

    async def clean_up(ctx: Context) -> None:
        await asyncio.sleep(2)
        noted.append("exit turn")

    @ai_function
    async def work() -> None:
        """Work."""
        await asyncio.Event().wait()

    agent = agent_of(Hooked(noted, ai_functions=[work]))
    agent.hooks.add(on_end_of_turn=notes(noted, "end turn"), on_exit=clean_up, scope="turn")
    async with Call(agent, step) as call:
        call.send("Hi.")
        await call.until(lambda: call.state == ("speaking" if step == says(LONG) else "thinking"))
        await call.until(lambda: call.script.requests)
        await end(call)
    assert noted == ["enter first", "end of turn first", "end turn", "exit turn", "exit first"]


@ways_to_end
@virtual_time
async def test_a_conversation_that_ends_while_a_hook_of_the_turn_runs_leaves_the_turn_all_the_same(
    end: Callable[[Call], Any],
) -> None:
    noted: list[str] = []
    agent = agent_of(Hooked(noted, end_of_turn=hooked.hangs))
    agent.hooks.add(on_exit=notes(noted, "exit turn"), scope="turn")
    async with Call(agent) as call:
        call.send("Hi.")
        call.send("Hi?")  # waits, and is left too
        await call.until(lambda: "end of turn first" in noted)
        await end(call)
    assert noted == ["enter first", "end of turn first", "exit turn", "exit turn", "exit first"]
