"""Real node processes with scripted engines, and a real node pool in the test's own loop for them to register at."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from orchestrator.nodes import Node, NodePool
from protocol.ids import new_epoch
from protocol.sockets import new_context
from tests.support import wait_for

ROOT = Path(__file__).resolve().parents[1]
SWEEP_S = 0.05  # as an orchestrator does
START_S = 15.0  # a process of Python, ZeroMQ and numpy on a busy machine


class NodeProcess:
    """A node's process. `log` is what it wrote to standard error."""

    def __init__(self, process: subprocess.Popen[bytes], name: str, log_file: Path) -> None:
        self._process = process
        self._log_file = log_file
        self.name = name
        self.pid = process.pid

    @property
    def log(self) -> str:
        """All that it has written so far."""
        return self._log_file.read_text(errors="replace")

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.poll()

    def drain(self) -> None:
        """SIGTERM."""
        self._process.terminate()

    def kill(self) -> None:
        """SIGKILL."""
        self._process.kill()

    def freeze(self) -> None:
        """SIGSTOP: it is there, and says nothing."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    async def exits(self, code: int, timeout_s: float = START_S) -> None:
        """Wait until it has ended, and fail unless with this exit code."""
        await wait_for(lambda: self.exit_code is not None, timeout_s, f"the end of {self.name}")
        assert self.exit_code == code, f"{self.name} ended with {self.exit_code} and not {code}:\n{self.log}"

    def close(self) -> None:
        """End it, whatever it does."""
        if self.exit_code is None:
            self.kill()
        self._process.wait(5)


@contextmanager
def node_process(
    folder: Path,
    service: str,
    connect: str,
    *,
    name: str | None = None,
    engine: str | None = None,
    slots: int | None = None,
    drain_s: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[NodeProcess]:
    """Start `antiphon vad|stt|llm|tts`, with the scripted engine unless told otherwise. Killed in the end.

    `folder`: a test's own; its logs and run directory are put there.
    """
    name = name or f"{service}-1"
    command = [sys.executable, "-P", "-m", "antiphon", service]
    command += ["--engine", engine or f"tests.engines.scripted_{service}", "--connect", connect, "--name", name]
    command += ["--run-dir", str(folder / "run")]
    command += ["--slots", str(slots)] if slots is not None else []
    command += ["--drain-s", str(drain_s)] if drain_s is not None else []
    log_file = folder / f"{name}.log"
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        )
    node = NodeProcess(process, name, log_file)
    try:
        yield node
    finally:
        node.close()


@asynccontextmanager
async def node_pool(endpoint: str, name: str = "orchestrator-1") -> AsyncIterator[NodePool]:
    """A node pool that listens at `endpoint` and is swept as an orchestrator does. Each is a new epoch."""
    context = new_context()
    pool = NodePool(context, name, new_epoch())
    pool.socket.bind(endpoint)
    pool.socket.start()
    sweeping = asyncio.create_task(_sweep(pool))
    try:
        yield pool
    finally:
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)
        pool.socket.close()
        context.term()


async def ready(pool: NodePool, name: str, timeout_s: float = START_S) -> Node:
    """Wait until the node of this name is registered and READY."""
    await wait_for(lambda: find(pool, name, "ready"), timeout_s, f"{name} is ready")
    node = find(pool, name, "ready")
    assert node is not None
    return node


def find(pool: NodePool, name: str, state: str | None = None) -> Node | None:
    """The registered node of this name, in this state if one is given."""
    for node in pool.nodes:
        if node.name == name and state in (None, node.state):
            return node
    return None


async def _sweep(pool: NodePool) -> None:
    while True:
        pool.sweep()
        await asyncio.sleep(SWEEP_S)
