"""The events of a VoiceAgent: what each tells, in which order, and who listens."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, get_args

import pytest

from orchestrator import FunctionCall, Handoff, VoiceAgent
from orchestrator.events import (
    NAMES,
    AgentStateChanged,
    Closed,
    ConversationItemAdded,
    ErrorOccurred,
    Event,
    EventName,
    FunctionsCalled,
    FunctionsExecuted,
    SpeechCreated,
    TaskChanged,
    TurnMetrics,
    UserInputTranscribed,
    UserStateChanged,
)
from orchestrator.testing import Call, calls, fails, step, virtual_time
from tests.tasks.shop import Desk, Shop
from tests.tasks.talk import barge_in

HELLO = Path(__file__).parent.parent.parent / "examples" / "audio" / "01-slt-hello.wav"


def of(call: Call, kind: type[Any]) -> list[Any]:
    """The events of this kind, in their order."""
    return [event for event in call.events if isinstance(event, kind)]


def names(call: Call) -> list[str]:
    return [NAMES[type(event)] for event in call.events]


def told(call: Call) -> list[str]:
    """What happened, in words."""
    words: list[str] = []
    for event in call.events:
        match event:
            case UserStateChanged(_, new):
                words.append(f"the user is {new}")
            case AgentStateChanged(_, new):
                words.append(f"the agent is {new}")
            case UserInputTranscribed(_, text, final):
                words.append(f"{'final' if final else 'partial'}: {text}")
            case ConversationItemAdded(item):
                words.append(f"added: {item.kind} {getattr(item, 'text', '')}".rstrip())
            case _:
                words.append(NAMES[type(event)])
    return words


# --- payloads and order -----------------------------------------------------------------------------------------------


@virtual_time
async def test_a_spoken_turn_is_told_step_by_step() -> None:
    async with Call(VoiceAgent(task=Shop()), "Good morning.") as call:
        await call.speak(HELLO, "hello there friend")
    assert told(call) == [
        "task_changed",
        "the user is speaking",
        "partial: hello there",
        "the user is silent",
        "partial: hello there friend",
        "final: hello there friend",
        "the agent is thinking",
        "added: message hello there friend",
        "speech_created",
        "the agent is speaking",
        "added: message Good morning.",
        "the agent is listening",
        "metrics",
        "close",
    ]


@virtual_time
async def test_a_turn_with_a_function_tells_of_the_calls_before_and_after_they_run() -> None:
    async with Call(VoiceAgent(task=Shop()), calls("find_book", title="Emma"), "Shelf 3.") as call:
        await call.write("Emma?")
    order = [one for one in names(call) if one not in ("agent_state_changed", "user_input_transcribed")]
    added = "conversation_item_added"
    assert order == [
        "task_changed",
        added,
        "speech_created",
        "functions_called",
        *(added, added),
        "functions_executed",
        added,
        "metrics",
        "close",
    ]
    task = call.agent.current_task
    [called], [executed] = of(call, FunctionsCalled), of(call, FunctionsExecuted)
    assert isinstance(called.calls[0], FunctionCall)
    assert [(one.name, one.arguments, one.call_id) for one in called.calls] == [
        ("find_book", '{"title": "Emma"}', "call_1")
    ]
    assert [one.call_id for one in executed.calls] == ["call_1"]
    assert [(one.call_id, one.output, one.is_error) for one in executed.outputs] == [("call_1", "Emma: shelf 3", False)]
    assert called.task is executed.task is task


@virtual_time
async def test_user_state_changed_says_what_was_and_what_is() -> None:
    async with Call(VoiceAgent(task=Shop()), "Hello.") as call:
        await call.speak(HELLO, "hello there")
    assert of(call, UserStateChanged) == [
        UserStateChanged("silent", "speaking"),
        UserStateChanged("speaking", "silent"),
    ]


@virtual_time
async def test_agent_state_changed_says_what_was_and_what_is() -> None:
    async with Call(VoiceAgent(task=Shop()), "Hello.") as call:
        await call.write("Hi")
    assert of(call, AgentStateChanged) == [
        AgentStateChanged("listening", "thinking"),
        AgentStateChanged("thinking", "speaking"),
        AgentStateChanged("speaking", "listening"),
    ]


@virtual_time
async def test_between_two_steps_of_a_reply_the_agent_is_thinking() -> None:
    looked = step("Let me look.", calls("find_book", title="Emma"))
    async with Call(VoiceAgent(task=Shop()), looked, "Shelf 3.") as call:
        await call.write("Emma?")
    states = [event.new for event in of(call, AgentStateChanged)]
    assert states == ["thinking", "speaking", "thinking", "speaking", "listening"]


@virtual_time
async def test_user_input_transcribed_counts_the_turns() -> None:
    async with Call(VoiceAgent(task=Shop()), "One.", "Two.") as call:
        await call.write("Hi")
        await call.speak(HELLO, "hello there")
    assert of(call, UserInputTranscribed) == [
        UserInputTranscribed(1, "Hi", True),
        UserInputTranscribed(2, "hello there", False),
        UserInputTranscribed(2, "hello there", True),
    ]


@virtual_time
async def test_conversation_item_added_tells_of_every_item_once_with_its_task() -> None:
    then = Shop()
    first = Desk(then)
    async with Call(VoiceAgent(task=first), step("One moment.", calls("transfer")), "Which book?") as call:
        await call.write("A shop")
        await call.write("Hi")
    added = of(call, ConversationItemAdded)
    assert sorted(event.item.id for event in added) == sorted(item.id for item in call.agent.chat_ctx.items)
    owners = [(event.item.kind, type(event.task).__name__) for event in added]
    assert owners == [
        ("message", "Desk"),
        ("message", "Desk"),
        ("function_call", "Desk"),
        ("function_output", "Desk"),
        ("handoff", "Shop"),
        ("message", "Shop"),
        ("message", "Shop"),
    ]


@virtual_time
async def test_speech_created_gives_the_handle_before_anything_is_said() -> None:
    seen: list[tuple[str, bool]] = []
    agent = VoiceAgent(task=Shop())

    @agent.on("speech_created")
    def note(event: SpeechCreated) -> None:
        seen.append((event.speech.kind, event.speech.done()))

    async with Call(agent, "Hello.", "Again.") as call:
        await call.write("Hi")
        said = agent.say("Welcome.")
        generated = agent.generate_reply()
        await generated
    assert seen == [("reply", False), ("say", False), ("reply", False)]
    assert [event.speech for event in of(call, SpeechCreated)][1:] == [said, generated]
    assert all(event.task is agent.current_task for event in of(call, SpeechCreated))


@virtual_time
async def test_task_changed_names_both_tasks() -> None:
    then = Shop()
    first = Desk(then)
    async with Call(VoiceAgent(task=first), calls("transfer")) as call:
        await call.write("A shop")
    assert of(call, TaskChanged) == [TaskChanged(None, first), TaskChanged(first, then)]
    [handoff] = [item for item in call.agent.chat_ctx.items if isinstance(item, Handoff)]
    assert (handoff.from_task, handoff.to_task) == ("Desk", "Shop")


@virtual_time
async def test_metrics_come_once_for_each_turn_with_its_outcome() -> None:
    script = ("Hello there.", fails("the model is down"), "word " * 40, "Yes?")
    async with Call(VoiceAgent(task=Shop()), *script) as call:
        await call.speak(HELLO, "hello there")
        await call.write("Again")
        call.send("Tell me")
        await call.until(lambda: call.state == "speaking")
        await barge_in(call, "stop")
        await call.settled()
        await barge_in(call, "")
        await call.settled()
    metrics: list[TurnMetrics] = of(call, TurnMetrics)
    assert [(one.turn, one.outcome) for one in metrics] == [
        (1, "completed"),
        (2, "failed"),
        (3, "interrupted"),
        (4, "completed"),
        (5, "nothing_heard"),
    ]
    spoken = metrics[0]
    assert spoken.audio_ms == spoken.heard_ms == pytest.approx(len("Hello there.") * 60, abs=20)
    assert spoken.stages.total_ms >= 500
    cut = metrics[2]
    assert 0 < cut.heard_ms <= cut.audio_ms
    assert cut.stages.endpointing_ms == -1  # it was written


@virtual_time
async def test_error_tells_what_the_client_is_told() -> None:
    async with Call(VoiceAgent(task=Shop()), fails("the model is down")) as call:
        await call.write("Hi")
    [event] = of(call, ErrorOccurred)
    assert (event.error.code, str(event.error)) == ("engine", "the model is down")


@pytest.mark.parametrize(
    ("end", "reason"),
    [
        (Call.hang_up, "the test is over"),
        (Call.lose_client, "the client is gone"),
        (Call.shut_down, "the orchestrator is shutting down"),
    ],
)
@virtual_time
async def test_close_comes_last_and_once_with_the_reason(end: Any, reason: str) -> None:
    left: list[str] = []

    class Leaving(Shop):
        async def on_exit(self) -> None:
            left.append(f"on_exit, told of {names(call).count('close')} closings")

    async with Call(VoiceAgent(task=Leaving())) as call:
        await call.settled()
        await end(call)
    assert of(call, Closed) == [Closed(reason)]
    assert names(call)[-1] == "close"
    assert left == ["on_exit, told of 0 closings"]


def test_every_event_has_a_name_that_can_be_listened_to() -> None:
    assert set(NAMES) == set(get_args(Event))
    assert sorted(NAMES.values()) == sorted(get_args(EventName))
    agent = VoiceAgent(task=Shop())
    for name in get_args(EventName):
        agent.on(name, print)


# --- listeners --------------------------------------------------------------------------------------------------------


@virtual_time
async def test_listeners_are_called_in_the_order_in_which_they_were_added_sync_and_async_alike() -> None:
    heard: list[str] = []
    agent = VoiceAgent(task=Shop())
    agent.on("task_changed", lambda event: heard.append(f"plain {type(event.new).__name__}"))

    async def listen(event: TaskChanged) -> None:
        heard.append("async, begun")
        await asyncio.sleep(1)
        heard.append("async, ended")

    agent.on("task_changed", listen)

    @agent.on("task_changed")
    def decorated(event: TaskChanged) -> None:
        heard.append("decorated")

    assert callable(decorated)
    async with Call(agent) as call:
        await call.settled()
        assert heard == ["plain Shop", "decorated", "async, begun"]
    assert heard[-1] == "async, ended"


@virtual_time
async def test_off_ends_it_and_may_be_said_of_who_never_listened() -> None:
    heard: list[str] = []
    agent = VoiceAgent(task=Shop())

    def once(event: TaskChanged) -> None:
        heard.append("once")
        agent.off("task_changed", once)

    agent.on("task_changed", once)
    agent.off("task_changed", print)
    agent.off("close", once)
    async with Call(agent) as call:
        await call.settled()
        await agent.update_task(Shop())
    assert heard == ["once"]


@pytest.mark.parametrize("kind", ["plain", "async"])
@virtual_time
async def test_a_listener_that_raises_is_logged_and_harms_nobody(kind: str, caplog: pytest.LogCaptureFixture) -> None:
    heard: list[str] = []
    agent = VoiceAgent(task=Shop())

    def broken(event: object) -> None:
        raise ZeroDivisionError("of a listener")

    async def broken_later(event: object) -> None:
        broken(event)

    for name in get_args(EventName):
        agent.on(name, broken if kind == "plain" else broken_later)
    agent.on("task_changed", lambda event: heard.append("the next one"))
    async with Call(agent, "Hello.") as call:
        await call.write("Hi")
        call.expect.user("Hi").message("Hello.").nothing_more()
    assert heard == ["the next one"]
    assert "a listener of 'task_changed' failed" in caplog.text
    assert "ZeroDivisionError: of a listener" in caplog.text


def test_an_event_that_there_is_not_and_a_listener_that_is_none_are_refused() -> None:
    agent = VoiceAgent(task=Shop())
    with pytest.raises(ValueError, match=r"there is no event 'user_started_speaking'; there are user_state_changed, "):
        agent.on("user_started_speaking", print)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="there is no event 'closed'"):
        agent.on("closed")(print)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="a listener of 'close' must be a function of one event"):
        agent.on("close", "print")  # type: ignore[call-overload]


@virtual_time
async def test_an_async_listener_that_never_ends_is_cancelled_after_the_close(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []
    agent = VoiceAgent(task=Shop(), hook_timeout=2.0)

    @agent.on("close")
    async def write_for_ever(event: Closed) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("cancelled")

    began = asyncio.get_running_loop().time()
    async with Call(agent) as call:
        await call.settled()
    assert ended == ["cancelled"]
    assert asyncio.get_running_loop().time() - began == pytest.approx(2, abs=0.2)
    assert "was cancelled: it went on for 2 s after the conversation" in caplog.text


@virtual_time
async def test_an_async_listener_of_the_close_may_take_its_time() -> None:
    kept: list[str] = []
    agent = VoiceAgent(task=Shop())

    @agent.on("close")
    async def store(event: Closed) -> None:
        await asyncio.sleep(3)
        kept.append(f"{event.reason}: {len(agent.chat_ctx)} items")

    async with Call(agent, "Hello.") as call:
        await call.write("Hi")
    assert kept == ["the test is over: 2 items"]


@virtual_time
async def test_a_listener_may_speak() -> None:
    agent = VoiceAgent(task=Shop())

    @agent.on("error")
    def apologise(event: ErrorOccurred) -> None:
        agent.say("I am sorry.")

    async with Call(agent, fails("the model is down")) as call:
        await call.write("Hi")
        call.expect.user("Hi").error("engine").message("I am sorry.").nothing_more()
