"""An llm engine that says what its options say, or repeats what it was told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import ClassVar

from protocol.engine import Service
from protocol.node import ChatItem, Chunk, FunctionCall, FunctionSchema
from services.engine import LlmEngine, call_chunk, text_chunk
from tests.engines import scripting
from tests.engines.scripting import Script, Steps, record


class LLM(Script, frozen=True, kw_only=True):
    """`tokens`: the chunks of the reply. Without any: "You said: " and the last text of the user, word by word."""

    service: ClassVar[Service] = "llm"
    engine: ClassVar[str] = "scripted-llm"

    tokens: tuple[str, ...] = ()
    call: str = ""  # first this function is called, unless the chat ends with a function's output
    arguments: str = "{}"  # JSON


class Engine(LlmEngine[LLM]):
    """Understands nothing. A chunk is a step."""

    options_type = LLM

    async def load(self, slots: int) -> None:
        await scripting.load()

    async def check(self, options: LLM) -> None:
        await scripting.check(options)

    async def generate(
        self, options: LLM, chat: Sequence[ChatItem], functions: Sequence[FunctionSchema]
    ) -> AsyncIterator[Chunk]:
        record("open")
        steps = Steps(options)
        try:
            if options.call and not (chat and chat[-1].role == "function"):
                await steps.step()
                yield call_chunk(FunctionCall("call-1", options.call, options.arguments))
                return
            for token in options.tokens or _repeat(chat):
                await steps.step()
                yield text_chunk(token)
        finally:
            record("close")


def _repeat(chat: Sequence[ChatItem]) -> tuple[str, ...]:
    said = next((item.text for item in reversed(chat) if item.role == "user"), "")
    return tuple(f"{word} " for word in f"You said: {said}".split())
