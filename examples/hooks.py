"""Hooks as functions, with four habits that keep them quick and safe: load side by side, try again, give back what was
taken, and wait for nobody for ever.

antiphon run examples/hooks.py

Ask "What does the tea cost?". `antiphon send --user Ann --text "…"` is a known caller from the second time on;
`--metadata config_delay_s=10` makes the config service hang.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import sqlite3
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from orchestrator import Context, SessionInfo, VoiceAgent

log = logging.getLogger(__name__)

CONFIG_TIMEOUT_S = 1.0
ATTEMPTS = 3
PRICES = {"tea": "four pounds", "coffee": "six pounds"}
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, visits INTEGER)",
    "CREATE TABLE IF NOT EXISTS visits (conversation TEXT PRIMARY KEY, user TEXT, turns INTEGER, ended_at REAL)",
    "CREATE TABLE IF NOT EXISTS turns (conversation TEXT, turn INTEGER, asked TEXT, ok INTEGER, duration_s REAL)",
)

_folder = tempfile.TemporaryDirectory(prefix="antiphon-shop-")
atexit.register(_folder.cleanup)
DATABASE = os.environ.get("SHOP_DATABASE", f"{_folder.name}/shop.sqlite")  # the default is gone with the process

# --- what the hooks work with -----------------------------------------------------------------------------------------


class Connection:
    """A connection to SQLite that waits in a thread: the event loop has other conversations to serve meanwhile."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    async def execute(self, sql: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """Run one statement; the rows that it gives."""
        return await asyncio.to_thread(lambda: self._connection.execute(sql, values).fetchall())


@asynccontextmanager
async def open_database() -> AsyncIterator[Connection]:
    """What `ctx.get_db_connection()` opens. It is closed whatever happens, and what was not committed is undone."""
    connection = sqlite3.connect(DATABASE, timeout=0.2, isolation_level=None, check_same_thread=False)
    try:
        yield Connection(connection)
    finally:
        connection.close()


@dataclass
class Settings:
    """The agent's `userdata`: what its conversation carries along."""

    config_delay_s: float


async def load_config(ctx: Context) -> dict[str, str]:
    """The config loader. The sleep stands for a service in the network: this example has none that it could ask."""
    await asyncio.sleep(ctx.agent.userdata.config_delay_s)
    return {"greeting": "Welcome to the tea shop", "closing time": "seven"}


# --- around each task -------------------------------------------------------------------------------------------------


async def configure(ctx: Context) -> None:
    """Timeouts: a service that hangs must not keep the caller waiting."""
    try:
        async with asyncio.timeout(CONFIG_TIMEOUT_S):
            await ctx.load_config()
    except TimeoutError:
        try:
            ctx.fallback_to_cached_config()  # what the loader gave when it last succeeded, in any conversation
        except LookupError:  # it never has: this is the first conversation of the process
            ctx.config = {"greeting": "Welcome", "closing time": "six"}
        log.warning("the config service is slow; the config is %s", ctx.config)


async def load(ctx: Context) -> None:
    """Side by side: what does not need one another is loaded at the same time, and the caller waits for the slowest."""
    visits, prices = await asyncio.gather(load_visits(ctx), load_prices())
    ctx.store.update(visits=visits, prices=prices)


async def load_visits(ctx: Context) -> int:
    async with ctx.get_db_connection() as database:
        rows = await database.execute("SELECT visits FROM users WHERE name = ?", [ctx.user_id])
    return rows[0][0] if rows else 0


async def load_prices() -> dict[str, str]:
    await asyncio.sleep(0.1)  # stands for another service
    return PRICES


async def greet(ctx: Context) -> None:
    facts = [f"The {thing} costs {price}." for thing, price in ctx.store["prices"].items()]
    closing = f"The shop is open until {ctx.config['closing time']}."
    ctx.agent.current_task.update_instructions(" ".join(["You sell tea.", *facts, closing]))
    again = " again" if ctx.store["visits"] else ""
    # It returns at once, and the greeting is spoken while the conversation goes on. `await` what it gives to wait.
    await ctx.send_message(f"{ctx.config['greeting']}{again}{f', {ctx.user_id}' if ctx.user_id else ''}!")


async def say_goodbye(ctx: Context) -> None:
    # False when the caller has hung up; true when the task is left for another one, or the process is stopped.
    if ctx.session_active:
        await ctx.send_message("I must go now. Goodbye!")


async def end_visit(ctx: Context) -> None:
    """Giving back: `async with` closes the connection when this ends, when it fails and when it takes too long."""
    async with ctx.get_db_connection() as database:
        await database.execute("BEGIN")
        visit = [ctx.conversation_id, ctx.user_id, ctx.turn, time.time()]
        await database.execute("INSERT OR REPLACE INTO visits VALUES (?, ?, ?, ?)", visit)
        if ctx.user_id:
            await database.execute(
                "INSERT INTO users VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET visits = visits + 1", [ctx.user_id]
            )
        await database.execute("COMMIT")


# --- around each turn of the caller -----------------------------------------------------------------------------------


async def log_turn(ctx: Context) -> None:
    """Trying again: another process may have locked the file for a moment. In the end a figure is lost, and no more."""
    for attempt in range(ATTEMPTS):
        try:
            async with ctx.get_db_connection() as database:
                await database.execute(
                    "INSERT INTO turns VALUES (:conversation_id, :turn, :user_text, :ok, :duration_s)", ctx.turn_data
                )
            break
        except sqlite3.OperationalError as error:
            if attempt == ATTEMPTS - 1:
                ctx.log_error("the turn was not logged", error=error)
            else:
                await asyncio.sleep(0.1 * 2**attempt)


async def agent(session: SessionInfo) -> VoiceAgent:
    async with open_database() as database:
        for statement in SCHEMA:
            await database.execute(statement)
    made = VoiceAgent(
        instructions="You sell tea.",
        userdata=Settings(float(session.metadata.get("config_delay_s", 0.1))),
        db_connection=open_database,
        # A hook that takes longer is cancelled. One of on_enter keeps its task from being entered then; the others are
        # logged, and the conversation goes on.
        hook_timeout=5.0,
    )
    made.hooks.set_config_loader(load_config)
    # In this order; those of on_exit in reverse, so that what was taken first is given back last.
    made.hooks.add(on_enter=configure, on_exit=end_visit)
    made.hooks.add(on_enter=load, on_exit=say_goodbye)
    made.hooks.add(on_enter=greet)
    made.hooks.add(on_end_of_turn=log_turn, scope="turn")
    return made
