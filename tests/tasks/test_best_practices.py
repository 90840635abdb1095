"""Hooks as they are meant to be written: loading side by side, trying again, keeping resources, limiting the time.

Each hook is a program's own code; the services that it uses are in the first section.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from orchestrator import AgentTask, CallContext, ChatContext, ChatMessage, Context, VoiceAgent, ai_function
from orchestrator.testing import Call, calls, virtual_time
from protocol.ingest import Closed
from tests.tasks.hooked import Hooked, agent_of, hangs, told, ways_to_end

log = logging.getLogger(__name__)


def now() -> float:
    return asyncio.get_running_loop().time()


# --- the services of a program ----------------------------------------------------------------------------------------


class Users:
    """Who calls. Takes a second."""

    async def get(self, user_id: str) -> dict[str, str]:
        """The user."""
        await asyncio.sleep(1)
        return {"id": user_id, "name": "Ann"}


class Products:
    """What is sold. Takes two seconds."""

    async def fetch_catalog(self) -> list[str]:
        """All of it."""
        await asyncio.sleep(2)
        return ["tea", "coffee"]


class Analytics:
    """Refuses the first so many records."""

    def __init__(self, refuses: int = 0) -> None:
        self.refuses = refuses
        self.tries = 0
        self.turns: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []

    async def log_turn(self, data: dict[str, Any]) -> None:
        """Keep a turn."""
        self.tries += 1
        if self.tries <= self.refuses:
            raise ConnectionError("analytics is busy")
        self.turns.append(data)

    async def track_event(self, **event: Any) -> None:
        """Keep an event."""
        self.events.append(event)


class Connection:
    """To a database."""

    def __init__(self) -> None:
        self.statements: list[str] = []
        self.closed = 0

    async def execute(self, statement: str) -> None:
        """Run it."""
        assert not self.closed
        self.statements.append(statement)

    async def close(self) -> None:
        """Safe to repeat."""
        self.closed += 1


class Database:
    """Keeps the connections that it has opened, and the locks that are held."""

    def __init__(self) -> None:
        self.connections: list[Connection] = []
        self.locks: set[str] = set()

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """What `VoiceAgent(db_connection=…)` takes."""
        connection = Connection()
        self.connections.append(connection)
        try:
            yield connection
        finally:
            await connection.close()

    async def release_lock(self, name: str) -> None:
        """Let others have it."""
        self.locks.remove(name)


class ExternalService:
    """Something that is slow to start when it is not well."""

    def __init__(self) -> None:
        self.well = True

    async def initialize(self) -> dict[str, str]:
        """Its settings."""
        if not self.well:
            await asyncio.Event().wait()
        return {"voice": "warm"}


async def load_profile(user_id: str) -> dict[str, str]:
    """What is known of a user."""
    return {"id": user_id, "language": "English"}


# --- the three hooks --------------------------------------------------------------------------------------------------


@ways_to_end
@virtual_time
async def test_a_profile_is_loaded_turns_are_counted_and_a_lock_is_released(end: Callable[[Call], Any]) -> None:
    db, analytics = Database(), Analytics()

    async def on_enter(ctx: Context) -> None:
        """Initialize conversation state"""
        db.locks.add(ctx.conversation_id)
        ctx.store["user_profile"] = await load_profile(ctx.user_id)
        ctx.temp["draft"] = "Dear Ann"
        await ctx.send_message("Welcome! How can I help?")

    async def on_end_of_turn(ctx: Context) -> None:
        """Post-processing before state transition"""
        await analytics.track_event(event="turn_complete", duration=ctx.turn_duration, success=ctx.last_response.ok)
        ctx.clear_temp_data()
        assert ctx.temp == {}

    async def on_exit(ctx: Context) -> None:
        """Final cleanup operations"""
        assert ctx.store["user_profile"] == {"id": "ann", "language": "English"}
        await db.release_lock(ctx.conversation_id)
        if ctx.session_active:
            await ctx.send_message("Session ending in 5 seconds...")

    agent = VoiceAgent(instructions="You are helpful.")
    agent.hooks.add(on_enter=on_enter, on_exit=on_exit)
    agent.hooks.add(on_end_of_turn=on_end_of_turn, scope="turn")
    async with Call(agent, "With pleasure.", user_id="ann") as call:
        await call.settled()
        assert db.locks == {call.session_info.id}
        await call.write("Help me.")
        await call.until(lambda: analytics.events)
        await end(call)
    assert db.locks == set()
    (event,) = analytics.events
    assert (event["event"], event["success"]) == ("turn_complete", True)
    assert 0 <= event["duration"] < 5
    goodbye = [("agent", "Session ending in 5 seconds...")] * (end is Call.shut_down)
    heard = [("agent", "Welcome! How can I help?"), ("user", "Help me."), ("agent", "With pleasure.")]
    assert call.transcript == [*heard, *goodbye]


@pytest.mark.parametrize("scope", ["task", "turn"])
@virtual_time
async def test_the_three_hooks_may_be_added_in_either_scope(scope: Any) -> None:
    events: list[str] = []

    async def on_enter(ctx: Context) -> None:
        events.append("enter")

    async def on_end_of_turn(ctx: Context) -> None:
        events.append("end of turn")

    async def on_exit(ctx: Context) -> None:
        events.append("exit")

    agent = VoiceAgent(instructions="You are helpful.")
    agent.hooks.add(on_enter=on_enter, on_end_of_turn=on_end_of_turn, on_exit=on_exit, scope=scope)
    async with Call(agent, "One.", "Two.") as call:
        await call.write("First.")
        await call.until(lambda: scope == "task" or events.count("exit") == 1)
        await call.write("Second.")
    around = ["enter", "end of turn", "exit"]
    assert events == (["enter", "end of turn", "end of turn", "exit"] if scope == "task" else around * 2)


class EchoTask(AgentTask):
    """The other one."""

    def __init__(self) -> None:
        super().__init__(instructions="You are Echo.")

    async def on_enter(self) -> None:
        log.info("on_enter of Echo")


class AlloyTask(AgentTask):
    """Hooks as methods, and a function that hands over."""

    def __init__(self) -> None:
        super().__init__(instructions="You are Alloy.")

    async def on_enter(self) -> None:
        log.info("on_enter")

    async def on_exit(self) -> None:
        log.info("on_exit")

    async def on_end_of_turn(self, chat_ctx: ChatContext, new_message: ChatMessage) -> None:
        log.info(f"on_end_of_turn: chat_ctx={chat_ctx}; new_message={new_message}")

    @ai_function
    async def talk_to_echo(self, context: CallContext):  # type: ignore[no-untyped-def]
        """Let the caller talk to Echo."""
        log.info(f"talk_to_echo {context}")
        return EchoTask(), "Transferring you to Echo."


@virtual_time
async def test_hooks_as_methods_log_their_way_through_a_handoff(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, __name__)
    async with Call(agent_of(AlloyTask()), calls("talk_to_echo"), "Echo here.") as call:
        await call.write("Echo, please.")
        await call.write("Hello?")
        call.expect.user("Echo, please.").function_call("talk_to_echo").function_output("Transferring you to Echo.")
        call.expect.handoff(EchoTask, from_=AlloyTask).message("Transferring you to Echo.")
        call.expect.user("Hello?").message("Echo here.").nothing_more()
    logged = [record.getMessage() for record in caplog.records if record.name == __name__]
    assert [line.split(":")[0].split(" <")[0] for line in logged] == [
        "on_enter",
        "on_end_of_turn",
        logged[2].split(" <")[0],
        "on_enter of Echo",
        "on_exit",
    ]
    assert logged[2].startswith("talk_to_echo")
    assert "Echo, please." in logged[1]


# --- 1. independent things are loaded side by side --------------------------------------------------------------------


@virtual_time
async def test_independent_operations_run_in_parallel() -> None:
    users, products = Users(), Products()
    stores: list[dict[str, Any]] = []

    async def on_enter(ctx: Context) -> None:
        user_data, catalog = await asyncio.gather(users.get(ctx.user_id), products.fetch_catalog())
        ctx.store.update(user_data=user_data, catalog=catalog)
        stores.append(ctx.store)

    agent = VoiceAgent(instructions="You sell.")
    agent.hooks.add(on_enter=on_enter)
    async with Call(agent, user_id="ann") as call:
        began = now()
        await call.settled()
        assert now() - began == pytest.approx(2, abs=0.1)  # the longer one, not both
    assert stores == [{"user_data": {"id": "ann", "name": "Ann"}, "catalog": ["tea", "coffee"]}]


@virtual_time
async def test_one_of_the_parallel_operations_that_fails_blocks_the_transition() -> None:
    class NoUsers(Users):
        async def get(self, user_id: str) -> dict[str, str]:
            raise LookupError(f"there is no user {user_id!r}")

    users, products = NoUsers(), Products()

    async def on_enter(ctx: Context) -> None:
        await asyncio.gather(users.get(ctx.user_id), products.fetch_catalog())

    agent = VoiceAgent(instructions="You sell.")
    agent.hooks.add(on_enter=on_enter)
    async with Call(agent, user_id="bob") as call:
        await call.settled()
        assert call.closed == "task_failed"
        await asyncio.sleep(2)  # gather leaves the other one to itself
    assert "there is no user 'bob'" in told(call)[0]


# --- 2. what matters is tried again -----------------------------------------------------------------------------------


def logs_turns(analytics: Analytics) -> Any:
    """A hook with retries."""

    async def on_end_of_turn(ctx: Context) -> None:
        for attempt in range(3):
            try:
                await analytics.log_turn(ctx.turn_data)
                break
            except Exception as e:  # noqa: BLE001  # whatever it is, it is tried again
                if attempt == 2:
                    ctx.log_error("Failed to log turn", error=e)

    return on_end_of_turn


@pytest.mark.parametrize(("refuses", "kept"), [(0, 1), (1, 1), (2, 1), (3, 0)])
@virtual_time
async def test_a_critical_operation_is_tried_again_and_logged_when_all_tries_have_failed(
    refuses: int, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    analytics = Analytics(refuses)
    agent = VoiceAgent(instructions="You are helpful.")
    agent.hooks.add(on_end_of_turn=logs_turns(analytics), scope="turn")
    async with Call(agent, "Hello.") as call:
        await call.write("Hi.")
        call.expect.user("Hi.").message("Hello.").nothing_more()  # the turn goes on in any case
        await call.until(lambda: analytics.tries == min(refuses + 1, 3))
    assert [(turn["user_text"], turn["response_text"]) for turn in analytics.turns] == [("Hi.", "Hello.")] * kept
    assert ("Failed to log turn" in caplog.text) is not kept
    assert ("ConnectionError: analytics is busy" in caplog.text) == (not kept)


# --- 3. resources are kept by context managers ------------------------------------------------------------------------


async def commit(ctx: Context) -> None:
    """Keep what was done."""
    async with ctx.get_db_connection() as conn:
        await conn.execute("COMMIT")
        await conn.close()


@ways_to_end
@virtual_time
async def test_what_was_done_is_committed_on_exit_and_the_connection_is_closed(end: Callable[[Call], Any]) -> None:
    db = Database()
    agent = VoiceAgent(instructions="You are helpful.", db_connection=db.connect)
    agent.hooks.add(on_exit=commit)
    async with Call(agent) as call:
        await call.settled()
        assert db.connections == []
        await end(call)
        assert isinstance(call.messages[-1], Closed)
    (connection,) = db.connections
    assert connection.statements == ["COMMIT"]
    assert connection.closed


@virtual_time
async def test_the_connection_is_closed_when_the_commit_fails_and_leaving_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Broken(Connection):
        async def execute(self, statement: str) -> None:
            raise ConnectionError("the server has gone away")

    connection = Broken()

    @asynccontextmanager
    async def connect() -> AsyncIterator[Connection]:
        try:
            yield connection
        finally:
            await connection.close()

    agent = VoiceAgent(instructions="You are helpful.", db_connection=connect)
    agent.hooks.add(on_exit=commit)
    async with Call(agent) as call:
        await call.settled()
    assert connection.closed == 1
    assert "hook commit for AgentTask raised ConnectionError: the server has gone away" in caplog.text


# --- 4. nothing waits for ever ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("service_is_well", [True, False])
@virtual_time
async def test_a_service_that_does_not_answer_in_time_is_replaced_by_the_cached_config(service_is_well: bool) -> None:
    external_service = ExternalService()
    configs: list[Any] = []

    async def load(ctx: Context) -> dict[str, str]:
        return await external_service.initialize()

    async def on_enter(ctx: Context) -> None:
        try:
            await asyncio.wait_for(ctx.load_config(), timeout=5.0)
        except TimeoutError:
            ctx.fallback_to_cached_config()
        configs.append(ctx.config)

    for well in (True, service_is_well):
        external_service.well = well
        agent = VoiceAgent(instructions="You are helpful.", hook_timeout=10)
        agent.hooks.add(on_enter=on_enter)
        agent.hooks.set_config_loader(load)
        async with Call(agent) as call:
            await call.settled()
            assert call.closed is None
    assert configs == [{"voice": "warm"}] * 2


@virtual_time
async def test_a_time_limit_of_the_hooks_own_that_equals_hook_timeout_comes_first() -> None:
    # As it stands in the sample: five seconds of its own, within the five that every hook has.
    external_service = ExternalService()

    async def load(ctx: Context) -> dict[str, str]:
        return await external_service.initialize()

    async def on_enter(ctx: Context) -> None:
        if external_service.well:
            await ctx.load_config()
        try:
            await asyncio.wait_for(external_service.initialize(), timeout=5.0)
        except TimeoutError:
            ctx.store["config"] = ctx.fallback_to_cached_config()

    for well in (True, False):
        external_service.well = well
        agent = VoiceAgent(instructions="You are helpful.")
        agent.hooks.add(on_enter=on_enter)
        agent.hooks.set_config_loader(load)
        async with Call(agent, "Hello.") as call:
            await call.write("Hi.")
            call.expect.user("Hi.").message("Hello.").nothing_more()


@virtual_time
async def test_a_hook_without_a_limit_of_its_own_does_not_hang_the_conversation() -> None:
    noted: list[str] = []
    agent = agent_of(Hooked(noted))
    agent.hooks.add(on_end_of_turn=hangs, on_exit=hangs)
    agent.hooks.add(on_end_of_turn=hangs, on_exit=hangs, scope="turn")
    async with Call(agent, "Hello.") as call:
        await call.write("Hi.")
        call.expect.user("Hi.").message("Hello.").nothing_more()
    assert noted == ["enter first", "end of turn first", "exit first"]
