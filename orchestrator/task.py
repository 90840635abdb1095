"""AgentTask: what the agent is doing now: instructions, functions, hooks, and pipeline nodes that may be overridden."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Sequence
from typing import TYPE_CHECKING, Any

from orchestrator.chat import ChatChunk, ChatContext, ChatMessage
from orchestrator.engines import NOT_GIVEN, EngineChoice, NotGiven
from orchestrator.functions import AIFunction, FunctionContext, as_ai_function, functions_of
from orchestrator.stages import SpeechEvent, Stages, running
from orchestrator.turn_detector import TurnDetector
from protocol.audio import AudioFrame

if TYPE_CHECKING:
    from orchestrator.agent import VoiceAgent
    from orchestrator.frame import Frame

# What an override of a node may be: an async generator, or a coroutine that returns a value, an async iterable or None.
SttOutput = AsyncIterable[SpeechEvent] | Awaitable[AsyncIterable[SpeechEvent] | SpeechEvent | str | None]
LlmOutput = AsyncIterable[ChatChunk | str] | Awaitable[AsyncIterable[ChatChunk | str] | ChatChunk | str | None]
TextOutput = AsyncIterable[str] | Awaitable[AsyncIterable[str] | str | None]
AudioOutput = AsyncIterable[AudioFrame] | Awaitable[AsyncIterable[AudioFrame] | AudioFrame | None]


class DefaultNodes:
    """The four nodes as they are when nobody overrides them. Each streams through the nodes' processes."""

    def __init__(self, name: str) -> None:
        self._name = name

    async def stt_node(self, audio: AsyncIterable[AudioFrame]) -> AsyncIterator[SpeechEvent]:
        """Recognise a run of speech with the task's STT engine: partials as they come, then one final."""
        async for event in self._running().stt(audio):
            yield event

    async def llm_node(self, chat_ctx: ChatContext, fnc_ctx: FunctionContext) -> AsyncIterator[ChatChunk]:
        """Ask the task's LLM engine, with these functions offered, and stream what it writes."""
        async for chunk in self._running().llm(chat_ctx, fnc_ctx):
            yield chunk

    async def transcription_node(self, text: AsyncIterable[str]) -> AsyncIterator[str]:
        """Change nothing."""
        async for part in text:
            yield part

    async def tts_node(self, text: AsyncIterable[str]) -> AsyncIterator[AudioFrame]:
        """Cut the text into sentences and stream the audio of the task's TTS engine."""
        async for frame in self._running().tts(text):
            yield frame

    def _running(self) -> Stages:
        stages = running.get(None)
        if stages is None:
            raise RuntimeError(f"{self._name}: the default nodes work only while the conversation calls a node")
        return stages


