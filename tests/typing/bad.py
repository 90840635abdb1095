"""A user's file with one mistake in each line that is marked `# error: CODE`: mypy finds these, and no others."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator

from orchestrator import (
    AgentTask,
    ChatContext,
    ChatMessage,
    Context,
    FunctionContext,
    InlineTask,
    VoiceAgent,
    ai_function,
)
from orchestrator.events import TaskChanged


class Name(InlineTask[str]):
    """Asks for a name."""

    async def on_enter(self) -> None:
        self.complete(42)  # error: arg-type


class NotAsync(AgentTask):
    """Hooks that are no coroutines, or take something else."""

    def on_enter(self) -> None:  # error: override
        self.agent.say("Hello.")

    async def on_end_of_turn(self, chat_ctx: ChatContext, new_message: str) -> None:  # error: override
        return None

    async def on_exit(self, reason: str) -> None:  # error: override
        return None


class WrongNodes(AgentTask):
    """Nodes that take or give something else."""

    async def llm_node(self, chat_ctx: ChatContext, fnc_ctx: FunctionContext) -> AsyncIterator[int]:  # error: override
        yield 1

    async def transcription_node(self, text: str) -> str:  # error: override
        return text

    def tts_node(self, text: AsyncIterable[str]) -> bytes:  # error: override
        return b""


class Asks(AgentTask):
    """Takes a result for what it is not."""

    async def on_enter(self) -> None:
        age: int = await Name(instructions="Ask for the name.")  # error: assignment
        print(age)

    @ai_function
    async def lookup(self, name: str) -> str:
        """Look somebody up."""
        return name

    async def misuse(self) -> None:
        """Calls a function with an argument of the wrong type."""
        await self.lookup(name=3)  # error: arg-type


def not_async(ctx: Context) -> None:
    """No hook."""


def on_message(message: ChatMessage) -> None:
    """No listener of task_changed."""


agent = VoiceAgent(task=Asks(instructions="Ask."))
agent.hooks.add(on_enter=not_async)  # error: arg-type
agent.on("task_changed", on_message)  # error: call-overload
agent.on("task_change", lambda event: None)  # error: call-overload
VoiceAgent(instruction="Be brief.")  # error: call-arg


def right(event: TaskChanged) -> None:
    """A listener as it should be."""


agent.on("task_changed", right)
