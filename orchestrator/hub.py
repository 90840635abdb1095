"""An orchestrator: its three sockets, the nodes and sessions behind them, and the sweep that looks after both."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import zmq

from orchestrator.control import Control, node_status, session_status
from orchestrator.factory import AgentFactory
from orchestrator.ingest import Ingest
from orchestrator.nodes import NodePool
from protocol.control import Snapshot
from protocol.endpoint import IPC, check_bind, lock
from protocol.errors import EndpointError
from protocol.ids import new_epoch
from protocol.limits import LINGER_MS
from protocol.sockets import RouterSocket, new_context

log = logging.getLogger(__name__)

SWEEP_S = 0.05
FAREWELL_S = 0.1  # for clients to read `closed`: ZeroMQ drops what a peer has not read when the connection closes
LATE_S = 0.25  # a sweep that is so late was held up by something in this loop


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the sockets are bound."""

    ingest: str
    nodes: str
    control: str


class Hub:
    """Made in a running loop: binds its sockets. `run()` serves until `stop()`."""

    def __init__(
        self,
        addresses: Addresses,
        *,
        factory: AgentFactory,
        name: str,
        agent_name: str,
        max_sessions: int,
        insecure: bool = False,
    ) -> None:
        self.name = name
        self.epoch = new_epoch()
        self._agent_name = agent_name
        self._began = time.monotonic()
        self._stopping = asyncio.Event()
        self._locks: list[TextIO] = []
        self._bound: list[str] = []
        self._context = new_context()
        self.pool = NodePool(self._context, name, self.epoch)
        self.ingest = Ingest(
            self._context, pool=self.pool, factory=factory, name=name, epoch=self.epoch, max_sessions=max_sessions
        )
        self.control = Control(self._context, self.snapshot)
        self.pool.on_draining = self.ingest.node_drains
        try:
            self._control_endpoint = self._bind(self.control.socket, addresses.control, insecure)
            self._nodes_endpoint = self._bind(self.pool.socket, addresses.nodes, insecure)
            self._ingest_endpoint = self._bind(self.ingest.socket, addresses.ingest, insecure)
        except BaseException:
            self._close()
            raise

    @property
    def addresses(self) -> Addresses:
        """The addresses as bound, with the ports that the system chose."""
        return Addresses(self._ingest_endpoint, self._nodes_endpoint, self._control_endpoint)

    def stop(self) -> None:
        """Take no new sessions; `run()` returns when those that are open have ended. Safe to repeat."""
        self._stopping.set()

    async def run(self, drain_s: float) -> None:
        """Serve until `stop()`, then drain for at most `drain_s` seconds. Cancelling ends all sessions at once."""
        for socket in (self.control.socket, self.pool.socket, self.ingest.socket):
            socket.start()
        log.info("%s serves clients at %s and nodes at %s", self.name, self._ingest_endpoint, self._nodes_endpoint)
        sweeping = asyncio.create_task(self._sweep(), name="sweep")
        stopping = asyncio.create_task(self._stopping.wait(), name="stopping")
        try:
            await asyncio.wait({sweeping, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if sweeping.done():
                sweeping.result()  # raises: without the sweep nobody would notice a node's death
            await self.ingest.drain(drain_s)
        finally:
            await self.ingest.drain(0)
            await asyncio.sleep(FAREWELL_S)
            sweeping.cancel()
            stopping.cancel()
            await asyncio.gather(sweeping, stopping, return_exceptions=True)
            self._close()

    def snapshot(self) -> Snapshot:
        """The state of this orchestrator, for operators."""
        counters = dict(self.ingest.counters)
        counters["bad_node_messages"] = self.pool.bad_messages
        return Snapshot(
            orchestrator=self.name,
            epoch=self.epoch,
            pid=os.getpid(),
            uptime_s=round(time.monotonic() - self._began, 1),
            draining=self.ingest.draining,
            agent=self._agent_name,
            ingest=self._ingest_endpoint,
            nodes_endpoint=self._nodes_endpoint,
            nodes=[node_status(node) for node in self.pool.nodes],
            sessions=[session_status(session) for session in self.ingest.sessions],
            counters=counters,
        )

    async def _sweep(self) -> None:
        due = time.monotonic()
        while True:
            now = time.monotonic()
            if now - due > LATE_S:
                log.warning("the event loop was held up for %.0f ms: does an agent block it?", (now - due) * 1000)
            self.pool.sweep()
            self.ingest.sweep(now)
            due = time.monotonic() + SWEEP_S
            await asyncio.sleep(SWEEP_S)

    def _bind(self, socket: RouterSocket, endpoint: str, insecure: bool) -> str:
        check_bind(endpoint, insecure=insecure)
        held = lock(endpoint)
        if held is not None:
            self._locks.append(held)
        try:
            bound = socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise EndpointError(
                f"{endpoint} can't be bound: {error.strerror or error}. Is another process using it? Choose another "
                "address, or another --name or --run-dir"
            ) from None
        self._bound.append(bound)
        return bound

    def _close(self) -> None:
        for socket in (self.ingest.socket, self.pool.socket, self.control.socket):
            socket.close(LINGER_MS)
        self._context.term()
        for address in self._bound:  # libzmq leaves it behind when the linger is not over, and nodes would dial it
            if address.startswith(IPC):
                Path(address.removeprefix(IPC)).unlink(missing_ok=True)
        for held in self._locks:
            held.close()
