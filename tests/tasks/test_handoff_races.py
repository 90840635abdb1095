"""Handoffs while something else happens, tried at every moment: the caller hangs up, speaks, or wants silence.

In a call without sound nothing takes time, and a moment is one turn of the event loop. With sound it is 40 ms.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import pytest

from orchestrator import ChatMessage, ConversationOver, TaskFailed, VoiceAgent
from orchestrator.testing import Call, Script, calls, run, says, step
from orchestrator.testing.script import Step
from protocol.node import ChatItem, FunctionSchema
from tests.tasks.hooked import Hooked, agent_of, hands_over
from tests.tasks.talk import Billing, greets

MOMENTS = 100  # a handoff without sound takes fewer turns of the loop
SOUND_S = 3.0  # and with sound less than this
MOMENT_S = 0.04
ENDS: list[Callable[[Call], Awaitable[None]]] = [Call.hang_up, Call.lose_client, Call.shut_down]

Act = Callable[[Call], Awaitable[object]]


def llm(chat: list[ChatItem], functions: list[FunctionSchema]) -> Step | str:
    """Hands over when it is asked to and can."""
    asked = chat[-1].role == "user" and chat[-1].text == "Billing, please."
    return step(says("Well."), calls("transfer")) if asked and functions else "Yes?"


async def leaves_slowly(task: Hooked) -> None:
    await asyncio.sleep(0.1)
    task.agent.say(f"Goodbye from {task.name}.")
    task.noted.append(f"left {task.name}")


def handing_over(noted: list[str]) -> VoiceAgent:
    billing = Billing(noted, "billing", enter=greets, leave=leaves_slowly)
    return agent_of(Hooked(noted, leave=leaves_slowly, ai_functions=[hands_over(billing, "One moment.")]))


async def handoff(noted: list[str], at: float, act: Act, *, text_only: bool, check: Act | None = None) -> None:
    """Ask to be handed over, and at that moment do something else."""
    async with Call(handing_over(noted), Script(otherwise=llm), text_only=text_only) as call:
        await call.settled()
        call.send("Billing, please.")
        if text_only:
            for _ in range(int(at)):
                await asyncio.sleep(0)
        else:
            await asyncio.sleep(at)
        await act(call)
        if check is not None:
            await check(call)


def moments(text_only: bool) -> list[float]:
    return list(range(MOMENTS)) if text_only else [n * MOMENT_S for n in range(int(SOUND_S / MOMENT_S))]


@contextmanager
def each_left_once(noted: list[str], at: float, caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Every task whose on_enter was begun has its on_exit run once, to its end; nothing unforeseen is logged."""
    yield
    for name in ("first", "billing"):
        begun = noted.count(f"enter {name}")
        assert begun <= 1, f"at {at:g}: {noted}"
        assert noted.count(f"exit {name}") == noted.count(f"left {name}") == begun, f"at {at:g}: {noted}"
    assert "enter first" in noted
    if "enter billing" in noted:
        assert noted.index("enter billing") < noted.index("exit billing"), f"at {at:g}: {noted}"
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert not errors, f"at {at:g}: {errors}"


@pytest.mark.parametrize("text_only", [True, False], ids=["without sound", "with sound"])
@pytest.mark.parametrize("end", ENDS, ids=["hang-up", "client lost", "shutdown"])
def test_a_call_that_ends_at_any_moment_of_a_handoff_leaves_every_task_that_was_entered(
    end: Callable[[Call], Awaitable[None]], text_only: bool, caplog: pytest.LogCaptureFixture
) -> None:
    entered: set[bool] = set()
    for at in moments(text_only):
        noted: list[str] = []
        with each_left_once(noted, at, caplog):
            run(handoff(noted, at, end, text_only=text_only))
        entered.add("enter billing" in noted)
    assert entered == {True, False}  # the moments reach from before the handoff to after it


@pytest.mark.parametrize("text_only", [True, False], ids=["without sound", "with sound"])
def test_a_turn_at_any_moment_of_a_handoff_is_in_the_context_once_and_the_call_goes_on(
    text_only: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def speaks(call: Call) -> None:
        await call.write("And hello.")

    async def is_kept(call: Call) -> None:
        kept = [item.text for item in call.agent.chat_ctx if isinstance(item, ChatMessage) and item.role == "user"]
        assert sorted(kept) == ["And hello.", "Billing, please."]
        await call.write("Still there?")
        assert ("agent", "Yes?") in call.transcript  # a goodbye of the task that was left may come later

    for at in moments(text_only):
        noted: list[str] = []
        with each_left_once(noted, at, caplog):
            run(handoff(noted, at, speaks, text_only=text_only, check=is_kept))


@pytest.mark.parametrize("text_only", [True, False], ids=["without sound", "with sound"])
def test_silence_that_is_asked_for_at_any_moment_of_a_handoff_leaves_an_agent_that_answers(
    text_only: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def interrupts(call: Call) -> None:
        call.agent.interrupt()
        await call.settled()

    async def answers(call: Call) -> None:
        await call.write("Still there?")
        assert ("agent", "Yes?") in call.transcript  # a goodbye of the task that was left may come later

    for at in moments(text_only):
        noted: list[str] = []
        with each_left_once(noted, at, caplog):
            run(handoff(noted, at, interrupts, text_only=text_only, check=answers))


def test_another_task_that_is_wanted_at_any_moment_of_a_handoff_is_entered(caplog: pytest.LogCaptureFixture) -> None:
    # Transitions come one after the other; one of two may be told that another task has taken its place.
    for at in moments(True):
        noted: list[str] = []
        support = Hooked(noted, "support")

        async def changes(call: Call, support: Hooked = support) -> None:
            await call.agent.update_task(support)

        async def goes_on(call: Call, support: Hooked = support, noted: list[str] = noted) -> None:
            await call.settled()
            await call.write("Still there?")
            assert ("agent", "Yes?") in call.transcript  # a goodbye of the task that was left may come later
            current = call.agent.current_task
            assert isinstance(current, Hooked)
            assert current is support or current.name == "billing"
            begun = {note.removeprefix("enter ") for note in noted if note.startswith("enter ")}
            await call.until(lambda: all(f"exit {name}" in noted for name in begun - {current.name}))
            assert f"exit {current.name}" not in noted

        with each_left_once(noted, at, caplog):
            run(handoff(noted, at, changes, text_only=True, check=goes_on))
        assert noted.count("enter support") == noted.count("exit support") == 1


@pytest.mark.parametrize("end", ENDS, ids=["hang-up", "client lost", "shutdown"])
def test_who_awaits_update_task_while_the_call_ends_is_told(
    end: Callable[[Call], Awaitable[None]], caplog: pytest.LogCaptureFixture
) -> None:
    told: set[str] = set()

    async def changing(noted: list[str], at: int) -> None:
        async with Call(agent_of(Hooked(noted, leave=leaves_slowly)), text_only=True) as call:
            await call.settled()
            change = call.agent.update_task(Billing(noted, "billing", enter=greets, leave=leaves_slowly))
            for _ in range(at):
                await asyncio.sleep(0)
            ending = asyncio.ensure_future(end(call))
            try:
                await change
                told.add("entered")
            except ConversationOver:
                told.add("over")
            except TaskFailed as error:
                raise AssertionError(f"at {at}: {error}") from error
            await ending

    for at in range(30):
        noted: list[str] = []
        with each_left_once(noted, at, caplog):
            run(changing(noted, at))
    assert told == {"entered", "over"}
