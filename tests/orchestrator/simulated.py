"""Asking simulated nodes, for the tests of them. In virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np

from orchestrator.streams import NodeStream, StreamQueue
from orchestrator.testing.nodes import SimulatedNodes
from protocol.engine import EngineSpec
from protocol.node import (
    ChatItem,
    Chunk,
    Generate,
)

LLM, TTS = EngineSpec("llm", "openai", {"model": "gpt-4o-mini"}), EngineSpec("tts", "espeak")
VAD, STT = EngineSpec("vad", "silero", {"min_silence_ms": 400}), EngineSpec("stt", "pocketsphinx")
RATE = 16_000


def now() -> float:
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


async def opened(nodes: SimulatedNodes, queue: StreamQueue, spec: EngineSpec, **options: Any) -> NodeStream:
    """A stream whose node has accepted it."""
    return await queue.opened(lambda queue: nodes.pool.open(spec, queue, session="s", generation=3, **options))


async def answer(nodes: SimulatedNodes) -> list[tuple[float, Chunk]]:
    """What the llm says to one request, with the virtual seconds since it was asked."""
    with StreamQueue() as queue:
        stream = await opened(nodes, queue, LLM)
        began = now()
        stream.send(Generate(0, 0, 0, [ChatItem("user", "hello")]))
        return [(round(now() - began, 6), message) async for message in queue if isinstance(message, Chunk)]


def silence(seconds: float) -> bytes:
    """At `RATE`."""
    return bytes(int(seconds * RATE) * 2)


def noise(seconds: float, rms: int) -> bytes:
    """At `RATE`, equally loud throughout."""
    samples = np.tile(np.array([rms, -rms], dtype="<i2"), int(seconds * RATE) // 2)
    return bytes(samples.data)
