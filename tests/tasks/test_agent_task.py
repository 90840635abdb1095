"""What an AgentTask and a VoiceAgent are made of: each parameter and each property. Of engines: test_task_engines."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from orchestrator import AgentTask, CallContext, ChatContext, ChatMessage, VoiceAgent, ai_function
from orchestrator.events import TurnMetrics
from orchestrator.testing import Call, calls, virtual_time
from tests.tasks.shop import Desk, Shop, opening_hours
from tests.tasks.talk import barge_in

HELLO = Path(__file__).parent.parent.parent / "examples" / "audio" / "01-slt-hello.wav"


# --- instructions, chat_ctx, ai_functions -----------------------------------------------------------------------------


@virtual_time
async def test_instructions_are_what_the_llm_is_told() -> None:
    async with Call(VoiceAgent(task=Shop()), "Hello.") as call:
        assert call.agent.current_task.instructions == "You sell books."
        await call.write("Hi")
        assert call.script.requests[0].instructions == "You sell books."


@virtual_time
async def test_instructions_that_are_updated_hold_from_the_next_reply_on() -> None:
    async with Call(VoiceAgent(task=Shop()), "Hello.", "Bye.") as call:
        await call.write("Hi")
        call.agent.current_task.update_instructions("The shop closes.")
        await call.write("Well?")
        assert [one.instructions for one in call.script.requests] == ["You sell books.", "The shop closes."]


def test_instructions_must_be_given_and_be_text() -> None:
    with pytest.raises(TypeError, match="instructions"):
        AgentTask()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"Shop: instructions must be text, not list"):
        AgentTask.__init__(Shop.__new__(Shop), instructions=["You sell books."])  # type: ignore[arg-type]


@virtual_time
async def test_a_chat_ctx_that_is_given_is_copied_and_told_to_the_llm() -> None:
    given = ChatContext([ChatMessage("user", "I am Ann."), ChatMessage("assistant", "Hello, Ann.")])
    task = Shop(chat_ctx=given)
    given.add_message("user", "Not this.")
    async with Call(VoiceAgent(task=task), "Ann.") as call:
        await call.write("Who am I?")
        asked = [(one.role, one.text) for one in call.script.requests[0].chat[1:]]
    assert asked == [("user", "I am Ann."), ("assistant", "Hello, Ann."), ("user", "Who am I?")]


def test_without_a_chat_ctx_a_task_begins_with_an_empty_one_of_its_own() -> None:
    one, other = Shop(), Shop()
    one._chat_ctx.add_message("user", "Hi")
    assert (len(one.chat_ctx), len(other.chat_ctx)) == (1, 0)


@virtual_time
async def test_functions_that_are_given_are_offered_beside_those_of_the_class() -> None:
    task = Shop(ai_functions=[opening_hours])
    assert [function.name for function in task.ai_functions] == ["find_book", "opening_hours"]
    async with Call(VoiceAgent(task=task), calls("opening_hours"), "From nine.") as call:
        await call.write("When?")
        assert [one.name for one in call.script.requests[0].functions] == ["find_book", "opening_hours"]
        call.expect.user().function_call("opening_hours").function_output("nine to five").message("From nine.")


def test_what_is_no_ai_function_is_refused_with_what_to_do() -> None:
    async def undecorated() -> None: ...

    with pytest.raises(TypeError, match=r"undecorated.* is no AI function: put @ai_function above its def"):
        AgentTask(instructions="x", ai_functions=[undecorated])


def test_the_list_of_functions_is_a_copy() -> None:
    task = Shop()
    task.ai_functions.clear()
    assert [function.name for function in task.ai_functions] == ["find_book"]


# --- the task's chat_ctx and agent ------------------------------------------------------------------------------------


@virtual_time
async def test_the_chat_ctx_is_a_live_view() -> None:
    async with Call(VoiceAgent(task=Shop()), "Hello.") as call:
        view = call.agent.current_task.chat_ctx
        assert len(view) == 0
        await call.write("Hi")
        assert [message.text for message in view.messages] == ["Hi", "Hello."]


def test_the_view_of_a_chat_ctx_refuses_every_change() -> None:
    task = Shop(chat_ctx=ChatContext([ChatMessage("user", "Hi")]))
    view, item = task.chat_ctx, task.chat_ctx.items[0]
    changes: list[Any] = [
        lambda: view.add_message("user", "x"),
        lambda: view.insert(ChatMessage("user", "x")),
        lambda: view.remove(item.id),
        lambda: view.merge(ChatContext()),
        lambda: view.truncate(1),
        lambda: setattr(view, "items", []),
    ]
    for change in changes:
        with pytest.raises(TypeError, match=r"read-only view; use update_chat_ctx\(\)"):
            change()
    with pytest.raises(AttributeError):
        view.items.append(item)
    with pytest.raises(AttributeError):
        task.chat_ctx = ChatContext()  # type: ignore[misc]
    assert [message.text for message in task.chat_ctx.messages] == ["Hi"]


@virtual_time
async def test_update_chat_ctx_holds_from_the_next_reply_on_and_copies() -> None:
    async with Call(VoiceAgent(task=Shop()), "Hello.", "Ann.") as call:
        await call.write("Hi")
        other = ChatContext([ChatMessage("user", "I am Ann.")])
        call.agent.current_task.update_chat_ctx(other)
        other.add_message("user", "Not this.")
        await call.write("Who am I?")
        asked = [one.text for one in call.script.requests[1].chat[1:]]
        assert asked == ["I am Ann.", "Who am I?"]
        whole = [message.text for message in call.agent.chat_ctx.messages]
        assert whole == ["Hi", "Hello.", "Who am I?", "Ann."]


@virtual_time
async def test_the_agent_is_there_while_the_task_runs_and_at_no_other_time() -> None:
    seen: list[object] = []

    class Watching(Shop):
        async def on_enter(self) -> None:
            seen.append(self.agent)

        async def on_exit(self) -> None:
            seen.append(self.agent)

    task = Watching()
    agent = VoiceAgent(task=task)
    with pytest.raises(RuntimeError, match="Watching is not running"):
        task.agent  # noqa: B018
    async with Call(agent) as call:
        await call.settled()
        assert task.agent is agent
    assert seen == [agent, agent]
    with pytest.raises(RuntimeError, match="Watching is not running"):
        task.agent  # noqa: B018


class Forgetful(AgentTask):
    def __init__(self) -> None:
        self.name = "x"


FORGOTTEN = re.escape("Forgetful.__init__ must call super().__init__(instructions=…)")


def test_a_first_task_that_has_forgotten_super_init_is_refused() -> None:
    with pytest.raises(RuntimeError, match=FORGOTTEN):
        VoiceAgent(task=Forgetful())
    with pytest.raises(RuntimeError, match=FORGOTTEN):
        Forgetful().chat_ctx  # noqa: B018
    with pytest.raises(RuntimeError, match=FORGOTTEN):
        Forgetful().agent  # noqa: B018


@virtual_time
async def test_a_handoff_to_a_task_that_has_forgotten_super_init_changes_nothing() -> None:
    async with Call(VoiceAgent(task=Desk(Forgetful())), calls("transfer"), "That failed.") as call:
        await call.write("Transfer me")
        call.expect.user().function_call().function_output(re.compile(FORGOTTEN), is_error=True).message("That failed.")
        assert isinstance(call.agent.current_task, Desk)


# --- VoiceAgent -------------------------------------------------------------------------------------------------------


def test_an_agent_is_given_instructions_or_a_task_and_not_both() -> None:
    for wrong in ({}, {"instructions": "x", "task": Shop()}):
        with pytest.raises(ValueError, match=r"either instructions= or task=, and not both"):
            VoiceAgent(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"is not an AgentTask: make one, as in task=Receptionist\(\)"):
        VoiceAgent(task=Shop)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"max_fnc_steps": -1}, "max_fnc_steps=-1: it is 0"),
        ({"tasks": Shop()}, "unexpected keyword argument 'tasks'"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(wrong: dict[str, Any], told: str) -> None:
    with pytest.raises((TypeError, ValueError), match=told):
        VoiceAgent(instructions="x", **wrong)


@virtual_time
async def test_the_smallest_agent_is_instructions_alone() -> None:
    async with Call(VoiceAgent(instructions="You are kind."), "Hello.") as call:
        await call.speak(HELLO, "hello there")
        call.expect.user("hello there").message("Hello.").nothing_more()
        assert call.script.requests[0].instructions == "You are kind."
        assert type(call.agent.current_task) is AgentTask
        embedded = {"vad": "silero", "stt": "pocketsphinx", "llm": "rule", "tts": "espeak"}
        assert {one.spec.service: one.spec.engine for one in call.nodes.openings} == embedded


@pytest.mark.parametrize("delay", [0.3, 1.2])
@virtual_time
async def test_min_endpointing_delay_is_the_silence_that_ends_a_turn(delay: float) -> None:
    async with Call(VoiceAgent(task=Shop(), min_endpointing_delay=delay), "Hello.") as call:
        await call.speak(HELLO, "hello there")
        await call.silence(1.0)
        await call.settled()
        [turn] = [event for event in call.events if isinstance(event, TurnMetrics)]
        assert turn.stages.endpointing_ms == pytest.approx(delay * 1000, abs=50)


@pytest.mark.parametrize(("duration", "cut"), [(0.3, True), (2.0, False)])
@virtual_time
async def test_min_interruption_duration_is_the_noise_that_cuts_the_agent_off(duration: float, cut: bool) -> None:
    async with Call(VoiceAgent(task=Shop(), min_interruption_duration=duration)) as call:
        await call.settled()
        speech = call.agent.say("one two three four five six seven eight nine ten eleven twelve")
        await barge_in(call, "", seconds=1.0)
        assert (await speech).interrupted is cut


@virtual_time
async def test_max_fnc_steps_bounds_the_rounds_after_which_no_functions_are_offered() -> None:
    look = calls("find_book", title="Emma")
    async with Call(VoiceAgent(task=Shop(), max_fnc_steps=2), look, look, "Shelf 3.") as call:
        await call.write("Emma?")
        assert [len(request.functions) for request in call.script.requests] == [1, 1, 0]
    async with Call(VoiceAgent(task=Shop(), max_fnc_steps=0), "I can't look.") as call:
        await call.write("Emma?")
        assert [len(request.functions) for request in call.script.requests] == [0]


@virtual_time
async def test_userdata_is_the_very_object_for_hooks_functions_and_whoever_holds_the_agent() -> None:
    seen: list[object] = []

    class Looking(Shop):
        async def on_enter(self) -> None:
            seen.append(self.agent.userdata)

        @ai_function
        async def look(self, context: CallContext) -> None:
            """Look at it."""
            seen.append(context.userdata)

    basket = {"books": 0}
    async with Call(VoiceAgent(task=Looking(), userdata=basket), calls("look")) as call:
        await call.write("Look")
        assert all(one is basket for one in [*seen, call.agent.userdata])
        assert len(seen) == 2


@virtual_time
async def test_the_current_task_and_the_whole_conversation_are_there_before_during_and_after() -> None:
    then: AgentTask = Shop()
    first: AgentTask = Desk(then)
    agent = VoiceAgent(task=first)
    assert (agent.current_task, agent.current_speech, len(agent.chat_ctx)) == (first, None, 0)
    async with Call(agent, calls("transfer"), "Which book?") as call:
        await call.settled()
        assert agent.current_task is first
        await call.write("A shop, please")
        assert agent.current_task is then
        await call.write("Hi")
    kinds = [item.kind for item in agent.chat_ctx.items]
    assert kinds == ["message", "function_call", "function_output", "handoff", "message", "message"]
    assert [message.text for message in first.chat_ctx.messages] == ["A shop, please"]
    assert [message.text for message in then.chat_ctx.messages] == ["Hi", "Which book?"]
    with pytest.raises(TypeError, match="read-only"):
        agent.chat_ctx.add_message("user", "x")
