"""What changing tasks costs: many transitions in one session, their CPU time, and what they leave behind.

    python benchmarks/tasks.py [--transitions 10000]

Runs the orchestrator's own code (session, conversation, task stack) with simulated nodes in virtual time, so that only
the work itself is measured. Half of the transitions are handoffs by `update_task`, half are InlineTasks that are
awaited in a function and completed at once; each runs `on_enter` and `on_exit`. Prints CPU time per transition, and
memory, asyncio tasks and open streams after each tenth.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import resource
import statistics
import time

from orchestrator import AgentTask, InlineTask, VoiceAgent, ai_function
from orchestrator.testing import Call, calls, run, says

PAGE_KB = resource.getpagesize() / 1024


class Step(AgentTask):
    """A task with both hooks and a function."""

    def __init__(self, number: int) -> None:
        super().__init__(instructions=f"You are step {number}.")
        self.entered = self.left = 0

    async def on_enter(self) -> None:
        self.entered += 1

    async def on_exit(self) -> None:
        self.left += 1

    @ai_function
    async def ask(self, rounds: int) -> str:
        """Await so many inline tasks."""
        for _ in range(rounds):
            began = time.process_time()
            await Question(instructions="You ask.")
            INLINE.append(time.process_time() - began)
        return "done"


class Question(InlineTask[int]):
    """A task that knows its answer."""

    async def on_enter(self) -> None:
        self.complete(42)


INLINE: list[float] = []


def memory_kb() -> float:
    """Resident memory of this process."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * PAGE_KB


async def measure(transitions: int) -> None:
    """All of it in one call."""
    handoffs: list[float] = []
    part = max(1, transitions // 20)
    agent = VoiceAgent(task=Step(0), tts=None, stt=None, function_timeout=None)
    async with Call(agent) as call:
        await call.settled()
        print(f"{'transitions':>11}  {'memory':>10}  {'asyncio tasks':>13}  {'open streams':>12}  {'chat items':>10}")
        for number in range(10):
            for _ in range(part):
                began = time.process_time()
                await agent.update_task(Step(number))
                await call.settled()
                handoffs.append(time.process_time() - began)
            call.script.append(calls("ask", rounds=part), says("Done."))
            await call.write("ask")
            call.forget()
            agent._chat_ctx.truncate(100)  # the history itself grows with every conversation: it is no leak
            gc.collect()
            print(
                f"{(number + 1) * part * 2:>11}  {memory_kb() / 1024:>7.1f} MB  {len(asyncio.all_tasks()):>13}"
                f"  {sum(call.nodes.used.values()):>12}  {len(agent.chat_ctx):>10}"
            )
    for name, costs in (("handoff", handoffs), ("inline task", INLINE)):
        figures = sorted(cost * 1000 for cost in costs)
        print(
            f"{name:<12} {len(figures):>6} transitions: median {statistics.median(figures):.3f} ms of CPU, "
            f"p99 {figures[int(len(figures) * 0.99)]:.3f} ms"
        )


def main() -> None:
    """Parse the command line, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--transitions", type=int, default=10_000, help="how many, in all")
    run(measure(parser.parse_args().transitions))


if __name__ == "__main__":
    main()
