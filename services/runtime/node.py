"""A node: one engine, its slots, and a link to every orchestrator. Runs in the process's event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from protocol.endpoint import TCP, expand
from protocol.engine import Service
from protocol.errors import ConfigurationError
from protocol.ids import new_epoch
from protocol.limits import HEARTBEAT_MS
from protocol.node import NodeState
from protocol.sockets import new_context
from services.engine import Engine
from services.runtime.link import Link
from services.runtime.loading import engine_name
from services.runtime.stream import Serving

log = logging.getLogger(__name__)

LEAVE_S = 2.0  # what streams and the engine may take to end, when the node leaves
LOOK_AGAIN_S = 1.0  # how often the addresses are looked up again, for orchestrators that came or went


class Node:
    """What a node process is. `run()` returns when it has drained."""

    def __init__(
        self,
        *,
        service: Service,
        engine: Engine[Any],
        serving: Serving,
        name: str,
        slots: int,
        connect: tuple[str, ...],
    ) -> None:
        self.service = service
        self.engine = engine
        self.engine_name = engine_name(engine)
        self.serving = serving
        self.name = name
        self.epoch = new_epoch()
        self.slots = slots
        self.state: NodeState = "loading"
        self._connect = connect
        self._context = new_context()
        self._links: dict[str, Link] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._drained = asyncio.Event()
        self._ended = asyncio.Event()
        self._failure: str | None = None

    @property
    def used(self) -> int:
        """Slots taken, over all orchestrators."""
        return sum(link.used for link in self._links.values())

    async def run(self, drain_s: float, on_ready: Callable[[], None]) -> None:
        """Serve until `drain()` was called and all streams have ended, at most `drain_s` later.

        `on_ready` is called once, when the engine is loaded and warm.
        Raises `ConfigurationError` when no orchestrator can take this node (another protocol version), and what the
        engine's `load()` raises.
        """
        loading = asyncio.create_task(self.engine.load(self.slots))
        steady = [asyncio.create_task(self._look()), asyncio.create_task(self._beat())]
        draining = asyncio.create_task(self._drained.wait())
        tasks = [loading, draining, *steady]
        try:
            await _first(loading, *steady, draining)
            if not draining.done():
                self._set_state("ready")
                on_ready()
                log.info("%s/%s is ready with %d slots", self.service, self.engine_name, self.slots)
                await _first(*steady, draining)
            if self._failure is None and self.used:
                tasks.append(asyncio.create_task(self._finish_streams(drain_s)))
                await _first(*steady, tasks[-1])
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._leave()
        if self._failure is not None:
            raise ConfigurationError(self._failure)

    def drain(self) -> None:
        """Take no new streams, finish those that run, then leave. Safe to repeat."""
        self._set_state("draining")
        self._drained.set()

    def consider_giving_up(self) -> None:
        """An orchestrator has another protocol version: leave at once if there is none that may take this node."""
        if all(link.refused_version for link in self._links.values()):
            self._failure = next(link.refused_version for link in self._links.values())
            self._drained.set()

    def start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run work in a task that is awaited before the node leaves."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def stream_ended(self) -> None:
        """A slot is free again."""
        if self.state == "draining" and not self.used:
            self._ended.set()

    async def _finish_streams(self, drain_s: float) -> None:
        log.info("draining: %d streams are still running", self.used)
        try:
            await asyncio.wait_for(self._ended.wait(), drain_s)
        except TimeoutError:
            log.warning("%d streams were still running after %g s and are cut off", self.used, drain_s)

    def _set_state(self, state: NodeState) -> None:
        if self.state != state:
            self.state = state
            for link in self._links.values():
                link.beat(0)

    async def _beat(self) -> None:
        """Heartbeats, from the loop that does the work: a loop that hangs is silent."""
        due = time.monotonic()
        while True:
            now = time.monotonic()
            lag_ms = int((now - due) * 1000)
            for link in self._links.values():
                link.beat(lag_ms)
            due = now + HEARTBEAT_MS / 1000
            await asyncio.sleep(HEARTBEAT_MS / 1000)

    async def _look(self) -> None:
        """Dial every orchestrator that there is. Not in `_beat`: a name server may take its time."""
        while True:
            await self._dial()
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _dial(self) -> None:
        found: set[str] = set()
        for endpoint in self._connect:
            found.update(await asyncio.to_thread(expand, endpoint) if endpoint.startswith(TCP) else expand(endpoint))
        for address in found - self._links.keys():
            log.info("dialling %s", address)
            self._links[address] = link = Link(self, self._context, address)
            link.beat(0)
        for address in self._links.keys() - found:
            if self._links[address].dead:  # a name server's bad moment must not end a conversation
                log.info("%s is gone", address)
                self._links.pop(address).close()

    async def _leave(self) -> None:
        for link in self._links.values():
            link.close()
        try:
            if self._tasks:
                _, hanging = await asyncio.wait(self._tasks, timeout=LEAVE_S)
                if hanging:
                    log.warning("%d streams of the engine have not ended within %g s", len(hanging), LEAVE_S)
            async with asyncio.timeout(LEAVE_S):
                await self.engine.close()
        except TimeoutError:
            log.warning("the engine was not closed within %g s", LEAVE_S)
        finally:
            self._context.term()


async def _first(*tasks: asyncio.Task[Any]) -> None:
    """Wait until one of these has ended, and raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()
