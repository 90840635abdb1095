"""Simulated nodes: the streams that are open on them, and how they fail. In virtual time."""

from __future__ import annotations

import asyncio

import pytest

from orchestrator.streams import StreamQueue
from orchestrator.testing.clock import run, virtual_time
from orchestrator.testing.nodes import SimulatedNodes
from orchestrator.testing.script import Script, says
from protocol.engine import EngineSpec, Service
from protocol.errors import NodeLost, NoNode, OptionError, RemoteError
from protocol.node import (
    Allow,
    Generate,
)
from tests.orchestrator.simulated import LLM, TTS, answer, opened


@virtual_time
async def test_a_probe_is_answered_and_does_no_work() -> None:
    nodes = SimulatedNodes()
    with StreamQueue() as queue:
        await opened(nodes, queue, TTS, probe=True)
    assert nodes.used == {}
    assert (len(nodes.openings), nodes.opened("tts")) == (1, 0)


@virtual_time
async def test_open_streams_are_counted_until_they_have_ended() -> None:
    nodes = SimulatedNodes(Script("One."))
    with StreamQueue() as one, StreamQueue() as other:
        await opened(nodes, one, TTS)
        stream = await opened(nodes, other, LLM)
        assert nodes.used == {"tts": 1, "llm": 1}
        stream.send(Generate(0, 0, 0, []))
        assert [message async for message in other]
        assert nodes.used == {"tts": 1}
    assert nodes.used == {}
    assert nodes.openings[1].spec.options == {"model": "gpt-4o-mini"}


@virtual_time
async def test_what_was_lost_fails_its_streams_and_another_node_is_there() -> None:
    nodes = SimulatedNodes(Script(says("One two three", every=10), "Again."))
    asked = asyncio.create_task(answer(nodes))
    await asyncio.sleep(15)
    nodes.lose("llm")
    with pytest.raises(NodeLost, match="llm-1"):
        await asked
    assert nodes.used == {}
    assert nodes.node("llm").name == "llm-2"
    assert [chunk.text for _, chunk in await answer(nodes)] == ["Again."]


@virtual_time
async def test_a_node_that_is_lost_while_it_answers_is_not_heard_any_more() -> None:
    nodes = SimulatedNodes(Script("One."))
    with StreamQueue() as queue:
        stream = await opened(nodes, queue, LLM)
        stream.send(Generate(0, 0, 0, []))
        nodes.lose("llm")
        await asyncio.sleep(1)
        with pytest.raises(NodeLost):
            await anext(queue)
    assert nodes.llm.script.left == 1


@virtual_time
async def test_a_node_that_is_lost_before_it_has_the_stream_never_has_it() -> None:
    nodes = SimulatedNodes()
    with StreamQueue() as queue:
        asking = asyncio.create_task(opened(nodes, queue, LLM))
        await asyncio.sleep(0)
        nodes.lose("llm")
        with pytest.raises(NodeLost):
            await asking
    assert nodes.openings == []


@pytest.mark.parametrize("service", ["vad", "stt", "llm", "tts"])
def test_a_service_that_nobody_serves_is_refused_at_once(service: Service) -> None:
    async def refused() -> None:
        nodes = SimulatedNodes()
        spec = EngineSpec(service, "any")
        nodes.refuse(service, NoNode("nobody"))
        with pytest.raises(NoNode, match="nobody"):
            nodes.pool.open(spec, StreamQueue(), session="s", generation=0)
        with pytest.raises(NoNode, match="nobody"):
            nodes.pool.sample_rate(spec, 16_000)
        nodes.accept(service)
        assert nodes.pool.sample_rate(spec, 8_000) == 16_000
        with StreamQueue() as queue:
            await opened(nodes, queue, spec, sample_rate=16_000)

    run(refused())


@virtual_time
async def test_any_other_refusal_is_the_answer_of_a_node_and_may_end_by_itself() -> None:
    nodes = SimulatedNodes()
    nodes.refuse("tts", OptionError("espeak.TTS", "voice", "x", "there is no such voice"), times=2)
    for _ in range(2):
        with StreamQueue() as queue, pytest.raises(RemoteError, match="no such voice") as caught:
            await opened(nodes, queue, TTS, probe=True)
        assert (caught.value.code, caught.value.category) == ("bad_option", "configuration")
    with StreamQueue() as queue:
        await opened(nodes, queue, TTS)
    nodes.check()
    assert nodes.used == {}


@virtual_time
async def test_a_node_that_drains_says_so_and_finishes_its_streams() -> None:
    leaving: list[str] = []
    nodes = SimulatedNodes(Script(says("One two", every=10)))
    nodes.on_draining = lambda node: leaving.append(node.name)
    asked = asyncio.create_task(answer(nodes))
    await asyncio.sleep(5)
    nodes.drain("llm")
    assert leaving == ["llm-1"]
    assert nodes.used == {"llm": 1}
    assert len(await asked) == 2
    assert nodes.used == {}
    assert nodes.node("llm").name == "llm-2"


@virtual_time
async def test_a_stream_that_is_sent_what_it_does_not_take_fails() -> None:
    nodes = SimulatedNodes()
    with StreamQueue() as queue:
        stream = await opened(nodes, queue, LLM)
        stream.send(Allow(0, 0, 0, 1))
        with pytest.raises(RemoteError, match="llm stream takes no Allow"):
            await anext(queue)
