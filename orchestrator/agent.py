"""VoiceAgent: one conversation's agent. A user's factory makes one for each session."""

from __future__ import annotations

from typing import Any

from orchestrator.chat import ChatContext
from orchestrator.engines import NOT_GIVEN, EngineChoice, Engines, choose
from orchestrator.task import AgentTask
from orchestrator.turn import TurnOptions


class VoiceAgent:
    """What the caller talks to: a task, engines, and how turns are taken.

    Give either `instructions` or a `task`. Engines that are not given are the embedded ones. Times are in seconds.
    """

    def __init__(
        self,
        *,
        instructions: str | None = None,
        task: AgentTask | None = None,
        vad: EngineChoice = NOT_GIVEN,
        stt: EngineChoice = NOT_GIVEN,
        llm: EngineChoice = NOT_GIVEN,
        tts: EngineChoice = NOT_GIVEN,
        userdata: Any = None,
        allow_interruptions: bool = True,
        min_interruption_duration: float = 0.5,
        min_endpointing_delay: float = 0.5,
    ) -> None:
        if (instructions is None) == (task is None):
            raise ValueError("VoiceAgent needs either instructions= or task=, and not both")
        self._task = task if task is not None else AgentTask(instructions=instructions or "")
        self._task._agent = self
        self.vad, self.stt, self.llm, self.tts = vad, stt, llm, tts
        self.userdata = userdata
        self.chat_ctx = ChatContext()
        self.turn_options = TurnOptions(
            min_endpointing_delay=min_endpointing_delay,
            min_interruption_duration=min_interruption_duration,
            allow_interruptions=allow_interruptions,
        )

    @property
    def current_task(self) -> AgentTask:
        """The task that is active."""
        return self._task

    def engines(self) -> Engines:
        """The engines that serve the conversation now: the task's, else the agent's, else the embedded ones."""
        task = self._task
        return Engines(
            vad=choose("vad", task.vad, self.vad),
            stt=choose("stt", task.stt, self.stt),
            llm=choose("llm", task.llm, self.llm),
            tts=choose("tts", task.tts, self.tts),
        )
