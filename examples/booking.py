"""Functions that take their time: several at once, one that is slow, one that fails.

antiphon run examples/booking.py

Say "Find a table for four on Friday", "What is on the menu on Friday?" and "Find a table for twelve on Monday".
"""

from __future__ import annotations

import asyncio
from enum import Enum

from orchestrator import AgentTask, AIError, CallContext, SessionInfo, VoiceAgent, ai_function

LARGEST_TABLE = 8
SLOW_S = 3.0


class Day(Enum):
    MONDAY = "Monday"
    FRIDAY = "Friday"
    SUNDAY = "Sunday"


MENU = {Day.MONDAY: "soup", Day.FRIDAY: "grilled trout", Day.SUNDAY: "roast beef"}


class Booking(AgentTask):
    async def on_enter(self) -> None:
        self.agent.say("Green Garden restaurant. When would you like to come?")

    # An LLM may call several functions at once, as for "What is on the menu on Friday, and is there a table for four?"
    # They run side by side, and it is told what they gave in the order in which it called them.
    @ai_function
    async def find_table(self, context: CallContext, people: int, day: Day) -> str:
        """Find a free table.

        Args:
            people: How many people will come.
            day: On which day.
        """
        if people > LARGEST_TABLE:
            # The LLM is told this and explains it. Any other exception is logged, and the LLM is told only that
            # something went wrong, for it would read a traceback out.
            raise AIError(f"our largest table is for {LARGEST_TABLE}")
        # Speech and work go on at the same time: the caller hears this while the reservations are looked through.
        context.agent.say("One moment, I am looking through the reservations.")
        time = await slow_reservations(people, day)
        return f"There is a table for {people} on {day.value} at {time}."

    @ai_function
    async def read_menu(self, day: Day) -> str:
        """Read what is on the menu.

        Args:
            day: On which day.
        """
        return f"On {day.value} there is {MENU[day]}."

    # After its own `timeout` (30 seconds unless it or the VoiceAgent says otherwise) a function is cancelled, and the
    # LLM is told that it took too long.
    @ai_function(timeout=10.0)
    async def count_tables(self) -> str:
        """Count the free tables of the whole week."""
        # Independent work need not wait for one another.
        times = await asyncio.gather(*(slow_reservations(2, day) for day in Day))
        return f"There are {len(times)} tables: {', '.join(times)}."


async def slow_reservations(people: int, day: Day) -> str:
    """When there is a table. The sleep stands for a slow backend: this example has none that it could ask."""
    await asyncio.sleep(SLOW_S)
    return "half past seven" if people > 2 or day is Day.SUNDAY else "six"


def agent(session: SessionInfo) -> VoiceAgent:
    return VoiceAgent(task=Booking(instructions="You take bookings for the Green Garden. Parking is behind the house."))
