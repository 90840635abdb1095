"""The simulated LLM: plays its script, in virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from orchestrator.streams import StreamQueue
from orchestrator.testing.clock import Stuck, run, virtual_time
from orchestrator.testing.nodes import SimulatedNodes
from orchestrator.testing.script import Script, Unscripted, calls, fails, hangs, pause, says, step
from protocol.errors import EngineError, RemoteError
from protocol.node import (
    ChatItem,
    Chunk,
    Generate,
)
from tests.orchestrator.simulated import LLM, answer, opened


@virtual_time
async def test_the_llm_says_its_script_word_by_word_with_the_calls_in_place() -> None:
    nodes = SimulatedNodes(Script(step(says("One moment."), calls("find", name="Ann"), calls("count"))))
    chunks = [chunk for _, chunk in await answer(nodes)]
    assert [chunk.text for chunk in chunks] == ["One ", "moment.", "", ""]
    found = [(chunk.call.call_id, chunk.call.name, chunk.call.arguments) for chunk in chunks if chunk.call is not None]
    assert found == [("call_1", "find", '{"name": "Ann"}'), ("call_2", "count", "{}")]
    assert [chunk.sequence for chunk in chunks] == [1, 2, 3, 4]
    assert {chunk.generation for chunk in chunks} == {3}
    assert nodes.llm.script.requests[0].chat == [ChatItem("user", "hello")]


@virtual_time
async def test_the_llm_takes_the_time_that_it_is_told() -> None:
    nodes = SimulatedNodes(Script("a b", step(says("a b c", after=1, every=0.5), pause(2), calls("find"), "d")))
    nodes.llm.first_token_s, nodes.llm.pace_s = 0.3, 0.1
    assert [at for at, _ in await answer(nodes)] == [0.3, 0.4]
    assert [at for at, _ in await answer(nodes)] == [1.3, 1.8, 2.3, 4.3, 4.3]


@virtual_time
async def test_without_delays_the_llm_answers_at_once() -> None:
    assert [at for at, _ in await answer(SimulatedNodes(Script("a b c")))] == [0.0, 0.0, 0.0]


@virtual_time
async def test_the_llm_fails_as_the_script_says_also_in_the_middle() -> None:
    nodes = SimulatedNodes(Script(step("One", fails("the model is down", "fatal"), "never said")))
    heard: list[str] = []
    with StreamQueue() as queue:
        stream = await opened(nodes, queue, LLM)
        stream.send(Generate(0, 0, 0, []))
        with pytest.raises(RemoteError, match="the model is down") as caught:
            heard += [message.text async for message in queue if isinstance(message, Chunk)]
    assert (caught.value.code, caught.value.category) == ("engine", "fatal")
    nodes.check()  # nothing that the test has to mend


def test_an_llm_that_hangs_is_left_by_who_waits_for_it() -> None:
    nodes = SimulatedNodes(Script(hangs(), hangs()))

    async def gives_up() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(60):
                await answer(nodes)
        assert nodes.used == {}

    run(gives_up())
    with pytest.raises(Stuck, match="nothing will happen"):
        run(answer(nodes))


@virtual_time
async def test_an_exhausted_script_fails_the_stream_and_the_test() -> None:
    nodes = SimulatedNodes(Script("One."))
    await answer(nodes)
    nodes.check()
    with pytest.raises(RemoteError, match="no step for request 2"):
        await answer(nodes)
    with pytest.raises(Unscripted, match="no step for request 2"):
        nodes.check()


@virtual_time
async def test_a_function_of_the_script_that_raises_is_told_to_the_test() -> None:
    def breaks(chat: Any, functions: Any) -> str:
        raise KeyError("pizza")

    nodes = SimulatedNodes(Script(breaks))
    with pytest.raises(RemoteError, match=r"the simulated llm failed: KeyError\('pizza'\)"):
        await answer(nodes)
    with pytest.raises(EngineError) as caught:
        nodes.check()
    assert isinstance(caught.value.__cause__, KeyError)
