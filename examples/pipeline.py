"""The four nodes of the pipeline, each changed a little: what is heard, answered, shown and spoken.

antiphon run examples/pipeline.py

Ask "What are your opening hours?", say "Damn, is SQL hard", and with a microphone "an appointment for next Monday".
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import replace

import numpy as np

from orchestrator import (
    AgentTask,
    AudioFrame,
    ChatChunk,
    ChatContext,
    FunctionContext,
    SessionInfo,
    SpeechEvent,
    VoiceAgent,
)

NAMES = {"monday": "Monday", "anti phone": "Antiphon"}  # as the recogniser writes them, and as they are written
CANNED = {"opening hours": "We are open from nine to five, but for Mondays."}
PROFANITIES = re.compile(r"\b(damn|bloody|hell)\b", re.IGNORECASE)
PRONUNCIATIONS = {"SQL": "sequel", "Antiphon": "anti-fon", "****": "beep"}
GAIN = 1.5

_NAME = re.compile(rf"\b({'|'.join(map(re.escape, NAMES))})\b")
_WRITTEN = re.compile("|".join(map(re.escape, PRONUNCIATIONS)))


class Changed(AgentTask):
    # `self.default.…_node` is the node as it would be; `super().…_node` is the same, and looser in its types. All of
    # them stream: hand on what you have as soon as you have it, or the caller waits.

    async def stt_node(self, audio: AsyncIterable[AudioFrame]) -> AsyncIterator[SpeechEvent]:
        """Correct names: partial transcripts, and the final one."""
        async for event in self.default.stt_node(audio):
            yield replace(event, text=_NAME.sub(lambda name: NAMES[name[0]], event.text))

    async def llm_node(self, chat_ctx: ChatContext, fnc_ctx: FunctionContext) -> AsyncIterator[ChatChunk | str]:
        """Give what is asked every day without asking the LLM."""
        messages = chat_ctx.messages
        asked = messages[-1].text.lower() if messages else ""
        for question, answer in CANNED.items():
            if question in asked:
                yield answer
                return
        async for chunk in self.default.llm_node(chat_ctx, fnc_ctx):
            yield chunk

    async def transcription_node(self, text: AsyncIterable[str]) -> AsyncIterator[str]:
        """Mask profanities: what leaves here is shown, remembered and spoken."""
        async for words in whole_words(text):
            yield PROFANITIES.sub("****", words)

    async def tts_node(self, text: AsyncIterable[str]) -> AsyncIterator[AudioFrame]:
        """Change how it sounds alone: words before they are spoken, and the sound itself."""
        async for frame in self.default.tts_node(pronounced(text)):
            yield louder(frame)


async def whole_words(text: AsyncIterable[str]) -> AsyncIterator[str]:
    """The stream, cut between words: an LLM may cut it anywhere, and half a word fits no pattern."""
    rest = ""
    async for part in text:
        rest += part
        end = rest.rfind(" ") + 1
        if end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


async def pronounced(text: AsyncIterable[str]) -> AsyncIterator[str]:
    async for words in whole_words(text):
        yield _WRITTEN.sub(lambda word: PRONUNCIATIONS[word[0]], words)


def louder(frame: AudioFrame) -> AudioFrame:
    """Samples are 16-bit: what is too loud for them is clipped. Multiplied as they are they would wrap, and crackle."""
    samples = np.frombuffer(frame.pcm, dtype="<i2").astype(np.float32) * GAIN
    return AudioFrame(np.clip(samples, -32_768, 32_767).astype("<i2").tobytes(), frame.sample_rate)


def agent(session: SessionInfo) -> VoiceAgent:
    return VoiceAgent(task=Changed(instructions="You work for Antiphon, and you know SQL."))
