"""What tests of InlineTasks share: a task that asks, and one whose functions do what a test says."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from orchestrator import AgentTask, AIError, ChatMessage, FunctionOutput, ai_function
from orchestrator.testing import Call, calls
from tests.tasks.hooked import Act, Asking, Hooked

BOOK = calls("book")


class Ask(Asking):
    """Asks, and is complete when the caller has answered or refused."""

    async def on_enter(self) -> None:
        await super().on_enter()
        self.agent.say(f"Your {self.name}?")

    @ai_function
    async def answer(self, value: str) -> None:
        """Take the answer."""
        self.complete(value)

    @ai_function
    async def refuse(self) -> None:
        """They do not want to say."""
        self.complete(AIError("the caller refused"))


def book(act: Callable[[], Awaitable[object]], name: str = "book") -> Any:
    """A function for the LLM that does this and returns what it gives."""

    @ai_function(name=name)
    async def function() -> Any:
        """Do it."""
        return await act()

    return function


def desk(noted: list[str], *acts: Callable[[], Awaitable[object]], **hooks: Act) -> Hooked:
    """A task with one function `book`, and `book2` and so on."""
    functions = [book(act, f"book{number}" if number > 1 else "book") for number, act in enumerate(acts, 1)]
    return Hooked(noted, "desk", ai_functions=functions, **hooks)


async def raised(awaitable: Awaitable[object]) -> str:
    """What a piece of code that awaits this is told: the error's type and text, or its result."""
    try:
        return f"{await awaitable}"
    except Exception as error:  # noqa: BLE001  # told to the test
        return f"{type(error).__name__}: {error}"


def said(task: AgentTask) -> list[str]:
    """The messages of a task's chat context."""
    return [item.text for item in task.chat_ctx.items if isinstance(item, ChatMessage)]


async def completes(task: Asking) -> None:
    """An `on_enter` that needs no caller."""
    task.complete("done")


def outputs(call: Call, name: str = "book") -> list[str]:
    """What this function gave back to the LLM, each time that it was called."""
    return [item.output for item in call.happened if isinstance(item, FunctionOutput) and item.name == name]
