"""Handoffs, inline tasks, turns, speech, failures and ends, in any order: what must hold in every history.

1,000 histories in the default run; as many as `ANTIPHON_HISTORIES` says otherwise.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from orchestrator import AgentTask, Context
from orchestrator.testing import Call, calls, virtual_time
from orchestrator.testing.clock import run
from protocol.engine import SERVICES
from protocol.errors import NoNode
from tests.tasks.hooked import Asking, Hooked, agent_of, told
from tests.tasks.inline import BOOK, Ask, desk, outputs, raised
from tests.tasks.wild import Complaints, WildInline, World

HISTORIES = int(os.environ.get("ANTIPHON_HISTORIES", "1000"))
STEP_S = 0.31  # the unit of waiting between two happenings: no multiple of what hooks and functions take
REST_S = 300.0  # virtual: for the agent to come to rest when nobody does anything any more
END_S = 60.0  # virtual: for a conversation to end

USER = ["write", "write", "speak", "interrupt"]
CODE = ["hush", "cut", "say", "stiff say", "reply", "update", "complete"]
LOSSES = [f"{what} {service}" for what in ("lose", "drain", "refuse") for service in SERVICES]
ENDS = ["rest", "hang up", "shut down", "lose client"]

Plan = Sequence[tuple[str, int]]
PLANS = st.lists(
    st.tuples(st.sampled_from(["wait", *USER, *CODE, *LOSSES]), st.integers(0, 5)), min_size=3, max_size=12
)
NUMBERS = st.lists(st.integers(0, 23), min_size=20, max_size=90)


@cache
def voice(duration_ms: int) -> bytes:
    """A tone that the simulated vad takes for speech."""
    samples = np.arange(16 * duration_ms)
    return bytes((3_000 * np.sin(2 * np.pi * 200 * samples / 16_000)).astype("<i2").tobytes())


async def happen(world: World, call: Call, what: str, number: int) -> None:
    """One thing, then as many steps of waiting as the number says."""
    agent = world.agent
    match what.split():
        case ["write"]:
            call.send(f"I write {len(call.messages)}")
        case ["speak"]:
            await call.play(voice(100 + 150 * number))
            await call.silence(0.8)
        case ["interrupt"]:
            call.interrupt()
        case ["hush"]:
            agent.interrupt(force=True)
        case ["say"]:
            agent.say(world.text())
        case ["stiff", "say"]:
            agent.say(world.text(), allow_interruptions=False)
        case ["reply"]:
            agent.generate_reply(instructions="Say something.")
        case ["update"]:
            world.update()
        case ["complete"]:
            if isinstance(agent.current_task, WildInline):
                agent.current_task.finish()
        case ["cut"] if world.handles:
            world.handles[-1].interrupt(force=True)
        case ["drain", service]:
            world.nodes.drain(service)  # type: ignore[arg-type]  # one of the four
        case ["refuse", service]:
            world.nodes.refuse(service, NoNode(f"no {service}"), times=1)  # type: ignore[arg-type]
        case ["lose", service]:
            world.nodes.lose(service)  # type: ignore[arg-type]  # one of the four
    await asyncio.sleep(number * STEP_S)


async def history(plan: Plan, numbers: Sequence[int], end: str) -> None:
    """A conversation from its beginning to its end."""
    world = World(numbers)
    complaints = Complaints()
    log = logging.getLogger("orchestrator")
    log.addHandler(complaints)
    log.propagate = False  # pytest keeps each record of a test, with its traceback and so all of a history
    try:
        async with Call(world.agent, world.script, nodes=world.nodes) as call:
            await call.until(lambda: call.closed is not None or world.tasks[0].enters)
            for what, number in plan:
                if call._session._conversation.stack.top is None:
                    break  # the first task has failed
                await happen(world, call, what, number)
                world.check()
                if call._session._closing is None:
                    world.check_current(call)
            async with asyncio.timeout(END_S + REST_S):
                rested = await finish(call, end)
        world.check_end(call, rested=rested)
    finally:
        log.propagate = True
        log.removeHandler(complaints)
    assert not complaints.found, complaints.found


async def finish(call: Call, end: str) -> bool:
    """The end; True if it has come to rest before."""
    if end == "rest":
        await call.settled(REST_S)
    rested = end == "rest" and call.closed is None
    async with asyncio.timeout(END_S):
        if end == "shut down":
            await call.shut_down()
        elif end == "lose client":
            await call.lose_client()
        else:
            await call.hang_up()
    return rested


# What was found in this way, each mended since.
OVERTAKEN_AND_FAILED = [0, 0, 16, 13, 4, 22, 19, 13, 23, 0, 0, 0, 0, 0, 0, 9]
HOOK_AROUND_A_TURN = [0, 0, 13, 22, 0, 18, 0, 7, 0, 0, 8]
ORPHAN_OF_A_HOOK = [0, 0, 0, 0, 0, 0, 1, 0, 1, 12, 6, 0, 22, 0, 3, 0, 0, 0, 1]
CANCELLED_AT_ITS_END = [0, 0, 8, 0, 13]
LEFT_AND_WANTED = [0, 0, 8, 2, 0, 0, 23]
CANCELLED_TWICE = [0, 0, 14, 0, 0, 0, 21, 0, 13, 0, 0, 0, 2, 0, 23]
STUBBORN_FUNCTION = [0, 0, 0, 23, 0, 22, 13, 4, 0, 0, 20, 1, 8, 2, 0, 1, 15, 0, 23, 12]
LOST_NODE = [("write", 0), ("drain stt", 2), ("refuse vad", 5), ("drain tts", 4), ("lose llm", 4), ("reply", 4)]


@pytest.mark.timeout(60 + HISTORIES // 20)
@example([("refuse vad", 5), ("write", 0)], OVERTAKEN_AND_FAILED, "rest")
@example([("write", 0), ("write", 0)], HOOK_AROUND_A_TURN, "rest")
@example([("wait", 0), ("write", 1), ("write", 0)], ORPHAN_OF_A_HOOK, "rest")
@example([("write", 1), ("update", 0)], LEFT_AND_WANTED, "rest")
@example([("refuse tts", 0), ("reply", 0)], CANCELLED_AT_ITS_END, "rest")
@example(LOST_NODE, CANCELLED_TWICE, "lose client")
@example([("write", 0), ("lose tts", 5), ("write", 0), ("speak", 0)], STUBBORN_FUNCTION, "rest")
@settings(max_examples=HISTORIES, deadline=None, suppress_health_check=list(HealthCheck))
@given(PLANS, NUMBERS, st.sampled_from(ENDS))
def test_in_any_order_of_events_every_task_is_left_once_and_nothing_hangs_or_is_done_twice_or_is_left_over(
    plan: Plan, numbers: Sequence[int], end: str
) -> None:
    run(history(plan, numbers, end), limit_s=1_000.0)


# --- what was found, in plain words -----------------------------------------------------------------------------------


@virtual_time
async def test_a_task_that_waits_for_an_inline_task_to_be_left_can_not_be_handed_back_to_by_it() -> None:
    noted: list[str] = []
    answers: list[str] = []

    async def leave(task: AgentTask) -> None:
        await Asking(noted, "inner", enter=lambda inner: hand_back(inner, task))

    async def hand_back(inner: Asking, task: AgentTask) -> None:
        answers.append(await raised(inner.agent.update_task(task)))
        inner.complete("done")

    first = Hooked(noted, leave=leave)
    async with Call(agent_of(first)) as call:
        await call.settled()
        await call.agent.update_task(Hooked(noted, "second"))
        await call.until(lambda: "exit inner" in noted)
        await call.settled()
    assert answers == ["TaskFailed: Hooked is being left, and waits for the task that wants to hand over to it"]


@virtual_time
async def test_update_task_does_not_wait_for_an_on_enter_that_waits_for_the_caller() -> None:
    noted: list[str] = []

    async def enter(_: object) -> None:
        await Ask(noted, "name")

    async with Call(agent_of(Hooked(noted, enter=enter))) as call:
        await call.until(lambda: "enter name" in noted)
        second = Hooked(noted, "second")
        await call.agent.update_task(second)
        assert call.agent.current_task is second
        await call.until(lambda: "exit first" in noted)
        assert told(call) == []  # a first task whose place was taken ends nothing
        assert call.closed is None
    assert noted == ["enter first", "enter name", "enter second", "exit name", "exit first", "exit second"]


@virtual_time
async def test_the_conversation_ends_when_the_first_task_and_the_one_in_its_place_both_fail() -> None:
    noted: list[str] = []

    async def enter(task: AgentTask) -> None:
        task.agent.update_task(Hooked(noted, "second", enter=late))
        await asyncio.sleep(1)
        raise ValueError("the hook is broken")

    async def late(_: object) -> None:
        await asyncio.sleep(2)
        raise ValueError("the hook is broken")

    async with Call(agent_of(Hooked(noted, enter=enter))) as call:
        await call.until(lambda: call.closed is not None)
        assert call.closed == "task_failed"
    assert noted == ["enter first", "enter second", "exit first", "exit second"]


@virtual_time
async def test_a_turn_is_for_the_inline_task_that_the_hook_around_it_awaits() -> None:
    noted: list[str] = []

    async def hook(_: Context) -> None:
        if "enter name" not in noted:
            noted.append(await Ask(noted, "name"))

    agent = agent_of(Hooked(noted))
    agent.hooks.add(on_enter=hook, scope="turn")
    async with Call(agent, calls("answer", value="Ann"), "Hello.") as call:
        await call.settled()
        await call.speak("examples/audio/01-slt-hello.wav", "I am Ann.")  # the hook runs as soon as they speak
        assert noted[1:] == ["enter name", "end of turn name", "exit name", "Ann"]
        await call.write("Hi.")
        assert call.transcript[-1] == ("agent", "Hello.")


@virtual_time
async def test_an_inline_task_that_a_hook_around_a_turn_awaits_does_not_outlast_the_task_of_that_turn() -> None:
    noted: list[str] = []
    outer = Asking(noted, "outer")

    async def hook(context: Context) -> None:
        if context.agent.current_task is outer:
            await Asking(noted, "inner")

    task = desk(noted, lambda: outer)
    agent = agent_of(task)
    agent.hooks.add(on_enter=hook, scope="turn")
    async with Call(agent, BOOK, "Booked.") as call:
        await call.write("Book.")
        call.send("Hello.")
        await call.until(lambda: "enter inner" in noted)
        outer.complete("Ann")
        await call.until(lambda: outputs(call) == ["Ann"])
        await call.settled()
        assert call.agent.current_task is task
    assert noted[3:] == ["enter inner", "exit inner", "exit outer", "exit desk"]


@virtual_time
async def test_code_that_cleans_up_after_a_slow_on_exit_has_ended_before_its_own_task_is_left() -> None:
    noted: list[str] = []

    async def leave(_: object) -> None:
        await asyncio.sleep(1.8)

    async def act() -> str:
        try:
            return await Asking(noted, "name", leave=leave)
        finally:
            await asyncio.sleep(0.9)
            noted.append("cleaned up")

    async with Call(agent_of(desk(noted, act)), BOOK) as call:
        call.send("Book.")
        await call.until(lambda: "enter name" in noted)
    assert noted[2:] == ["enter name", "exit name", "cleaned up", "exit desk"]


@virtual_time
async def test_code_that_takes_no_notice_of_being_cancelled_does_not_wait_for_a_second_inline_task_for_ever() -> None:
    noted: list[str] = []

    async def act() -> str:
        for name in ("name", "town", "age"):
            try:
                await Asking(noted, name)
            except asyncio.CancelledError:
                noted.append(f"no {name}")
            except RuntimeError as error:
                noted.append(f"{name}: {error}")
        return "done"

    async with Call(agent_of(desk(noted, act)), BOOK) as call:
        call.send("Book.")
        await call.until(lambda: "enter name" in noted)
        await call.agent.update_task(Hooked(noted, "second"))
        await call.until(lambda: outputs(call))
        assert outputs(call) == ["done"]
    assert [note for note in noted if note.startswith(("no", "town", "age"))] == [
        "no name",
        "town: Asking can't be awaited: Hooked is being left",
        "age: Asking can't be awaited: Hooked is being left",
    ]
