"""A user's file that is typed as it should be: mypy --strict finds nothing in it, and infers what is revealed."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator
from dataclasses import dataclass
from typing import assert_type

from orchestrator import (
    AgentTask,
    AIError,
    AudioFrame,
    CallContext,
    ChatChunk,
    ChatContext,
    ChatMessage,
    Context,
    FunctionContext,
    InlineTask,
    SpeechEvent,
    SpeechHandle,
    VoiceAgent,
    ai_function,
)
from orchestrator.events import TaskChanged, UserInputTranscribed


@dataclass
class Order:
    """What was ordered."""

    size: str
    drinks: int


class CollectOrder(InlineTask[Order]):
    """Ends with an order, or with an error."""

    def __init__(self) -> None:
        super().__init__(instructions="Take the order.")

    @ai_function
    async def confirm(self, size: str, drinks: int) -> None:
        """Confirm the order."""
        self.complete(Order(size, drinks))

    @ai_function(description="Give up.", timeout=2.0)
    async def cancel(self) -> None:
        self.complete(AIError("the caller does not want anything"))


class Waiter(AgentTask):
    """Overrides hooks and nodes in each of the ways that are allowed."""

    async def on_enter(self) -> None:
        order = await CollectOrder()
        assert_type(order, Order)
        speech = self.agent.say(f"{order.drinks} drinks.")
        assert_type(speech, SpeechHandle)
        assert_type(await speech, SpeechHandle)

    async def on_end_of_turn(self, chat_ctx: ChatContext, new_message: ChatMessage) -> None:
        new_message.text = new_message.text.strip()

    async def llm_node(self, chat_ctx: ChatContext, fnc_ctx: FunctionContext) -> AsyncIterator[ChatChunk | str]:
        yield "Well, "
        async for chunk in self.default.llm_node(chat_ctx, fnc_ctx):
            assert_type(chunk, ChatChunk)
            yield chunk

    async def transcription_node(self, text: AsyncIterable[str]) -> str:
        return "".join([part async for part in text]).upper()

    async def tts_node(self, text: AsyncIterable[str]) -> AsyncIterable[AudioFrame]:
        return self.default.tts_node(text)

    async def stt_node(self, audio: AsyncIterable[AudioFrame]) -> AsyncIterator[SpeechEvent]:
        async for event in self.default.stt_node(audio):
            yield event

    @ai_function
    async def book(self, context: CallContext, day: str) -> tuple[AgentTask, str]:
        """Book a table."""
        return Waiter(instructions="Go on."), f"Booked for {day}."

    async def other(self, context: CallContext) -> None:
        """A decorated function keeps its own type."""
        assert_type(await self.book(context, day="Monday"), tuple[AgentTask, str])


async def greet(ctx: Context) -> None:
    """A hook function."""
    await ctx.send_message("Welcome!")


def on_task(event: TaskChanged) -> None:
    """A listener."""
    assert_type(event.new, AgentTask)


agent = VoiceAgent(task=Waiter(instructions="Wait."))
agent.hooks.add(on_enter=greet, scope="turn")
agent.on("task_changed", on_task)


@agent.on("user_input_transcribed")
def heard(event: UserInputTranscribed) -> None:
    """Another one."""
    assert_type(event.text, str)
