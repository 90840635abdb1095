"""A turn detector in a conversation: whose it is, what it is asked, and what its failures cost."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from orchestrator import AgentTask, ChatContext, VoiceAgent
from orchestrator.testing import Call, virtual_time

HELLO = Path(__file__).parent.parent.parent / "examples" / "audio" / "01-slt-hello.wav"


class Detector:
    """Says what it is told, and notes what it is asked."""

    def __init__(self, probability: float, threshold: float = 0.5) -> None:
        self.probability = probability
        self.threshold = threshold
        self.asked: list[str] = []

    async def predict_end_of_turn(self, chat_ctx: ChatContext) -> float:
        self.asked.append(chat_ctx.messages[-1].text)
        return self.probability


async def delay(agent: VoiceAgent) -> float:
    """Virtual seconds from the end of the file until the agent has begun to think."""
    async with Call(agent, "Hi.") as call:
        await call.settled()
        await call.speak(HELLO, "hello")
        assert call.expect.user("hello").message("Hi.")
        ended = next(one for one in call.events if type(one).__name__ == "TurnMetrics")
        return float(ended.stages.endpointing_ms) / 1000  # type: ignore[union-attr]


@virtual_time
async def test_a_sure_detector_ends_the_turn_after_the_minimal_delay() -> None:
    detector = Detector(0.9)
    assert await delay(VoiceAgent(instructions="", turn_detector=detector)) == pytest.approx(0.5, abs=0.1)
    assert detector.asked == ["hello"]


@virtual_time
async def test_a_detector_that_expects_more_keeps_the_turn_open_for_the_maximal_delay() -> None:
    agent = VoiceAgent(instructions="", turn_detector=Detector(0.1), max_endpointing_delay=2.0)
    assert await delay(agent) == pytest.approx(2.0, abs=0.1)


@virtual_time
async def test_a_tasks_own_detector_takes_the_place_of_the_agents_and_none_switches_it_off() -> None:
    agents, own = Detector(0.1), Detector(0.9)
    task = AgentTask(instructions="", turn_detector=own)
    await delay(VoiceAgent(task=task, turn_detector=agents))
    assert (agents.asked, own.asked) == ([], ["hello"])
    without = AgentTask(instructions="", turn_detector=None)
    await delay(VoiceAgent(task=without, turn_detector=agents))
    assert agents.asked == []


@virtual_time
async def test_a_detector_that_fails_is_logged_and_does_not_hold_the_turn(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Detector):
        async def predict_end_of_turn(self, chat_ctx: ChatContext) -> float:
            raise RuntimeError("no model")

    assert await delay(VoiceAgent(instructions="", turn_detector=Broken(0.9))) == pytest.approx(0.5, abs=0.1)
    assert "the turn detector failed" in caplog.text


@virtual_time
async def test_a_detector_that_hangs_holds_the_turn_no_longer_than_the_maximal_delay() -> None:
    class Hanging(Detector):
        async def predict_end_of_turn(self, chat_ctx: ChatContext) -> float:
            await asyncio.Event().wait()
            return 1.0

    agent = VoiceAgent(instructions="", turn_detector=Hanging(0.9), max_endpointing_delay=1.5)
    assert await delay(agent) == pytest.approx(1.5, abs=0.1)
