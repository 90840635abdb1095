"""The rule engine: an llm engine without a model, so that a stack speaks before anything is downloaded or paid for.

It compares words and understands nothing. It calls the offered function whose words were said, asks for arguments that
were not, says what functions returned, repeats sentences of its instructions that fit a question, knows the time, and
otherwise says that it does not know. The same conversation gets the same reply at the same time of day; only the ids
of calls differ. `rule.LLM(…)` is what users write.

This room puts the others together: `rule_form.py` (calls), `rule_outputs.py` (what they returned), `rule_topics.py`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Callable, Sequence
from datetime import datetime
from itertools import takewhile
from typing import Annotated, ClassVar
from uuid import uuid4

from msgspec import Meta

from protocol.engine import EngineOptions, Service
from protocol.node import ChatItem, Chunk, FunctionCall, FunctionSchema
from services.engine import LlmEngine, call_chunk, text_chunk
from services.llm.rule_form import Form, wanted
from services.llm.rule_functions import callable_functions
from services.llm.rule_outputs import spoken_outputs
from services.llm.rule_topics import WHO_I_AM, Situation, reply, which

_CHUNK = re.compile(r"\S+\s*")


class LLM(EngineOptions, frozen=True, kw_only=True):
    """How the rule engine replies.

    - `greeting`: what it says when it is asked for a reply and nobody has said anything yet.
    - `delay_ms`: between the words of a reply. 0: at once. More makes streaming visible, as a model's pace would.
    """

    service: ClassVar[Service] = "llm"
    engine: ClassVar[str] = "rule"

    greeting: Annotated[str, Meta(min_length=1, max_length=500)] = "Hello! How can I help you?"
    delay_ms: Annotated[int, Meta(ge=0, le=1_000)] = 0


class Engine(LlmEngine[LLM]):
    """Stateless: a reply depends on the request alone, and on `clock`, which gives the local time."""

    options_type = LLM
    # A reply costs 0.2 ms, or 1.6 with 40 items to read again: of a hundred at once, the last waits for 0.16 s.
    default_slots = 100

    def __init__(self, clock: Callable[[], datetime] = datetime.now) -> None:
        self._clock = clock

    async def generate(
        self, options: LLM, chat: Sequence[ChatItem], functions: Sequence[FunctionSchema]
    ) -> AsyncIterator[Chunk]:
        """Stream the reply word by word, or one function call. Raises nothing; may be closed at any time."""
        answer = self._answer(options, chat, functions)
        if isinstance(answer, FunctionCall):
            yield call_chunk(answer)
            return
        for number, part in enumerate(_CHUNK.findall(answer)):
            if number and options.delay_ms:
                await asyncio.sleep(options.delay_ms / 1000)
            yield text_chunk(part)

    def _answer(
        self, options: LLM, chat: Sequence[ChatItem], functions: Sequence[FunctionSchema]
    ) -> str | FunctionCall:
        last = chat[-1].role if chat else "system"
        if last == "function":
            outputs = list(takewhile(lambda item: item.role == "function", reversed(chat)))
            return spoken_outputs([item.text for item in reversed(outputs)])
        if last != "user":
            return options.greeting
        offered = callable_functions(functions)
        asked = wanted(chat, offered)
        if asked.form is not None:
            return _next_step(asked.form)
        if asked.left:
            return "All right, I leave it."
        if asked.unclear:
            return which([function.title for function in asked.unclear])
        return reply(_situation(chat, [function.title for function in offered], self._clock()))


def _next_step(form: Form) -> str | FunctionCall:
    missing = form.missing
    if missing is None:
        arguments = json.dumps(form.arguments, ensure_ascii=False)
        return FunctionCall(f"call_{uuid4().hex}", form.function.schema.name, arguments)
    return f"I did not get that. {missing.question}" if form.misread else missing.question


def _situation(chat: Sequence[ChatItem], offers: Sequence[str], now: datetime) -> Situation:
    return Situation(
        heard=chat[-1].text,
        instructions="\n".join(item.text for item in chat if item.role == "system"),
        offers=offers,
        now=now,
        introduced=any(item.role == "assistant" and WHO_I_AM in item.text for item in chat),
    )
