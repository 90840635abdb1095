"""Tasks that end with a result: one asks for a drink, one for its size, one for a yes; together they make an Order.

antiphon run examples/collect_order.py

Say "I would like to order", then answer the questions; "cancel the order" leaves them at any time.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeVar

from orchestrator import AgentTask, AIError, InlineTask, SessionInfo, VoiceAgent, ai_function

Drink = Literal["espresso", "cappuccino", "tea"]
Size = Literal["small", "medium", "large"]
T = TypeVar("T")


@dataclass
class Order:
    drink: Drink
    size: Size


class Question(InlineTask[T]):
    """What all questions have in common: the caller may leave them."""

    def __init__(self, question: str) -> None:
        super().__init__(
            instructions=f"Take the caller's answer to this question, and talk of nothing else: {question}"
        )
        self.question = question

    async def on_enter(self) -> None:
        self.agent.say(self.question)

    @ai_function
    async def cancel_order(self) -> None:
        """Cancel the order, because the caller does not want it any more."""
        # It is raised where this task is awaited, and from there through all the tasks that wait for one another.
        self.complete(AIError("the order was cancelled"))


class AskDrink(Question[Drink]):
    # A Literal is told to the LLM as the values that there are. Anything else that it makes up never gets here: it is
    # told what was wrong, and asks again.
    @ai_function
    async def choose_drink(self, drink: Drink) -> None:
        """The caller has said what to drink."""
        # Nothing is returned, so nothing is said about it: what comes next is said by whoever awaits this task.
        self.complete(drink)


class AskSize(Question[Size]):
    @ai_function
    async def choose_size(self, size: Size) -> None:
        """The caller has said which size."""
        self.complete(size)


class Confirm(Question[bool]):
    @ai_function
    async def confirm_order(self, correct: bool) -> None:
        """The caller has said whether the order is correct."""
        self.complete(correct)


class CollectOrder(InlineTask[Order]):
    """A task that is made of others. It is the current one only between them."""

    async def run(self) -> None:
        while True:
            drink = await AskDrink("What would you like: espresso, cappuccino or tea?")
            size = await AskSize(f"Which size of {drink}: small, medium or large?")
            if await Confirm(f"One {size} {drink}. Is the order correct?"):
                self.complete(Order(drink, size))
                return
            await self.agent.say("Then let us begin again.")


class Barista(AgentTask):
    async def on_enter(self) -> None:
        self.agent.say("Welcome to the coffee bar.")

    @ai_function
    async def take_order(self) -> str:
        """Take an order: coffee or tea that the caller would like to have."""
        # While this waits, Barista is paused: its functions are not offered, and its time limits stand still. Then what
        # was said in between is part of what it knows.
        order = await CollectOrder(instructions="Take an order.")
        return f"Your {order.size} {order.drink} will be ready in five minutes."


def agent(session: SessionInfo) -> VoiceAgent:
    return VoiceAgent(task=Barista(instructions="You work in a coffee bar. The bar closes at six."))
