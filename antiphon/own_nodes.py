"""The llm nodes of one chat: each engine's process is started when a task first needs it, and ends with the chat.

Knows processes and the pool that they register at, nothing of conversations.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from antiphon import tied_node
from orchestrator.nodes import NodePool
from protocol.engine import EngineOptions, EngineSpec
from protocol.errors import ConfigurationError, Unavailable
from services.runtime.process import EXIT_CONFIGURATION

log = logging.getLogger(__name__)

START_S = 30.0  # until a node is ready: it may load a model
LOOK_AGAIN_S = 0.02
LEAVE_S = 2.0  # a node without streams leaves at once; one that hangs is killed then
KEPT_LINES = 200  # of what a node writes before it is ready
_LOGGED = re.compile(r"\S+ \S+ (?P<level>[A-Z]+) +(?P<message>\S+: .*)")  # as `log_format.py` has it


class Watcher(Protocol):
    """Who wants to know how it goes."""

    def starting(self, spec: EngineSpec | None) -> None:
        """This engine is waited for; None: it is there, or won't be."""

    def logged(self, level: int, text: str) -> None:
        """A node has logged this line."""


class OwnNodes:
    """`ensure()` an engine before it is used; `close()` ends all processes.

    `folder`: the chat's own, for the nodes' files; `modules`: where the agent's file is.
    """

    def __init__(self, pool: NodePool, endpoint: str, folder: Path, modules: Path, watcher: Watcher) -> None:
        self._pool = pool
        self._endpoint = endpoint
        self._folder = folder
        self._modules = modules
        self._watcher = watcher
        self._started = 0
        self._processes: dict[str, _NodeProcess] = {}  # by engine, as "llm/rule"
        self._one_at_a_time = asyncio.Lock()

    async def ensure(self, spec: EngineSpec) -> None:
        """Return when a node serves this engine; starts one if none does, or if the one that did has ended.

        Raises `ConfigurationError` with what the process says that leaves, and `Unavailable` when it takes too long.
        """
        async with self._one_at_a_time:
            running = self._processes.get(str(spec))
            if running is not None and running.exit_code is None:
                return
            if running is not None:
                log.warning("the process of %s has ended (exit code %s): starting it again", spec, running.exit_code)
                await running.close()
            self._watcher.starting(spec)
            try:
                await self._start(spec)
            finally:
                self._watcher.starting(None)

    async def ensure_again(self) -> None:
        """Start those again that have ended meanwhile. Raises as `ensure`."""
        for running in list(self._processes.values()):
            if running.exit_code is not None:
                await self.ensure(running.spec)

    async def close(self) -> None:
        """End all processes, and wait for them."""
        await asyncio.gather(*(running.close() for running in self._processes.values()))
        self._processes.clear()

    async def _start(self, spec: EngineSpec) -> None:
        self._started += 1
        name = f"{spec.service}-{self._started}"
        command = tied_node.command(
            os.getpid(), str(self._modules), spec.service, "--engine", _module_of(spec), "--connect", self._endpoint
        )
        command += ["--name", name, "--drain-s", "0", "--run-dir", str(self._folder)]
        command += ["--log-level", logging.getLevelName(log.getEffectiveLevel()).lower()]
        running = self._processes[str(spec)] = await _NodeProcess.start(name, spec, command, self._watcher)
        try:
            await self._until_ready(spec, running)
        except BaseException:
            del self._processes[str(spec)]
            await running.close()
            raise
        running.pass_on()

    async def _until_ready(self, spec: EngineSpec, running: _NodeProcess) -> None:
        deadline = time.monotonic() + START_S
        while not any(node.name == running.name and node.state == "ready" for node in self._pool.nodes):
            if running.exit_code is not None:
                why = await running.last_word()
                kind = ConfigurationError if running.exit_code == EXIT_CONFIGURATION else Unavailable
                raise kind(f"the process of {spec} does not start: {why}")
            if time.monotonic() > deadline:
                raise Unavailable(f"the process of {spec} is not ready after {START_S:g} s")
            await asyncio.sleep(LOOK_AGAIN_S)


class _NodeProcess:
    """A node's process and what it writes: kept until it is ready, then passed on."""

    def __init__(self, name: str, spec: EngineSpec, process: asyncio.subprocess.Process, watcher: Watcher) -> None:
        self.name = name
        self.spec = spec
        self._process = process
        self._watcher = watcher
        self._level = logging.WARNING  # of the last line that had one
        self._lines: deque[str] | None = deque(maxlen=KEPT_LINES)
        self._reading = asyncio.create_task(self._read(), name=f"log of {name}")

    @classmethod
    async def start(cls, name: str, spec: EngineSpec, command: list[str], watcher: Watcher) -> _NodeProcess:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C in the terminal is for the chat alone
        )
        return cls(name, spec, process, watcher)

    @property
    def exit_code(self) -> int | None:
        """None while it runs."""
        return self._process.returncode

    def pass_on(self) -> None:
        """It is ready: from now on, the watcher is told what it writes."""
        lines, self._lines = self._lines, None
        for line in lines or ():
            self._log(line)

    async def last_word(self) -> str:
        """Why it has left, as it said itself."""
        await self._reading
        said = [line for line in self._lines or () if line.strip()]
        for number, line in enumerate(said):
            found = _LOGGED.match(line)
            if found is not None and found["level"] == "ERROR":
                reason = found["message"].partition(": ")[2]
                failed = number + 1 < len(said) and said[number + 1].startswith("Traceback")
                return f"{reason}: {_raised(said[number + 1 :])}" if failed else reason
        return said[-1] if said else f"exit code {self.exit_code}"

    async def close(self) -> None:
        """End it, if need be by force."""
        if self.exit_code is None:
            with suppress(ProcessLookupError):  # it has just ended
                self._process.terminate()
            try:
                async with asyncio.timeout(LEAVE_S):
                    await self._process.wait()
            except TimeoutError:
                self._process.kill()
                await self._process.wait()
        await self._reading

    async def _read(self) -> None:
        assert self._process.stderr is not None
        while raw := await self._process.stderr.readline():
            line = raw.decode(errors="replace").rstrip()
            if self._lines is None:
                self._log(line)
            else:
                self._lines.append(line)

    def _log(self, line: str) -> None:
        found = _LOGGED.match(line)
        if found is not None:
            self._level = logging.getLevelNamesMapping().get(found["level"], logging.WARNING)
            line = f"{found['level']} {found['message']}"
        self._watcher.logged(self._level, f"{self.name}: {line}")


def _module_of(spec: EngineSpec) -> str:
    """What `--engine` names: of an engine of the user's own, the module in which its options are written."""
    for options in _all_options(EngineOptions):
        own = "." in options.__module__ and not options.__module__.startswith("services.")
        if own and (getattr(options, "service", ""), getattr(options, "engine", "")) == (spec.service, spec.engine):
            return options.__module__
    return spec.engine


def _all_options(base: type[EngineOptions]) -> list[type[EngineOptions]]:
    return [found for one in base.__subclasses__() for found in (one, *_all_options(one))]


def _raised(trace: list[str]) -> str:
    """The last line of a traceback that is followed by other lines of a log."""
    inside = [line for line in trace[1:] if not line.startswith(" ")]
    return inside[0] if inside else trace[-1].strip()
