"""Two tasks for tests: one with a function, and one that hands over."""

from __future__ import annotations

from typing import Any

from orchestrator import AgentTask, ai_function


@ai_function
async def opening_hours() -> str:
    """When the shop is open."""
    return "nine to five"


class Shop(AgentTask):
    def __init__(self, **options: Any) -> None:
        super().__init__(instructions="You sell books.", **options)

    @ai_function
    async def find_book(self, title: str) -> str:
        """Find a book.

        Args:
            title: Of the book.
        """
        return f"{title}: shelf 3"


class Desk(AgentTask):
    """Hands over to the task that it is given."""

    def __init__(self, then: AgentTask, **options: Any) -> None:
        super().__init__(instructions="You are the desk.", **options)
        self.then = then

    @ai_function
    async def transfer(self) -> AgentTask:
        """Hand over."""
        return self.then
