"""One request to a task's `llm_node`, read as fast as it comes: its text is handed on, its function calls are kept.

Read in an asyncio task of its own: neither a slow voice nor a node that stops reading holds up the calls.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from uuid import uuid4

from orchestrator.chat import ChatChunk, ChatContext, FunctionCall
from orchestrator.functions import FunctionContext
from orchestrator.node_output import stream
from orchestrator.task import AgentTask


class LlmStep:
    """Iterate `text()` once, `close()` it in the end. `calls` are complete when `ended` is set, and valid if `error` is
    None. `raised`: whoever reads the text was told of the error.
    """

    def __init__(
        self, task: AgentTask, chat: Callable[[], ChatContext], functions: FunctionContext, now: Callable[[], float]
    ) -> None:
        self.calls: list[FunctionCall] = []
        self.ended = asyncio.Event()
        self.error: BaseException | None = None
        self.raised = False
        self.first_token_at = 0.0
        self._parts: asyncio.Queue[str | None] = asyncio.Queue()
        self._now = now
        self._reading: asyncio.Task[None] | None = None
        self._task, self._chat, self._functions = task, chat, functions

    def text(self) -> AsyncIterator[str]:
        """Ask, and give the text as it comes. Raises what the node raises. The request goes on when nobody reads it."""
        self._reading = asyncio.create_task(self._read(), name="llm_node")
        return self._text()

    async def close(self) -> None:
        """End the request, if it has not ended by itself."""
        if self._reading is not None:
            if not self.ended.is_set():
                self._reading.cancel()
            await asyncio.wait({self._reading})

    async def _text(self) -> AsyncIterator[str]:
        while (part := await self._parts.get()) is not None:
            yield part
        if self.error is not None:
            self.raised = True
            raise self.error

    async def _read(self) -> None:
        try:
            output = self._task.llm_node(self._chat(), self._functions)
            async for chunk in stream(output, (ChatChunk, str), f"llm_node of {type(self._task).__name__}"):
                self._take(chunk)
        except Exception as error:  # noqa: BLE001  # raised by `text()`
            self.error = error
        except asyncio.CancelledError as error:
            self.error = error
            raise
        finally:
            self.ended.set()
            self._parts.put_nowait(None)

    def _take(self, chunk: ChatChunk | str) -> None:
        if not self.first_token_at:
            self.first_token_at = self._now()
        text = chunk if isinstance(chunk, str) else chunk.text
        if text:
            self._parts.put_nowait(text)
        if isinstance(chunk, ChatChunk) and chunk.call is not None:
            self.calls.append(self._own(chunk.call))

    def _own(self, call: FunctionCall) -> FunctionCall:
        """An item of its own, for a node may yield one again; its call_id is that of no other call of this step."""
        taken = {one.call_id for one in self.calls}
        call_id = call.call_id if call.call_id and call.call_id not in taken else f"call_{uuid4().hex}"
        return FunctionCall(call.name, call.arguments, call_id)
