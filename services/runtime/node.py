"""A node: one engine, its slots, and a link to every orchestrator. Runs in the process's event loop."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
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
        Raises `ConfigurationError` when no orchestrator can take this node (another protocol version).
        """
        loading = asyncio.create_task(self.engine.load(self.slots))
        beating = asyncio.create_task(self._beat())
        draining = asyncio.create_task(self._drained.wait())
        try:
            await asyncio.wait({loading, beating, draining}, return_when=asyncio.FIRST_COMPLETED)
            if not draining.done():
                await loading  # an engine that can't load ends the process here
                self._set_state("ready")
                on_ready()
                log.info("%s/%s is ready with %d slots", self.service, self.engine_name, self.slots)
                await asyncio.wait({beating, draining}, return_when=asyncio.FIRST_COMPLETED)
            if beating.done():
                beating.result()
            if self._failure is None:
                await self._finish_streams(drain_s)
        finally:
            for task in (loading, beating, draining):
                task.cancel()
            await asyncio.gather(loading, beating, draining, return_exceptions=True)
            await self._leave()
        if self._failure is not None:
            raise ConfigurationError(self._failure)

    def drain(self) -> None:
        """Take no new streams, finish those that run, then leave. Safe to repeat."""
        self._set_state("draining")
        self._drained.set()

    def give_up(self, reason: str) -> None:
        """Leave at once, because of how things are configured."""
        self._failure = reason
        self._drained.set()

    def stream_ended(self) -> None:
        """A slot is free again."""
        if self.state == "draining" and not self.used:
            self._ended.set()

    async def _finish_streams(self, drain_s: float) -> None:
        if not self.used:
            return
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
        looked = -LOOK_AGAIN_S
        due = time.monotonic()
        while True:
            now = time.monotonic()
            if now - looked >= LOOK_AGAIN_S:
                looked = now
                await self._dial()
            lag_ms = int((now - due) * 1000)
            for link in self._links.values():
                link.beat(lag_ms)
            due = now + HEARTBEAT_MS / 1000
            await asyncio.sleep(HEARTBEAT_MS / 1000)

    async def _dial(self) -> None:
        found: set[str] = set()
        for endpoint in self._connect:
            # A name server may take its time, and the heartbeats must not wait for it.
            found.update(await asyncio.to_thread(expand, endpoint) if endpoint.startswith(TCP) else expand(endpoint))
        for address in found - self._links.keys():
            log.info("dialling %s", address)
            link = self._links[address] = Link(self, self._context, address)
            link.start()
        for address in self._links.keys() - found:
            log.info("%s is gone", address)
            self._links.pop(address).close()

    async def _leave(self) -> None:
        for link in self._links.values():
            link.close()
        await self.engine.close()
        self._context.term()
