"""Hooks that note that they ran, as methods and as functions, and the ways in which a call ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import pytest

from orchestrator import AgentTask, ChatContext, ChatMessage, Context, InlineTask, VoiceAgent, ai_function
from orchestrator.hooks import Hook
from orchestrator.testing import Call
from protocol.ingest import Error

Act = Callable[[Any], Awaitable[object]]  # of the task
End = Callable[[Call], Awaitable[None]]
ENDS: dict[str, End] = {
    "the caller hangs up": Call.hang_up,
    "the client is lost": Call.lose_client,
    "the orchestrator is stopped": Call.shut_down,
}
ways_to_end = pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
EVENTS = ("on_enter", "on_end_of_turn", "on_exit")


class Hooked(AgentTask):
    """`name` is what the notes call it. An `Act` runs when its hook has made its note."""

    def __init__(
        self,
        noted: list[str],
        name: str = "first",
        *,
        enter: Act | None = None,
        end_of_turn: Act | None = None,
        leave: Act | None = None,
        ai_functions: Sequence[Any] = (),
    ) -> None:
        super().__init__(instructions=f"You are {name}.", ai_functions=ai_functions)
        self.noted, self.name = noted, name
        self.enter, self.end_of_turn, self.leave = enter, end_of_turn, leave
        self.message: ChatMessage | None = None  # of the turn that ended last

    async def on_enter(self) -> None:
        await self._note("enter", self.enter)

    async def on_end_of_turn(self, chat_ctx: ChatContext, new_message: ChatMessage) -> None:
        self.message = new_message
        await self._note("end of turn", self.end_of_turn)

    async def on_exit(self) -> None:
        await self._note("exit", self.leave)

    async def _note(self, hook: str, act: Act | None) -> None:
        self.noted.append(f"{hook} {self.name}")
        if act is not None:
            await act(self)


class Asking(Hooked, InlineTask[str]):
    """An InlineTask that notes as well; the test, or one of its hooks, completes it."""


def agent_of(task: AgentTask, **options: Any) -> VoiceAgent:
    """An agent that begins with this task."""
    return VoiceAgent(task=task, **options)


def hands_over(to: AgentTask, message: str | None = None) -> Any:
    """The function `transfer`, which hands over."""

    @ai_function
    async def transfer() -> Any:
        """Hand over."""
        return to if message is None else (to, message)

    return transfer


def notes(noted: list[str], what: str) -> Hook:
    """A hook that notes that it ran."""

    async def hook(ctx: Context) -> None:
        noted.append(what)

    return hook


def all_three(noted: list[str], name: str) -> dict[str, Any]:
    """Hooks for `hooks.add(…)`, which note "enter <name>" and so on."""
    words = zip(EVENTS, ("enter", "end of turn", "exit"), strict=True)
    return {event: notes(noted, f"{word} {name}") for event, word in words}


async def fails(_: object) -> None:
    """What a broken hook does."""
    raise ValueError("the hook is broken")


async def hangs(_: object) -> None:
    """What a hook does whose service never answers."""
    await asyncio.Event().wait()


def told(call: Call) -> list[str]:
    """The errors that the client was told of, in order."""
    return [message.message for message in call.messages if isinstance(message, Error)]
