"""Whole conversations at random: tasks that hand over, ask and fail, a caller who cuts in, and what must hold of each.

A history is its seed. One that fails is run again alone with `python -m tests.tasks.test_task_histories SEED`.
"""

from __future__ import annotations

import asyncio
import random
import sys
from typing import Any

from orchestrator import AgentTask, AIError, CallContext, ChatMessage, FunctionCall, FunctionOutput, ai_function
from orchestrator.events import SpeechCreated
from orchestrator.testing import Call, Script, calls, run, says, step
from protocol.node import ChatItem, FunctionSchema
from tests.tasks.hooked import Asking, Hooked, agent_of
from tests.tasks.talk import barge_in

HISTORIES = 80
WITHIN_S = 400.0  # of virtual time: for all tasks that are asked for one after the other


class History:
    """One conversation: what is random in it, and what its tasks have noted."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.noted: list[str] = []
        self.tasks = 0

    def likely(self, probability: float) -> bool:
        return self.random.random() < probability

    async def pause(self) -> None:
        if self.likely(0.6):
            await asyncio.sleep(self.random.choice([0, 0.1, 1, 3]))

    def task(self, kind: type[Hooked] = Hooked) -> Any:
        """The first one enters well: without it there is no conversation."""
        self.tasks += 1
        enter = None if self.tasks == 1 else self.asks if kind is Asking else self.enters
        functions = [self.work, self.move, self.ask, *([self.answer] if kind is Asking else [])]
        return kind(self.noted, f"task {self.tasks}", enter=enter, leave=self.leaves, ai_functions=functions)

    # --- hooks ------------------------------------------------------------------------------------------------------

    async def enters(self, task: Hooked) -> None:
        await self.pause()
        if self.likely(0.5):
            task.agent.say(f"Here is {task.name}.")
        if self.likely(0.1):
            raise ValueError("it cannot be entered")
        if self.likely(0.2):
            change = task.agent.update_task(self.task())
            if self.likely(0.5):
                await change

    async def asks(self, task: Hooked) -> None:
        await self.pause()
        if self.likely(0.5):
            task.agent.say("What is your name?")

    async def leaves(self, task: Hooked) -> None:
        await self.pause()
        if self.likely(0.3):
            task.agent.say(f"Goodbye from {task.name}.")
        self.noted.append(f"left {task.name}")

    # --- functions --------------------------------------------------------------------------------------------------

    @ai_function
    async def work(self, context: CallContext) -> str | None:
        await self.pause()
        if self.likely(0.3):
            speech = context.agent.say("I am looking.")
            if self.likely(0.3):
                await speech
        if self.likely(0.1):
            raise AIError("there is none")
        return None if self.likely(0.2) else "there is one"

    @ai_function
    async def move(self, context: CallContext) -> Any:
        await self.pause()
        how = self.random.choice(["alone", "with a message", "update", "update and wait"])
        if how.startswith("update"):
            change = context.agent.update_task(self.task())
            if how == "update and wait":
                await change
            return "moved"
        return self.task() if how == "alone" else (self.task(), "One moment.")

    @ai_function
    async def ask(self) -> str:
        await self.pause()
        answer: str = await self.task(Asking)
        return answer

    @ai_function
    async def answer(self, context: CallContext) -> None:
        await self.pause()
        assert isinstance(context.task, Asking)
        context.task.complete("Ann")

    # --- the other two ----------------------------------------------------------------------------------------------

    def llm(self, _: list[ChatItem], functions: list[FunctionSchema]) -> Any:
        if functions and self.likely(0.6):
            names = self.random.choices([function.name for function in functions], k=self.random.randint(1, 3))
            text = [says("Let me look at it, then.")] if self.likely(0.5) else []
            return step(*text, *map(calls, names))
        return self.random.choice(["Yes.", "Well, that is a longer answer, you see."])

    async def caller(self, call: Call, number: int) -> None:
        """Does one thing."""
        what = self.random.choices(
            ["write", "speak", "noise", "silence", "button", "task", "reply"], [7, 3, 3, 2, 1, 2, 1]
        )
        match what[0]:
            case "write":
                call.send(f"Turn {number}.")
            case "speak" | "noise":
                words = f"turn {number}" if what == ["speak"] else ""
                await barge_in(call, words, seconds=self.random.choice([0.3, 1]))
            case "silence":
                call.agent.interrupt()
            case "button":
                call.interrupt()
            case "task":
                call.agent.update_task(self.task())
            case "reply":
                call.agent.generate_reply()
        await asyncio.sleep(self.random.choice([0, 0, 0.05, 0.3, 1, 2, 5]))

    async def run(self) -> Call:
        async with Call(agent_of(self.task()), Script(otherwise=self.llm)) as call:
            await call.settled()
            for number in range(self.random.randint(3, 20)):
                await self.caller(call, number)
            if self.likely(0.5):
                await call.settled(WITHIN_S)
                check_turns(call)
            await self.random.choice([call.hang_up, call.lose_client, call.shut_down])()
        return call


# --- what must hold ---------------------------------------------------------------------------------------------------


def check_turns(call: Call) -> None:
    """At rest, each turn of the caller is in the chat context once."""
    kept = [item.text for item in call.agent.chat_ctx if isinstance(item, ChatMessage) and item.role == "user"]
    assert sorted(kept) == sorted(text for who, text in call.transcript if who == "user")


def check_tasks(history: History) -> None:
    """Every task whose on_enter was begun was left once, to the end of its on_exit; the others never."""
    noted = [note for note in history.noted if not note.startswith("end of turn")]
    for number in range(1, history.tasks + 1):
        own = [note.split()[0] for note in noted if note.endswith(f" task {number}")]
        assert own in ([], ["enter", "exit", "left"]), (number, own)


def check_calls(call: Call) -> None:
    """Every call has its output, once, and every speech is over."""
    asked = [item.call_id for item in call.agent.chat_ctx if isinstance(item, FunctionCall)]
    given = [item.call_id for item in call.agent.chat_ctx if isinstance(item, FunctionOutput)]
    assert sorted(asked) == sorted(given)
    assert len(asked) == len(set(asked))
    for request in call.script.requests:
        pending: set[str] = set()
        for item in request.chat:
            if item.call is not None:
                pending.add(item.call.call_id)
            elif item.role == "function":
                pending.remove(item.call_id)
            else:
                assert not pending, request.chat
    assert all(event.speech.done() for event in call.events if isinstance(event, SpeechCreated))


def check(seed: int) -> tuple[History, Call]:
    history = History(seed)
    call = run(history.run())
    check_tasks(history)
    check_calls(call)
    return history, call


def test_whatever_happens_each_task_is_left_once_each_turn_kept_and_each_call_answered() -> None:
    tasks = functions = 0
    for seed in range(HISTORIES):
        try:
            history, call = check(seed)
        except Exception as error:
            raise AssertionError(f"history {seed}: {error!r}") from error
        tasks += history.tasks
        functions += sum(isinstance(item, FunctionCall) for item in call.agent.chat_ctx)
        assert isinstance(call.agent.current_task, AgentTask)
    assert tasks > 2 * HISTORIES  # they are about something
    assert functions > 2 * HISTORIES


if __name__ == "__main__":
    print(check(int(sys.argv[1]))[0].noted)
