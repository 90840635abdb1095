"""How long a hook may take, when its time stands still, and the last words that `on_exit` may say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from orchestrator import AgentTask, AudioFrame, TaskFailed, VoiceAgent
from orchestrator.deadline import GRACE_S
from orchestrator.testing import Call, virtual_time
from tests.tasks.hooked import Act, Asking, Hooked, agent_of, told

LONG = " ".join(["This sentence is spoken slowly."] * 12)  # 23 s at the pace of the simulated voice
FAREWELL = "Goodbye, and thank you for calling."


def now() -> float:
    return asyncio.get_running_loop().time()


def takes(seconds: float) -> Act:
    """A hook that works for so long."""

    async def work(_: AgentTask) -> None:
        await asyncio.sleep(seconds)

    return work


# --- the time limit ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "limit"), [({}, 5.0), ({"hook_timeout": 0.5}, 0.5), ({"hook_timeout": 60}, 60.0)])
@virtual_time
async def test_each_hook_has_hook_timeout_which_is_5_s_unless_told(options: dict[str, Any], limit: float) -> None:
    noted: list[str] = []

    async def hang(task: AgentTask) -> None:
        noted.append(f"began at {now():.2f}")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            noted.append(f"stopped at {now():.2f}")
            raise

    async with Call(agent_of(Hooked([], end_of_turn=hang), **options), "Hello.") as call:
        await call.settled()
        began = now()
        await call.write("Hi.", within=600)
    assert noted == [f"began at {began:.2f}", f"stopped at {began + limit + GRACE_S:.2f}"]


@virtual_time
async def test_hooks_just_inside_their_time_are_not_stopped() -> None:
    noted: list[str] = []
    task = Hooked(noted, enter=takes(4.9), end_of_turn=takes(4.9), leave=takes(4.9))
    async with Call(agent_of(task), "Hello.") as call:
        await call.write("Hi.")
        call.expect.user("Hi.").message("Hello.").nothing_more()
    assert noted == ["enter first", "end of turn first", "exit first"]
    assert told(call) == []


@virtual_time
async def test_each_hook_has_the_whole_time_for_itself() -> None:
    # Each has a timeout: the function hook and the method do not share one.
    noted: list[str] = []

    async def slow(_: object) -> None:
        await asyncio.sleep(4)
        noted.append("function")

    agent = agent_of(Hooked(noted, enter=takes(4), leave=takes(4)))
    agent.hooks.add(on_enter=slow, on_exit=slow)
    async with Call(agent) as call:
        await call.settled()
    assert noted == ["function", "enter first", "exit first", "function"]
    assert told(call) == []


@virtual_time
async def test_a_time_limit_of_the_hooks_own_comes_first_even_if_it_is_as_long_as_hook_timeout() -> None:
    noted: list[str] = []

    async def give_up(_: AgentTask) -> None:
        await asyncio.sleep(0.1)
        try:
            await asyncio.wait_for(asyncio.Event().wait(), timeout=5.0)
        except TimeoutError:
            noted.append("did without")

    async with Call(agent_of(Hooked([], enter=give_up))) as call:
        await call.settled()
        assert call.closed is None
    assert noted == ["did without"]


@virtual_time
async def test_a_timeout_error_of_the_hooks_own_is_not_mistaken_for_its_time_limit() -> None:
    async def give_up(_: AgentTask) -> None:
        async with asyncio.timeout(0.1):
            await asyncio.Event().wait()

    async with Call(agent_of(Hooked([], enter=give_up))) as call:
        await call.settled()
    assert told(call) == ["Hooked could not be entered: on_enter of Hooked raised TimeoutError"]


# --- when it stands still ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["enter", "end_of_turn", "leave"])
@virtual_time
async def test_the_time_stands_still_while_a_hook_awaits_an_inline_task(hook: str) -> None:
    noted: list[str] = []

    async def ask(task: AgentTask) -> None:
        await asyncio.sleep(4)
        noted.append(await Asking(noted, "asking", enter=answer_late))
        await asyncio.sleep(4)  # the whole time again
        noted.append("had the time")

    async def answer_late(task: Asking) -> None:
        asyncio.get_running_loop().call_later(300, task.complete, "at last")

    async with Call(agent_of(Hooked(noted, **{hook: ask})), "Hello.") as call:
        if hook == "end_of_turn":
            call.send("Hi.")
        if hook == "leave":
            await call.settled()
            await call.agent.update_task(Hooked([], "second"))
        await call.until(lambda: "had the time" in noted, 400)
        await call.settled()
        assert told(call) == []
    assert [note for note in noted if "first" not in note] == [
        "enter asking",
        "exit asking",
        "at last",
        "had the time",
    ]


@pytest.mark.parametrize("hook", ["enter", "end_of_turn", "leave"])
@virtual_time
async def test_the_time_stands_still_while_a_hook_awaits_a_speech(hook: str) -> None:
    noted: list[str] = []

    async def speak(task: AgentTask) -> None:
        speech = await task.agent.say(LONG)
        noted.append(f"heard all: {speech.heard == LONG}")
        await task.agent.generate_reply()
        noted.append("heard the other")

    async with Call(agent_of(Hooked(noted, **{hook: speak})), LONG, "Hello.") as call:
        if hook == "end_of_turn":
            call.send("Hi.")
        if hook == "leave":
            await call.settled()
            await call.agent.update_task(Hooked([], "second"))
        await call.until(lambda: "heard the other" in noted, 120)
        await call.settled()
        assert told(call) == []
    assert "heard all: True" in noted


@virtual_time
async def test_the_time_of_a_hook_goes_on_while_it_awaits_anything_else() -> None:
    # Only what waits for the caller makes it stand still: a speech that plays meanwhile does not.
    async def speak(task: AgentTask) -> None:
        task.agent.say(LONG)
        await asyncio.sleep(10)

    first = Hooked([])
    async with Call(agent_of(first)) as call:
        await call.settled()
        began = now()
        with pytest.raises(TaskFailed, match="took longer than 5 s"):
            await call.agent.update_task(Hooked([], "second", enter=speak))
        assert now() - began == pytest.approx(5 + GRACE_S, abs=0.1)


@virtual_time
async def test_the_inline_task_has_the_time_of_its_own_hooks_while_that_of_the_awaiting_one_stands_still() -> None:
    noted: list[str] = []

    async def ask(task: AgentTask) -> None:
        try:
            await Asking(noted, "asking", enter=takes(6))
        except TaskFailed as error:
            noted.append(str(error))

    async with Call(agent_of(Hooked(noted, enter=ask))) as call:
        await call.settled()
        assert told(call) == []
    why = "Asking could not be entered: on_enter of Asking took longer than 5 s"
    assert noted == ["enter first", "enter asking", "exit asking", why, "exit first"]


# --- last words -------------------------------------------------------------------------------------------------------


class Polite(AgentTask):
    """Says farewell, one way or the other."""

    def __init__(self, *, awaits: bool = False, writes: bool = False) -> None:
        super().__init__(instructions="You are polite.")
        self.awaits, self.writes = awaits, writes
        self.outcome: list[str] = []

    async def on_exit(self) -> None:
        speech = self.agent.generate_reply(instructions="Say goodbye.") if self.writes else self.agent.say(FAREWELL)
        if self.awaits:
            await speech
            self.outcome.append("cut off" if speech.interrupted else "heard")


@pytest.mark.parametrize("awaits", [True, False], ids=["awaited", "not awaited"])
@pytest.mark.parametrize("writes", [True, False], ids=["written by the llm", "said"])
@virtual_time
async def test_the_last_words_of_on_exit_are_heard_when_the_orchestrator_is_stopped(awaits: bool, writes: bool) -> None:
    async with Call(agent_of(Polite(awaits=awaits, writes=writes)), *[FAREWELL] * writes) as call:
        await call.settled()
        await call.shut_down()
        assert call.transcript == [("agent", FAREWELL)]
        assert call.agent.chat_ctx.messages[-1].text == FAREWELL
    assert call.nodes.tts.spoken


@pytest.mark.parametrize("writes", [True, False], ids=["written by the llm", "said"])
@pytest.mark.parametrize("end", [Call.hang_up, Call.lose_client], ids=["hung up", "lost"])
@virtual_time
async def test_the_last_words_of_on_exit_are_not_spoken_to_a_caller_who_is_gone(end: Any, writes: bool) -> None:
    task = Polite(awaits=True, writes=writes)
    async with Call(agent_of(task)) as call:
        await call.settled()
        await end(call)
    assert call.transcript == []
    assert call.nodes.tts.spoken == []
    assert call.script.requests == []
    assert task.outcome == ["cut off"]


@virtual_time
async def test_the_last_words_of_a_first_task_that_could_not_be_entered_are_heard() -> None:
    class Closed(Polite):
        async def on_enter(self) -> None:
            raise ValueError("we are closed")

    async with Call(agent_of(Closed())) as call:
        await call.settled()
        assert call.closed == "task_failed"
    assert call.transcript == [("agent", FAREWELL)]


@virtual_time
async def test_the_last_words_use_the_nodes_of_the_task_that_says_them_which_still_know_their_agent() -> None:
    class Shouting(Polite):
        async def tts_node(self, text: Any) -> AsyncIterator[AudioFrame]:
            self.outcome.append(self.agent.userdata)
            async for frame in self.default.tts_node(text):
                yield frame

        async def transcription_node(self, text: Any) -> AsyncIterator[str]:
            self.outcome.append(self.agent.userdata)
            async for part in text:
                yield part.upper()

    task = Shouting()
    async with Call(VoiceAgent(task=task, userdata="Ann")) as call:
        await call.settled()
        await call.agent.update_task(Hooked([], "second"))
        await call.settled()
        assert call.transcript == [("agent", FAREWELL.upper())]
        await call.agent.update_task(task)
        await call.shut_down()
    assert call.transcript == [("agent", FAREWELL.upper())] * 2
    assert task.outcome == ["Ann"] * 4


@pytest.mark.parametrize("awaits", [True, False], ids=["awaited", "not awaited"])
@virtual_time
async def test_last_words_without_end_are_cut_off(awaits: bool) -> None:
    # While the conversation ends, the time does not stand still.
    async def talk(task: Hooked) -> None:
        speech = task.agent.say(LONG * 10)
        if awaits:
            await speech

    async with Call(agent_of(Hooked([], leave=talk))) as call:
        await call.settled()
        began = now()
        await call.shut_down()
        assert now() - began < 12
    (speaker, heard), *_ = call.transcript
    assert speaker == "agent"
    assert LONG.startswith(heard)


@virtual_time
async def test_an_on_exit_that_runs_already_waits_for_no_speech_without_end_when_the_conversation_ends() -> None:
    noted: list[str] = []

    async def talk(task: AgentTask) -> None:
        await asyncio.sleep(2)
        await task.agent.say(LONG * 10)

    async with Call(agent_of(Hooked(noted, leave=talk))) as call:
        await call.settled()
        await call.agent.update_task(Hooked([], "second"))
        await call.until(lambda: "exit first" in noted)
        began = now()
        await call.shut_down()
        assert now() - began < 12


@virtual_time
async def test_what_on_exit_says_at_a_handoff_is_heard_after_what_the_new_task_has_said_on_entering() -> None:
    async def greet(task: AgentTask) -> None:
        task.agent.say("Second here.")

    async with Call(agent_of(Polite())) as call:
        await call.settled()
        await call.agent.update_task(Hooked([], "second", enter=greet))
        await call.settled()
        assert call.transcript == [("agent", "Second here."), ("agent", FAREWELL)]
