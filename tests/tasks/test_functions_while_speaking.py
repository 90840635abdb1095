"""What is said while functions run: by the agent, by the function, and by a caller who cuts in or asks for silence."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from orchestrator import AgentTask, CallContext, FunctionOutput, SpeechHandle, VoiceAgent, ai_function
from orchestrator.events import SpeechCreated, TurnMetrics
from orchestrator.testing import Call, Script, calls, run, says, step, virtual_time
from protocol.errors import EngineError
from protocol.node import ChatItem, FunctionSchema
from tests.tasks.talk import barge_in, given_back, shown

LONG = "I am going to look into all of our books for you, which may take a moment."


class Looking(AgentTask):
    """`look` runs until the test says `found`; `ran` is what became of it."""

    def __init__(self) -> None:
        super().__init__(instructions="You help.")
        self.begun, self.found = asyncio.Event(), asyncio.Event()
        self.ran: list[str] = []
        self.seen_on_exit: list[str] = []
        self.handle: SpeechHandle

    @ai_function
    async def look(self, context: CallContext) -> str:
        self.handle = context.speech_handle
        self.begun.set()
        try:
            await self.found.wait()
        except asyncio.CancelledError:
            self.ran.append("cancelled")
            raise
        self.ran.append("found")
        return "a free table"

    @ai_function
    async def note(self) -> str:
        self.begun.set()
        return "noted"

    async def on_exit(self) -> None:
        for item in self.chat_ctx:
            told = item.output.partition(":")[0] if isinstance(item, FunctionOutput) else getattr(item, "text", "")
            self.seen_on_exit.append(told or getattr(item, "name", ""))


async def looking(call: Call) -> Looking:
    """The caller has asked, and a function is called."""
    task = call.agent.current_task
    assert isinstance(task, Looking)
    call.send("A table?")
    await task.begun.wait()
    return task


def handles(call: Call) -> list[SpeechHandle]:
    return [event.speech for event in call.events if isinstance(event, SpeechCreated)]


# --- what the agent says meanwhile ------------------------------------------------------------------------------------


@virtual_time
async def test_the_caller_hears_what_a_slow_function_says_while_it_works() -> None:
    # A function that takes 3 s while the caller hears something it said with context.agent.say.
    order: list[Any] = []

    @ai_function
    async def look(context: CallContext) -> str:
        context.agent.say("I am looking.")
        await asyncio.sleep(3)
        order.append(list(call.transcript))
        return "a free table"

    agent = VoiceAgent(task=AgentTask(instructions="You help.", ai_functions=[look]))
    async with Call(agent, calls("look"), "There is one.") as call:
        await call.write("A table?")
        call.expect.user().message("I am looking.").function_call().function_output("a free table")
        call.expect.message("There is one.").nothing_more()
    assert order == [[("user", "A table?"), ("agent", "I am looking.")]]


@virtual_time
async def test_functions_run_while_the_text_of_their_step_is_still_spoken() -> None:
    order: list[str] = []

    @ai_function
    async def look(context: CallContext) -> str:
        speech = context.speech_handle
        order.append("called")
        assert speech.text == LONG
        assert len(speech.heard) < len(LONG)
        assert context.agent.current_speech is speech
        speech.add_done_callback(lambda _: order.append("spoken"))
        return "a free table"

    agent = VoiceAgent(task=AgentTask(instructions="You help.", ai_functions=[look]))
    async with Call(agent, step(says(LONG), calls("look")), "There is one.") as call:
        await call.write("A table?")
        call.expect.user().message(LONG).function_call().function_output().message("There is one.").nothing_more()
        assert len(handles(call)) == 1  # one speech for all the steps of a reply
        assert handles(call)[0].heard == f"{LONG} There is one."
    assert order == ["called", "spoken"]


@virtual_time
async def test_what_a_function_says_is_heard_after_the_text_of_its_step() -> None:
    @ai_function
    async def look(context: CallContext) -> None:
        await context.agent.say("Here it is.")

    agent = VoiceAgent(task=AgentTask(instructions="You help.", ai_functions=[look]))
    async with Call(agent, step(says(LONG), calls("look"))) as call:
        await call.write("A table?")
        assert call.transcript[1:] == [("agent", LONG), ("agent", "Here it is.")]
        call.expect.user().message(LONG).message("Here it is.").function_call().function_output("").nothing_more()


@virtual_time
async def test_the_time_limit_of_a_function_stands_still_while_it_waits_for_what_it_says() -> None:
    @ai_function
    async def look(context: CallContext) -> str:
        await context.agent.say(LONG)  # takes longer than 4 s
        return "a free table"

    agent = VoiceAgent(task=AgentTask(instructions="You help.", ai_functions=[look]), function_timeout=1)
    async with Call(agent, calls("look"), "There is one.") as call:
        await call.write("A table?")
        call.expect.user().message(LONG).function_call().function_output("a free table").message("There is one.")


@virtual_time
async def test_awaiting_the_speech_that_has_called_the_function_is_an_error_that_says_what_to_do(
    caplog: pytest.LogCaptureFixture,
) -> None:
    @ai_function
    async def look(context: CallContext) -> str:
        await context.speech_handle
        return "never"

    agent = VoiceAgent(task=AgentTask(instructions="You help.", ai_functions=[look]))
    async with Call(agent, calls("look"), "Sorry.") as call:
        await call.write("A table?")
        call.expect.user().function_call().function_output(is_error=True).message("Sorry.").nothing_more()
    assert "RuntimeError: the function look of AgentTask waits for the speech that has called it" in caplog.text
    assert "await context.agent.say(…)" in caplog.text


# --- a caller who cuts in ---------------------------------------------------------------------------------------------

STEPS = pytest.mark.parametrize(
    ("asked", "said"), [(calls("look"), None), (step(says(LONG), calls("look")), LONG)], ids=["silently", "with text"]
)


@STEPS
@virtual_time
async def test_a_caller_who_cuts_in_does_not_stop_a_function_and_is_answered_with_what_it_gave(
    asked: Any, said: str | None
) -> None:
    # Interruption: the function goes on, its output is recorded; no follow-up when a turn of the user waits.
    script = Script(asked, "For six, then.")
    async with Call(VoiceAgent(task=Looking()), script) as call:
        task = await looking(call)
        await asyncio.sleep(0.5)
        await barge_in(call, "for six people")
        assert task.ran == []
        assert len(script.requests) == 1  # the turn waits for the function
        task.found.set()
        await call.settled()
        call.expect.user("A table?")
        if said is not None:
            call.expect.message(interrupted=True)
        call.expect.function_call("look").function_output("a free table").user("for six people")
        call.expect.message("For six, then.").nothing_more()
    assert task.ran == ["found"]
    assert shown(script.requests[1])[-3:] == ["call_1: look({})", "call_1 gave: a free table", "user: for six people"]


@STEPS
@virtual_time
async def test_a_noise_in_which_nothing_was_said_does_not_cost_the_caller_the_follow_up(
    asked: Any, said: str | None
) -> None:
    # Interruption: the follow-up is left out only when a turn of the user waits.
    script = Script(asked, "There is one.")
    async with Call(VoiceAgent(task=Looking()), script) as call:
        task = await looking(call)
        await asyncio.sleep(0.5)
        await barge_in(call, "")
        task.found.set()
        await call.settled()
        call.expect.user("A table?")
        if said is not None:
            call.expect.message(interrupted=True)
        call.expect.function_call("look").function_output("a free table").message("There is one.", interrupted=False)
        call.expect.nothing_more()
        assert all(handle.done() for handle in handles(call))
        outcomes = [event.outcome for event in call.events if isinstance(event, TurnMetrics)]
        assert sorted(outcomes) == ["completed", "nothing_heard"]
    assert given_back(script.requests[1]) == ["a free table"]


@virtual_time
async def test_the_follow_up_is_not_made_while_the_caller_speaks_or_may_go_on_speaking() -> None:
    # The function ends in the pause after the caller's words, before the end of the turn is found.
    script = Script(calls("look"), "For six, then.")
    async with Call(VoiceAgent(task=Looking(), min_endpointing_delay=0.9), script) as call:
        task = await looking(call)
        speaking = asyncio.create_task(barge_in(call, "for six people"))
        await call.until(lambda: any(getattr(message, "user", "") == "speaking" for message in call.messages))
        await call.until(lambda: getattr(call.messages[-1], "user", "") == "silent")
        task.found.set()
        await speaking
        await call.settled()
        assert call.interruptions == 0  # nothing was begun that had to be cut off
    assert shown(script.requests[1])[-1] == "user: for six people"
    assert len(script.requests) == 2


@virtual_time
async def test_a_turn_in_writing_waits_for_the_function_too_and_takes_the_place_of_the_follow_up() -> None:
    script = Script(calls("look"), "For six, then.")
    async with Call(VoiceAgent(task=Looking()), script) as call:
        task = await looking(call)
        call.send("For six.")
        await asyncio.sleep(1)
        task.found.set()
        await call.settled()
        call.expect.user("A table?").function_call().function_output().user("For six.").message("For six, then.")
        call.expect.nothing_more()
    assert task.ran == ["found"]


# --- silence ----------------------------------------------------------------------------------------------------------

SILENCES: list[Callable[[Call, Looking], object]] = [
    lambda call, _: call.interrupt(),
    lambda call, _: call.agent.interrupt(),
    lambda _, task: task.handle.interrupt(),
]


@STEPS
@pytest.mark.parametrize("silence", SILENCES, ids=["client", "agent.interrupt", "handle.interrupt"])
@virtual_time
async def test_who_asks_for_silence_gets_no_follow_up_and_the_function_goes_on(
    silence: Callable[[Call, Looking], object], asked: Any, said: str | None
) -> None:
    # Explicit interrupt(): no follow-up at all; functions that run are not cancelled, their outputs are recorded.
    script = Script(asked, "And then?")
    async with Call(VoiceAgent(task=Looking()), script) as call:
        task = await looking(call)
        await asyncio.sleep(0.5)
        silence(call, task)
        task.found.set()
        await call.settled()
        call.expect.user("A table?")
        if said is not None:
            call.expect.message(interrupted=True)
        call.expect.function_call("look").function_output("a free table").nothing_more()
        assert task.ran == ["found"]
        assert task.handle.interrupted
        await call.write("Hello?")
        call.expect.user("Hello?").message("And then?").nothing_more()


@virtual_time
async def test_silence_after_a_noise_means_no_follow_up_either() -> None:
    script = Script(step(says(LONG), calls("look")))
    async with Call(VoiceAgent(task=Looking()), script) as call:
        task = await looking(call)
        await barge_in(call, "")
        call.agent.interrupt()
        task.found.set()
        await call.settled()
        call.expect.user().message(interrupted=True).function_call().function_output().nothing_more()


@virtual_time
async def test_a_caller_who_hangs_up_cancels_the_functions_that_run() -> None:
    # Hang-up: replies and functions are cancelled; what was called is in the chat context that on_exit sees.
    script = Script(step(calls("look"), calls("note")))
    async with Call(VoiceAgent(task=Looking()), script) as call:
        task = await looking(call)
        await call.hang_up()
    assert task.ran == ["cancelled"]
    assert task.seen_on_exit == ["A table?", "look", "note", "it was cancelled", "noted"]
    assert all(handle.done() for handle in handles(call))


@virtual_time
async def test_what_a_function_did_is_kept_when_the_caller_hangs_up_while_the_text_is_spoken() -> None:
    async with Call(VoiceAgent(task=Looking()), step(says(LONG), calls("note"))) as call:
        task = await looking(call)
        await asyncio.sleep(0.5)
        assert call.state == "speaking"
        await call.hang_up()
    assert task.seen_on_exit == ["A table?", "I am going", "note", "noted"]


@virtual_time
async def test_what_a_function_did_is_kept_when_the_voice_fails() -> None:
    async with Call(VoiceAgent(task=Looking()), step(says(LONG), calls("look")), "Yes?") as call:
        task = await looking(call)
        await call.until(lambda: call.state == "speaking")
        call.nodes.refuse("tts", EngineError("the voice is gone", category="fatal"), times=1)
        call.nodes.lose("tts")
        await call.until(lambda: call.state == "thinking")
        task.found.set()
        await call.settled()
        call.expect.user().message().function_call("look").function_output("a free table").error().nothing_more()


# --- at any moment ----------------------------------------------------------------------------------------------------


def llm(chat: list[ChatItem], functions: list[FunctionSchema]) -> Any:
    """Calls a function when it is asked something new."""
    if chat[-1].role == "user":
        return step(says("Let me look."), calls("look")) if chat[-1].text == "A table?" else "Very well."
    assert chat[-1].role == "function", chat
    return "There is one, near the window."


@pytest.mark.parametrize("transcript", ["no, wait", ""], ids=["words", "noise"])
def test_whenever_the_caller_cuts_in_all_is_kept_once_and_each_turn_is_answered(transcript: str) -> None:
    async def conversation(at: float) -> list[str]:
        @ai_function
        async def look() -> str:
            await asyncio.sleep(1)
            return "a free table"

        agent = VoiceAgent(task=AgentTask(instructions="You help.", ai_functions=[look]))
        async with Call(agent, Script(otherwise=llm)) as call:
            call.send("A table?")
            await asyncio.sleep(at)
            await barge_in(call, transcript)
            await call.settled()
            assert all(handle.done() for handle in handles(call))
            return [getattr(item, "text", item.kind) for item in agent.chat_ctx]

    called = 0
    for at in range(0, 4_000, 50):
        kept = run(conversation(at / 1000))
        assert kept.count("A table?") == 1, (at, kept)
        assert kept.count("function_call") == kept.count("function_output") <= 1, (at, kept)
        called += kept.count("function_call")
        if transcript:
            assert kept.count("no, wait") == 1, (at, kept)
            assert kept[-1] == "Very well.", (at, kept)
        else:
            assert kept[-1].startswith("There is"), (at, kept)
    assert called > 40
