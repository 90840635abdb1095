"""What a hook function is given: its conversation, its turn, and what a user keeps and registers."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator import AgentTask, Context, LastResponse, VoiceAgent, hooks
from orchestrator.testing import Call, fails, pause, says, step, virtual_time
from tests.tasks.hooked import Hooked, agent_of, ways_to_end

LONG = "This is a long answer, which takes quite some time to be spoken to its very end, as you hear."

Look = Callable[[Context], Awaitable[object]]


def agent_with(*, scope: Any = "task", **hooks: Look) -> VoiceAgent:
    """An agent with these hooks."""
    agent = VoiceAgent(instructions="You are plain.")
    agent.hooks.add(scope=scope, **hooks)
    return agent


# --- the conversation -------------------------------------------------------------------------------------------------


@virtual_time
async def test_conversation_id_and_user_id_are_those_of_the_session() -> None:
    seen: list[Context] = []

    async def look(ctx: Context) -> None:
        seen.append(ctx)

    async with Call(agent_with(on_enter=look), user_id="ann@example.org") as call:
        await call.settled()
    (ctx,) = seen
    assert ctx.conversation_id == call.session_info.id
    assert ctx.user_id == "ann@example.org"
    assert ctx.agent is call.agent


@virtual_time
async def test_store_is_kept_for_the_whole_conversation_and_shared_by_all_its_hooks() -> None:
    # A dict kept for the conversation: over tasks, over turns, in both scopes.
    seen: list[dict[str, Any]] = []

    async def load(ctx: Context) -> None:
        ctx.store.setdefault("tasks", []).append(type(ctx.agent.current_task).__name__)

    async def count(ctx: Context) -> None:
        ctx.store["turns"] = ctx.store.get("turns", 0) + 1

    async def look(ctx: Context) -> None:
        seen.append(dict(ctx.store))

    agent = agent_with(on_enter=load, on_exit=look)
    agent.hooks.add(on_enter=count, scope="turn")
    async with Call(agent, "One.", "Two.") as call:
        await call.write("First.")
        await call.agent.update_task(Hooked([]))
        await call.write("Second.")
    assert seen[-1] == {"tasks": ["AgentTask", "Hooked"], "turns": 2}


@virtual_time
async def test_two_conversations_share_nothing() -> None:
    seen: list[dict[str, Any]] = []

    async def look(ctx: Context) -> None:
        seen.append({**ctx.store, **ctx.temp})
        ctx.store["known"] = ctx.temp["known"] = True

    for _ in range(2):
        async with Call(agent_with(on_enter=look)) as call:
            await call.settled()
    assert seen == [{}, {}]


@virtual_time
async def test_temp_is_kept_until_clear_temp_data_which_leaves_the_store_alone() -> None:
    seen: list[tuple[dict[str, Any], dict[str, Any]]] = []

    async def enter(ctx: Context) -> None:
        ctx.store["user"] = "Ann"
        ctx.temp["draft"] = "a letter"

    async def end_of_turn(ctx: Context) -> None:
        seen.append((dict(ctx.store), dict(ctx.temp)))
        ctx.clear_temp_data()

    async with Call(agent_with(on_enter=enter, on_end_of_turn=end_of_turn), "One.", "Two.") as call:
        await call.write("First.")
        await call.write("Second.")
    assert seen == [({"user": "Ann"}, {"draft": "a letter"}), ({"user": "Ann"}, {})]


@ways_to_end
@virtual_time
async def test_session_is_active_as_long_as_the_caller_can_hear_something(end: Any) -> None:
    seen: list[bool] = []

    async def look(ctx: Context) -> None:
        seen.append(ctx.session_active)

    async with Call(agent_with(on_enter=look, on_exit=look)) as call:
        await call.settled()
        await end(call)
    assert seen == [True, end is Call.shut_down]


@virtual_time
async def test_session_is_active_in_on_exit_at_a_handoff() -> None:
    seen: list[bool] = []

    async def look(ctx: Context) -> None:
        seen.append(ctx.session_active)

    async with Call(agent_with(on_exit=look)) as call:
        await call.settled()
        await call.agent.update_task(AgentTask(instructions="You are next."))
        await call.until(lambda: seen == [True])


# --- messages ---------------------------------------------------------------------------------------------------------


@virtual_time
async def test_send_message_says_it_to_the_caller_without_waiting_for_its_end() -> None:
    async def enter(ctx: Context) -> None:
        speech = await ctx.send_message("Welcome! How can I help?")
        assert speech is not None
        assert not speech.done()

    async with Call(agent_with(on_enter=enter)) as call:
        await call.settled()
        call.expect.message("Welcome! How can I help?").nothing_more()


@virtual_time
async def test_what_send_message_returns_can_be_awaited_to_its_end() -> None:
    async def enter(ctx: Context) -> None:
        speech = await ctx.send_message(LONG)
        assert speech is not None
        await speech
        assert speech.heard == LONG

    async with Call(agent_with(on_enter=enter)) as call:
        await call.settled()
        assert call.closed is None


@ways_to_end
@virtual_time
async def test_send_message_in_on_exit_is_heard_by_a_caller_who_is_still_there_and_else_says_nothing(end: Any) -> None:
    said: list[bool] = []

    async def leave(ctx: Context) -> None:
        said.append(await ctx.send_message("Session ending in 5 seconds...") is not None)

    async with Call(agent_with(on_exit=leave)) as call:
        await call.settled()
        await end(call)
    there = end is Call.shut_down
    assert said == [there]
    assert call.transcript == [("agent", "Session ending in 5 seconds...")] * there


# --- turns ------------------------------------------------------------------------------------------------------------


@virtual_time
async def test_turn_duration_grows_from_the_begin_of_the_turn_until_its_reply_has_left() -> None:
    seen: list[float] = []
    contexts: list[Context] = []

    async def look(ctx: Context) -> None:
        seen.append(round(ctx.turn_duration, 1))
        contexts.append(ctx)

    agent = agent_with(on_enter=look, on_end_of_turn=look, on_exit=look, scope="turn")
    agent.hooks.add(on_enter=look)
    async with Call(agent, step(pause(2.0), says("x" * 50))) as call:  # 50 characters are spoken in 3 s
        await call.settled()
        await call.write("Hi.")
        await call.until(lambda: len(seen) == 4)
        await asyncio.sleep(10)
        assert round(contexts[-1].turn_duration, 1) == 5.0
    assert seen == [0.0, 0.0, 2.0, 5.0]  # before the first turn; its three events


@virtual_time
async def test_last_response_is_the_newest_reply_with_how_it_went() -> None:
    seen: list[LastResponse] = []

    async def look(ctx: Context) -> None:
        seen.append(ctx.last_response)

    agent = agent_with(on_enter=look)
    agent.hooks.add(on_exit=look, scope="turn")
    steps = ("Hello.", LONG, "Stopped.", fails("the model is down", "fatal"))
    async with Call(agent, *steps) as call:
        await call.settled()
        await call.write("Hi.")
        call.send("Tell me.")
        await call.until(lambda: call.state == "speaking")
        await asyncio.sleep(2)
        await call.write("Stop.")
        await call.write("And now?")
        await call.until(lambda: len(seen) == 5)
    assert seen[0] == LastResponse(ok=False, text="", interrupted=False, error=None)
    assert seen[1] == LastResponse(ok=True, text="Hello.", interrupted=False, error=None)
    assert (seen[2].ok, seen[2].interrupted, seen[2].error) == (False, True, None)
    assert LONG.startswith(seen[2].text)
    assert 0 < len(seen[2].text) < len(LONG)  # as it was heard
    assert seen[3].text == "Stopped."
    assert (seen[4].ok, seen[4].text, seen[4].interrupted) == (False, "", False)
    assert "the model is down" in str(seen[4].error)


@virtual_time
async def test_on_end_of_turn_around_a_turn_sees_the_reply_of_this_turn_and_that_of_a_task_the_one_before() -> None:
    # One runs when the reply has been made, the other before it is.
    seen: list[str] = []

    async def around(ctx: Context) -> None:
        seen.append(f"around: {ctx.last_response.text}")

    async def before(ctx: Context) -> None:
        seen.append(f"before: {ctx.last_response.text} ({ctx.turn_data['response_text']})")

    agent = agent_with(on_end_of_turn=before)
    agent.hooks.add(on_end_of_turn=around, scope="turn")
    async with Call(agent, "One.", "Two.") as call:
        await call.write("First.")
        await call.write("Second.")
    assert seen == ["before:  ()", "around: One.", "before: One. ()", "around: Two."]


@virtual_time
async def test_turn_data_has_the_turn_in_plain_figures() -> None:
    seen: list[dict[str, Any]] = []

    async def leave(ctx: Context) -> None:
        seen.append(ctx.turn_data)

    async def correct(task: Hooked) -> None:
        assert task.message is not None
        task.message.text = task.message.text.capitalize()

    agent = agent_of(Hooked([], end_of_turn=correct))
    agent.hooks.add(on_exit=leave, scope="turn")
    async with Call(agent, step(pause(2.0), says("x" * 50)), user_id="ann") as call:
        await call.settled()
        await call.write("hi.")
        await call.until(lambda: seen)
    assert seen[0].pop("duration_s") == pytest.approx(5.0, abs=0.05)
    assert seen[0] == {
        "conversation_id": call.session_info.id,
        "user_id": "ann",
        "turn": 1,
        "user_text": "Hi.",
        "response_text": "x" * 50,
        "ok": True,
        "interrupted": False,
    }


# --- errors -----------------------------------------------------------------------------------------------------------


@virtual_time
async def test_log_error_writes_the_message_the_conversation_and_the_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def enter(ctx: Context) -> None:
        try:
            raise ConnectionError("no route to the database")
        except ConnectionError as error:
            ctx.log_error("Failed to load the profile", error=error)
        ctx.log_error("Only a sentence")

    async with Call(agent_with(on_enter=enter)) as call:
        await call.settled()
        assert call.closed is None
    first, second = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert first.getMessage() == f"conversation {call.session_info.id}: Failed to load the profile"
    assert first.exc_info is not None
    assert str(first.exc_info[1]) == "no route to the database"
    assert second.getMessage() == f"conversation {call.session_info.id}: Only a sentence"
    assert second.exc_info is None


# --- what is registered on the agent ----------------------------------------------------------------------------------


@virtual_time
async def test_get_db_connection_opens_one_with_the_factory_of_the_agent_and_closes_it_whatever_happens() -> None:
    noted: list[str] = []

    @asynccontextmanager
    async def connect() -> AsyncIterator[str]:
        noted.append("opened")
        try:
            yield "a connection"
        finally:
            noted.append("closed")

    async def leave(ctx: Context) -> None:
        async with ctx.get_db_connection() as connection:
            noted.append(connection)
            raise ConnectionError("gone")

    agent = VoiceAgent(instructions="x", db_connection=connect)
    agent.hooks.add(on_exit=leave)
    async with Call(agent) as call:
        await call.settled()
    assert noted == ["opened", "a connection", "closed"]


@virtual_time
async def test_a_connection_is_closed_when_the_time_of_the_hook_is_over() -> None:
    noted: list[str] = []

    @asynccontextmanager
    async def connect() -> AsyncIterator[None]:
        try:
            yield
        finally:
            noted.append("closed")

    async def leave(ctx: Context) -> None:
        async with ctx.get_db_connection():
            await asyncio.Event().wait()

    agent = VoiceAgent(instructions="x", db_connection=connect)
    agent.hooks.add(on_exit=leave)
    async with Call(agent) as call:
        await call.settled()
    assert noted == ["closed"]


@virtual_time
async def test_what_is_not_registered_is_told_by_name() -> None:
    async def enter(ctx: Context) -> None:
        with pytest.raises(RuntimeError, match=r"needs VoiceAgent\(db_connection=…\)"):
            ctx.get_db_connection()
        with pytest.raises(RuntimeError, match=r"fallback_to_cached_config\(\) needs agent\.hooks\.set_config_loader"):
            ctx.fallback_to_cached_config()
        with pytest.raises(RuntimeError, match=r"load_config\(\) needs agent\.hooks\.set_config_loader"):
            await ctx.load_config()

    async with Call(agent_with(on_enter=enter)) as call:
        await call.settled()
        assert call.closed is None


class Configs:
    """A service that answers while it is up."""

    def __init__(self) -> None:
        self.up = True
        self._version = itertools.count(1)

    async def load(self, ctx: Context) -> dict[str, int]:
        """The loader."""
        if not self.up:
            raise ConnectionError("the service is down")
        return {"version": next(self._version)}


async def load_or_fall_back(ctx: Context) -> None:
    """What a hook does with it."""
    try:
        ctx.store["loaded"] = await ctx.load_config()
    except ConnectionError:
        ctx.store["kept"] = ctx.fallback_to_cached_config()
    assert ctx.config == ctx.store.get("loaded", ctx.store.get("kept"))


@virtual_time
async def test_fallback_to_cached_config_is_the_last_good_result_of_the_loader_in_any_conversation() -> None:
    configs = Configs()
    seen: list[dict[str, Any]] = []

    async def leave(ctx: Context) -> None:
        seen.append(ctx.store)

    for up in (True, True, False):
        configs.up = up
        agent = agent_with(on_enter=load_or_fall_back, on_exit=leave)
        agent.hooks.set_config_loader(configs.load)
        async with Call(agent) as call:
            await call.settled()
    assert seen == [{"loaded": {"version": 1}}, {"loaded": {"version": 2}}, {"kept": {"version": 2}}]


@virtual_time
async def test_without_a_good_result_there_is_nothing_to_fall_back_to_and_on_enter_fails() -> None:
    configs = Configs()
    configs.up = False
    agent = agent_with(on_enter=load_or_fall_back)
    agent.hooks.set_config_loader(configs.load)
    async with Call(agent) as call:
        await call.settled()
        assert call.closed == "task_failed"
        call.expect.error("task_failed")
    assert any("the config loader has not succeeded yet" in str(message) for message in call.messages)


@virtual_time
async def test_a_loader_that_is_made_for_each_conversation_does_not_fill_the_memory() -> None:
    gc.collect()
    before = len(hooks._loaded)
    for _ in range(3):
        agent = agent_with(on_enter=load_or_fall_back)
        agent.hooks.set_config_loader(Configs().load)
        async with Call(agent) as call:
            await call.settled()
    del agent, call
    gc.collect()
    assert len(hooks._loaded) == before


def test_a_loader_that_is_not_async_is_refused() -> None:
    with pytest.raises(TypeError, match="a config loader must be an async function of one Context"):
        VoiceAgent(instructions="x").hooks.set_config_loader(lambda ctx: {})  # type: ignore[arg-type, return-value]
