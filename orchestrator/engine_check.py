"""Whether nodes serve a task's engines and accept their options: asked before the task is entered, not a turn later."""

from __future__ import annotations

import asyncio

import msgspec

from orchestrator.engines import Engines
from orchestrator.streams import Pool, StreamQueue
from orchestrator.task import AgentTask
from protocol.engine import EngineSpec
from protocol.errors import ConfigurationError


class EngineCheck:
    """Of one session. What a node has accepted is not asked again."""

    def __init__(self, pool: Pool, session: str) -> None:
        self._pool = pool
        self._session = session
        self._accepted: set[bytes] = set()

    async def check(self, engines: Engines, task: AgentTask) -> None:
        """Raise what stands in the way of this task: `ConfigurationError` and `Unavailable` kinds."""
        self._check_segmentation(engines, task)
        unknown = [spec for spec in engines.used if msgspec.json.encode(spec) not in self._accepted]
        failures = await asyncio.gather(*(self._probe(spec) for spec in unknown), return_exceptions=True)
        for failure in failures:
            if failure is not None:
                raise failure
        self._accepted.update(msgspec.json.encode(spec) for spec in unknown)

    async def _probe(self, spec: EngineSpec) -> None:
        with StreamQueue() as queue:
            await queue.opened(
                lambda queue: self._pool.open(spec, queue, session=self._session, generation=0, probe=True)
            )

    def _check_segmentation(self, engines: Engines, task: AgentTask) -> None:
        """A vad cuts speech into segments: an engine that does not stream can't do without, nor can an `stt_node`."""
        stt, name = engines.stt, type(task).__name__
        if stt is None or engines.vad is not None:
            return
        if not self._pool.finds_speech(stt):
            raise ConfigurationError(
                f"{name} has {stt} but no VAD, and this STT does not stream: it can't tell where speech begins and "
                "ends. Give the task a VAD, as in vad=silero.VAD(), or an STT that streams"
            )
        if type(task).stt_node is not AgentTask.stt_node:
            raise ConfigurationError(
                f"{name} has an stt_node of its own but no VAD, which tells it where speech begins and ends. "
                "Give the task a VAD, as in vad=silero.VAD()"
            )