class AgentTask:
    """A part of a conversation with instructions, functions and hooks of its own. Subclass it, or make one as it is.

    - `instructions`: what the LLM is told about this task.
    - `chat_ctx`: what it knows from the start (copied). Without it, it begins with an empty one.
    - `ai_functions`: functions beside those of the class that are marked with `@ai_function`.
    - `turn_detector`, `stt`, `vad`, `llm`, `tts`: not given, the VoiceAgent's; None switches it off for this task (no
      `tts`: text only; no `stt`: text in only; no `llm`: no replies of its own).
    - `allow_interruptions`: whether the caller may cut off what this task says; not given, the VoiceAgent's.
    """

    # Here, and not only in __init__: a subclass that has forgotten super().__init__() is to be told so, by `_state()`.
    _agent: VoiceAgent | None = None
    _frame: Frame | None = None  # while it runs

    def __init__(
        self,
        *,
        instructions: str,
        chat_ctx: ChatContext | NotGiven = NOT_GIVEN,
        ai_functions: Sequence[Any] = (),
        turn_detector: TurnDetector | NotGiven | None = NOT_GIVEN,
        stt: EngineChoice = NOT_GIVEN,
        vad: EngineChoice = NOT_GIVEN,
        llm: EngineChoice = NOT_GIVEN,
        tts: EngineChoice = NOT_GIVEN,
        allow_interruptions: bool | NotGiven = NOT_GIVEN,
    ) -> None:
        if not isinstance(instructions, str):
            raise TypeError(f"{type(self).__name__}: instructions must be text, not {type(instructions).__name__}")
        self._instructions = instructions
        self._chat_ctx = ChatContext() if isinstance(chat_ctx, NotGiven) else chat_ctx.copy()
        self._functions = FunctionContext([*functions_of(self), *(as_ai_function(one) for one in ai_functions)])
        self.turn_detector = turn_detector
        self.vad, self.stt, self.llm, self.tts = vad, stt, llm, tts
        self.allow_interruptions = allow_interruptions
        self._prepare()

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def instructions(self) -> str:
        """What the LLM is told about this task."""
        return self._instructions

    @property
    def ai_functions(self) -> list[AIFunction]:
        """The functions that the LLM may call while this task is the current one."""
        return list(self._functions)

    @property
    def chat_ctx(self) -> ChatContext:
        """What was said in this task: a live, read-only view. `update_chat_ctx()` changes it."""
        return self._state().view()

    @property
    def agent(self) -> VoiceAgent:
        """The agent that runs this task; raises RuntimeError while none does."""
        self._state()
        if self._agent is None:
            raise RuntimeError(f"{type(self).__name__} is not running: it has no agent yet, or no longer")
        return self._agent

    def update_chat_ctx(self, chat_ctx: ChatContext) -> None:
        """Replace what this task knows of the conversation, from the next reply on. The context is copied."""
        self._chat_ctx = chat_ctx.copy()

    def update_instructions(self, instructions: str) -> None:
        """Tell the LLM something else, from the next reply on."""
        self._instructions = instructions

    # --- lifecycle hooks --------------------------------------------------------------------------------------------

    async def on_enter(self) -> None:
        """The task becomes the current one. If it raises or takes too long, the earlier task stays active."""

    async def on_end_of_turn(self, chat_ctx: ChatContext, new_message: ChatMessage) -> None:
        """The caller's turn is complete, and no reply has been made yet.

        Changes of `chat_ctx` hold for this reply; those of `new_message` are kept. Raise `StopResponse` for no reply.
        """

    async def on_exit(self) -> None:
        """The task stops being the current one, whatever the reason. Runs once, shielded from cancellation."""

    # --- pipeline nodes ---------------------------------------------------------------------------------------------

    @property
    def default(self) -> DefaultNodes:
        """The nodes as they would be, for overrides that a type checker reads: `self.default.llm_node(…)`.

        `super().llm_node(…)` is the same; its type allows everything that an override may return.
        """
        return DefaultNodes(type(self).__name__)

    def stt_node(self, audio: AsyncIterable[AudioFrame]) -> SttOutput:
        """Recognise a run of speech: called once for each, with its frames as they come."""
        return self.default.stt_node(audio)

    def llm_node(self, chat_ctx: ChatContext, fnc_ctx: FunctionContext) -> LlmOutput:
        """Write the reply, as text, chunks and function calls."""
        return self.default.llm_node(chat_ctx, fnc_ctx)

    def transcription_node(self, text: AsyncIterable[str]) -> TextOutput:
        """Change the reply's text before it is shown, stored and spoken."""
        return self.default.transcription_node(text)

    def tts_node(self, text: AsyncIterable[str]) -> AudioOutput:
        """Speak the reply."""
        return self.default.tts_node(text)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        """The last step of `__init__`, for what a kind of task needs besides."""

    def _state(self) -> ChatContext:
        """Its chat context. Raises RuntimeError when the subclass has forgotten `super().__init__()`."""
        if not hasattr(self, "_chat_ctx"):
            raise RuntimeError(f"{type(self).__name__}.__init__ must call super().__init__(instructions=…)")
        return self._chat_ctx

    def _attach(self, agent: VoiceAgent, frame: Frame) -> None:
        """It runs now. Raises RuntimeError when it does already."""
        self._state()
        if self._frame is not None:
            raise RuntimeError(
                f"this {type(self).__name__} is running already: make a new one, or wait until it has left"
            )
        self._agent, self._frame = agent, frame

    def _detach(self, frame: Frame) -> None:
        """It has left; as long as its last words are spoken its nodes have an agent."""
        if self._frame is frame:
            self._frame = None
        if self._frame is None and not frame.activities:
            self._agent = None
