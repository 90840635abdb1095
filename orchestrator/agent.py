"""VoiceAgent: one conversation's agent. A user's factory makes one for each session."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from orchestrator.chat import ChatContext
from orchestrator.engines import NOT_GIVEN, EngineChoice, Engines, NotGiven, choose
from orchestrator.events import (
    AgentStateChanged,
    Closed,
    ConversationItemAdded,
    ErrorOccurred,
    EventName,
    FunctionsCalled,
    FunctionsExecuted,
    Listeners,
    SpeechCreated,
    TaskChanged,
    TurnMetrics,
    UserInputTranscribed,
    UserStateChanged,
)
from orchestrator.hooks import Connect, Hooks
from orchestrator.speech_handle import SpeechHandle
from orchestrator.task import AgentTask
from orchestrator.turn import TurnOptions
from orchestrator.turn_detector import TurnDetector
from orchestrator.user_code import running_code
from protocol.audio import AudioFrame

if TYPE_CHECKING:
    from orchestrator.conversation import Conversation

E = TypeVar("E")
Listener = Callable[[E], Awaitable[None] | None]


class VoiceAgent:
    """What the caller talks to: a first task, engines, functions of its hooks, and how turns are taken.

    Give either `instructions` or a `task`. Engines that are not given are the embedded ones, and None switches a stage
    off. Times are in seconds.

    - `userdata`: whatever the conversation carries along, for hooks and functions.
    - `allow_interruptions`: whether the caller may cut the agent off; a task, and a speech, may say otherwise.
    - `max_fnc_steps`: how often the LLM may call functions in one reply before it must answer.
    - `function_timeout`, `hook_timeout`: for one function, and one hook, without the time in which it waits for the
      caller; None: a function may take as long as it likes.
    - `db_connection`: a function that opens a connection, for `ctx.get_db_connection()` in hooks.
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
        turn_detector: TurnDetector | None = None,
        userdata: Any = None,
        allow_interruptions: bool = True,
        min_interruption_duration: float = 0.5,
        min_endpointing_delay: float = 0.5,
        max_endpointing_delay: float = 3.0,
        max_fnc_steps: int = 3,
        function_timeout: float | None = 30.0,
        hook_timeout: float = 5.0,
        db_connection: Connect | None = None,
    ) -> None:
        if (instructions is None) == (task is None):
            raise ValueError("VoiceAgent needs either instructions= or task=, and not both")
        if task is not None and not isinstance(task, AgentTask):
            raise TypeError(f"task={task!r} is not an AgentTask: make one, as in task=Receptionist()")
        if task is not None:
            task._state()
        if max_fnc_steps < 0:
            raise ValueError(f"max_fnc_steps={max_fnc_steps}: it is 0 (no functions) or more")
        self._first_task = task if task is not None else AgentTask(instructions=instructions or "")
        self.vad, self.stt, self.llm, self.tts = vad, stt, llm, tts
        self.turn_detector = turn_detector
        self.userdata = userdata
        self.allow_interruptions = allow_interruptions
        self.max_fnc_steps = max_fnc_steps
        self.function_timeout = function_timeout
        self.hook_timeout = hook_timeout
        self.turn_options = TurnOptions(
            min_endpointing_delay=min_endpointing_delay,
            max_endpointing_delay=max_endpointing_delay,
            min_interruption_duration=min_interruption_duration,
        )
        self.hooks = Hooks(db_connection)
        self._chat_ctx = ChatContext()
        self._listeners = Listeners()
        self._conversation: Conversation | None = None

    # --- what there is ----------------------------------------------------------------------------------------------

    @property
    def chat_ctx(self) -> ChatContext:
        """The whole conversation, over all tasks: messages, function calls and outputs, handoffs. A read-only view."""
        return self._chat_ctx.view()

    @property
    def current_task(self) -> AgentTask:
        """The task that is current: the first one until another takes its place."""
        top = self._conversation.stack.top if self._conversation is not None else None
        return top.task if top is not None else self._first_task

    @property
    def current_speech(self) -> SpeechHandle | None:
        """What is being said, or is about to be; None while the agent says nothing."""
        return self._conversation.current_speech if self._conversation is not None else None

    def engines(self, task: AgentTask | None = None) -> Engines:
        """The engines of this task (None: the current one): its own, else the agent's, else the embedded ones."""
        task = task if task is not None else self.current_task
        return Engines(
            vad=choose("vad", task.vad, self.vad),
            stt=choose("stt", task.stt, self.stt),
            llm=choose("llm", task.llm, self.llm),
            tts=choose("tts", task.tts, self.tts),
        )

    def detector(self, task: AgentTask) -> TurnDetector | None:
        """What judges the turns of this task: its own turn detector, else the agent's."""
        return self.turn_detector if isinstance(task.turn_detector, NotGiven) else task.turn_detector

    # --- speaking ---------------------------------------------------------------------------------------------------

    def say(
        self,
        text: str | AsyncIterable[str],
        *,
        audio: AsyncIterable[AudioFrame] | None = None,
        allow_interruptions: bool | NotGiven = NOT_GIVEN,
        add_to_chat_ctx: bool = True,
    ) -> SpeechHandle:
        """Say this, word for word, after what is being said. Returns at once.

        `audio`: recorded speech of the text, played instead of the TTS engine's. What was heard becomes a message of
        the chat context unless `add_to_chat_ctx` is False. Raises RuntimeError before the conversation has started
        and after it has ended.
        """
        return self._running().say(
            text, audio=audio, allow_interruptions=allow_interruptions, add_to_chat_ctx=add_to_chat_ctx
        )

    def generate_reply(
        self,
        *,
        user_input: str | None = None,
        instructions: str = "",
        allow_interruptions: bool | NotGiven = NOT_GIVEN,
    ) -> SpeechHandle:
        """Have the LLM say something, after what is being said. Returns at once.

        `user_input` is added to the chat context as a message of the user; `instructions` are told to the LLM beside
        the task's, for this reply. Raises RuntimeError as `say`.
        """
        return self._running().generate_reply(
            user_input=user_input, instructions=instructions, allow_interruptions=allow_interruptions
        )

    def interrupt(self, *, force: bool = False) -> None:
        """Stop what is said, what waits to be said, and replies that are being made. With `force` all of it."""
        if self._conversation is not None:
            self._conversation.interrupt(force=force, silence=True)

    # --- tasks ------------------------------------------------------------------------------------------------------

    def update_task(self, task: AgentTask) -> Awaitable[None]:
        """Make another task the current one. Returns at once; `await` it to wait until the task is entered.

        Raises `TaskFailed` when awaited, if the task can't be entered: the earlier one stays then. Unawaited, the
        failure is logged and told by an `error` event. Can't be awaited in a hook of a task that is entered or left.
        """
        return self._running().update_task(task, running_code.get())

    # --- events -----------------------------------------------------------------------------------------------------

    @overload
    def on(self, event: Literal["user_state_changed"], listener: Listener[UserStateChanged]) -> None: ...
    @overload
    def on(self, event: Literal["agent_state_changed"], listener: Listener[AgentStateChanged]) -> None: ...
    @overload
    def on(self, event: Literal["user_input_transcribed"], listener: Listener[UserInputTranscribed]) -> None: ...
    @overload
    def on(self, event: Literal["conversation_item_added"], listener: Listener[ConversationItemAdded]) -> None: ...
    @overload
    def on(self, event: Literal["functions_called"], listener: Listener[FunctionsCalled]) -> None: ...
    @overload
    def on(self, event: Literal["functions_executed"], listener: Listener[FunctionsExecuted]) -> None: ...
    @overload
    def on(self, event: Literal["speech_created"], listener: Listener[SpeechCreated]) -> None: ...
    @overload
    def on(self, event: Literal["task_changed"], listener: Listener[TaskChanged]) -> None: ...
    @overload
    def on(self, event: Literal["metrics"], listener: Listener[TurnMetrics]) -> None: ...
    @overload
    def on(self, event: Literal["error"], listener: Listener[ErrorOccurred]) -> None: ...
    @overload
    def on(self, event: Literal["close"], listener: Listener[Closed]) -> None: ...
    @overload
    def on(self, event: EventName) -> Callable[[E], E]: ...

    def on(self, event: EventName, listener: Any = None) -> Any:
        """Call `listener` with each such event; without one, a decorator. `off` undoes it.

        A listener may be async; one that raises is logged, and harms nobody. Raises ValueError for an event that there
        is not.
        """
        if listener is None:

            def decorate(function: E) -> E:
                self.on(event, function)  # type: ignore[call-overload]
                return function

            return decorate
        self._listeners.add(event, listener)
        return None

    def off(self, event: EventName, listener: Any) -> None:
        """Call this listener no more."""
        self._listeners.remove(event, listener)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _running(self) -> Conversation:
        if self._conversation is None:
            raise RuntimeError(
                "the agent is in no conversation: it can speak and change tasks from the first task's on_enter on, "
                "until the conversation has ended"
            )
        return self._conversation

    def _now(self) -> float:
        return self._running().channel.now()
