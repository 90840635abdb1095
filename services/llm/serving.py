"""How llm streams meet an llm engine: one request, its chunks as they come, done."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any, cast

from protocol.node import Generate, OpenStream
from services.engine import LlmEngine
from services.runtime.stream import Serving, Stream, TaskWork, Work


class LlmServing(Serving):
    """All llm streams of this node."""

    takes = (Generate,)

    def __init__(self, engine: LlmEngine[Any]) -> None:
        self._engine = engine

    async def accept(self, stream: Stream, options: Any, opening: OpenStream) -> Work:
        return LlmWork(stream, self._engine, options)


class LlmWork(TaskWork):
    """One reply."""

    def __init__(self, stream: Stream, engine: LlmEngine[Any], options: Any) -> None:
        self._engine = engine
        self._options = options
        super().__init__(stream)

    async def run(self) -> None:
        request = cast(Generate, await self.next_message())
        chunks = self._engine.generate(self._options, request.chat, request.functions)
        async with aclosing(cast(Any, chunks)):
            async for chunk in chunks:
                await self.stream.deliver(chunk)
        self.stream.done()
