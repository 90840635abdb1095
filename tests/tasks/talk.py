"""Helpers of the tests of functions and handoffs: agents, what an LLM was shown, and a caller who speaks."""

from __future__ import annotations

import threading
from typing import Any

from orchestrator import AgentTask, VoiceAgent
from orchestrator.events import TaskChanged
from orchestrator.testing import Call
from orchestrator.testing.script import Request
from tests.orchestrator.simulated import noise
from tests.tasks.hooked import Hooked

PATIENCE_S = 10.0  # real: for a thread


class Gate:
    """What a thread waits for."""

    def __init__(self) -> None:
        self._opened = threading.Event()

    def open(self) -> None:
        self._opened.set()

    def wait(self) -> None:
        assert self._opened.wait(PATIENCE_S), "nobody opened the gate"


class Billing(Hooked):
    """What is handed over to."""


async def greets(task: AgentTask) -> None:
    """What billing does when it is entered."""
    task.agent.say("Billing here.")


def agent_with(*functions: Any, **options: Any) -> VoiceAgent:
    """With one task, which has these functions."""
    return VoiceAgent(task=AgentTask(instructions="You help.", ai_functions=functions), **options)


def shown(request: Request) -> list[str]:
    """The chat of a request, a line for each item."""
    lines: list[str] = []
    for item in request.chat:
        if item.call is not None:
            lines.append(f"{item.call.call_id}: {item.call.name}({item.call.arguments})")
        elif item.role == "function":
            lines.append(f"{item.call_id} gave: {item.text}")
        else:
            lines.append(f"{item.role}: {item.text}")
    return lines


def given_back(request: Request) -> list[str]:
    """What the functions gave that were called before a request, in the order in which the LLM is shown it."""
    return [item.text for item in request.chat if item.role == "function"]


def offered(request: Request) -> list[str]:
    """The names of the functions that the LLM might call."""
    return [function.name for function in request.functions]


def changes(call: Call) -> list[tuple[AgentTask | None, AgentTask]]:
    """Which task took whose place, as listeners were told."""
    return [(event.old, event.new) for event in call.events if isinstance(event, TaskChanged)]


async def barge_in(call: Call, transcript: str, *, seconds: float = 1.0) -> None:
    """Speak for so long, long enough to cut the agent off, then be silent until the turn has ended.

    `transcript`: what the recogniser hears in it; "" for a noise in which there are no words.
    """
    call.nodes.stt.transcripts.append(transcript)
    await call.play(noise(seconds, 4_000))
    await call.silence(1.0)
