"""AgentTask: what the agent is doing now, and the pipeline nodes that a user may override."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from typing import TYPE_CHECKING

from orchestrator.chat import ChatChunk, ChatContext
from orchestrator.engines import NOT_GIVEN, EngineChoice
from orchestrator.stages import Stages, running
from protocol.audio import AudioFrame

if TYPE_CHECKING:
    from orchestrator.agent import VoiceAgent


class AgentTask:
    """A part of a conversation with instructions of its own.

    Engines that are not given are the VoiceAgent's; None switches the stage off for this task.
    """

    def __init__(
        self,
        *,
        instructions: str,
        vad: EngineChoice = NOT_GIVEN,
        stt: EngineChoice = NOT_GIVEN,
        llm: EngineChoice = NOT_GIVEN,
        tts: EngineChoice = NOT_GIVEN,
    ) -> None:
        self._instructions = instructions
        self.vad, self.stt, self.llm, self.tts = vad, stt, llm, tts
        self._agent: VoiceAgent | None = None

    @property
    def instructions(self) -> str:
        """What the LLM is told about this task."""
        return self._instructions

    @property
    def agent(self) -> VoiceAgent:
        """The agent that runs this task; raises RuntimeError while none does."""
        if self._agent is None:
            raise RuntimeError(f"{type(self).__name__} is not running: it has no agent yet, or no longer")
        return self._agent

    async def llm_node(self, chat_ctx: ChatContext) -> AsyncIterator[ChatChunk]:
        """Write the reply. The default asks the task's LLM engine and streams what it writes."""
        async for chunk in self._running().llm(chat_ctx):
            yield chunk

    async def transcription_node(self, text: AsyncIterable[str]) -> AsyncIterator[str]:
        """Change the reply's text, before it is shown, stored and spoken. The default changes nothing."""
        async for part in text:
            yield part

    async def tts_node(self, text: AsyncIterable[str]) -> AsyncIterator[AudioFrame]:
        """Speak the reply. The default cuts it into sentences and streams the audio of the task's TTS engine."""
        async for frame in self._running().tts(text):
            yield frame

    def _running(self) -> Stages:
        stages = running.get(None)
        if stages is None:
            raise RuntimeError(f"{type(self).__name__}: the default nodes work only while a reply is being made")
        return stages
