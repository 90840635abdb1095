"""Simulated nodes: what a session sees of the node pool, with answers that need neither processes nor sockets.

A stand-in for `orchestrator.nodes.NodePool`, as far as sessions use it. Streams are the real `NodeStream`s, and every
message goes through the real codec, so that its limits hold; what a node answers, `llm.py`, `tts.py`, `vad.py` and
`stt.py` say. There is one node for each service: `llm-1`, and after it was lost `llm-2`.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from functools import partial
from typing import cast

from orchestrator.nodes import Node, NodePool
from orchestrator.streams import NodeStream, StreamHandler
from orchestrator.testing.llm import SimulatedLlm
from orchestrator.testing.script import Script
from orchestrator.testing.stt import SimulatedStt
from orchestrator.testing.tts import SimulatedTts
from orchestrator.testing.vad import SimulatedVad
from orchestrator.testing.work import Desk, Work
from protocol.engine import SERVICES, EngineSpec, Service
from protocol.errors import AntiphonError, ProtocolError, Unavailable
from protocol.node import FROM_NODE, TO_NODE, CloseStream, FromNode, OpenStream, Register, ToNode

SAMPLE_RATE = 16_000  # Hz
SLOTS = 1_000

Simulated = SimulatedLlm | SimulatedTts | SimulatedVad | SimulatedStt


class SimulatedNodes:
    """Four services, all their nodes, and what goes wrong with them.

    `sample_rate` in Hz: what vad and stt take, and what tts makes. What the services do is set at `llm`, `tts`, `vad`
    and `stt`. `openings` is what every stream was opened with, oldest first, probes as well; `problems` what the test
    has to hear of: `check()` raises the first.
    """

    def __init__(self, script: Script | None = None, *, sample_rate: int = SAMPLE_RATE) -> None:
        self.llm = SimulatedLlm(script if script is not None else Script())
        self.tts = SimulatedTts(sample_rate)
        self.vad = SimulatedVad()
        self.stt = SimulatedStt()
        self.openings: list[OpenStream] = []
        self.problems: list[AntiphonError] = []
        self.on_draining: Callable[[Node], None] = _nobody
        self._rate = sample_rate
        self._simulated: dict[Service, Simulated] = {
            "llm": self.llm,
            "tts": self.tts,
            "vad": self.vad,
            "stt": self.stt,
        }
        self._refusals: dict[Service, tuple[AntiphonError, int | None]] = {}
        self._works: dict[int, Work] = {}  # by stream
        self._next_stream = 1
        self._started: dict[Service, int] = dict.fromkeys(SERVICES, 0)
        self._nodes: dict[Service, Node] = {}
        self._leaving: list[Node] = []
        for service in SERVICES:
            self._start(service)

    @property
    def pool(self) -> NodePool:
        """Itself, as sessions want it."""
        return cast(NodePool, self)

    # --- for tests --------------------------------------------------------------------------------------------------

    @property
    def used(self) -> dict[Service, int]:
        """How many streams are open, by service; those that have none are left out. `{}`: nothing was left open."""
        used: dict[Service, int] = {}
        for node in (*self._nodes.values(), *self._leaving):
            if node.streams:
                service = node.registration.service
                used[service] = used.get(service, 0) + len(node.streams)
        return used

    def opened(self, service: Service) -> int:
        """How many streams of this service there have been, without probes."""
        return sum(opening.spec.service == service and not opening.probe for opening in self.openings)

    def node(self, service: Service) -> Node:
        """The one that new streams are opened on."""
        return self._nodes[service]

    def lose(self, service: Service) -> None:
        """The node dies with all its streams, which fail as `NodeLost`; another one is there already.

        For a service that is gone altogether, `refuse(service, NoNode("…"))` first.
        """
        lost = self._nodes[service]
        lost.lost = True
        self._start(service)
        for stream in list(lost.streams.values()):
            self._drop(stream.id)
            stream.lose()

    def drain(self, service: Service) -> None:
        """The node takes no new streams, and says so; another one is there already. Its streams go on."""
        leaving = self._nodes[service]
        leaving.state = "draining"
        self._leaving.append(leaving)
        self._start(service)
        self.on_draining(leaving)

    def refuse(self, service: Service, error: AntiphonError, times: int | None = None) -> None:
        """Let no stream of this service be opened, or only not the next so many; `accept` ends it.

        An `Unavailable` (`NoNode`, `Overloaded`) is raised at once, as the pool does; another error is a node's answer.
        """
        self._refusals[service] = (error, times)

    def accept(self, service: Service) -> None:
        """Refuse no more."""
        self._refusals.pop(service, None)

    def check(self) -> None:
        """Raise the first of `problems`, if there is one."""
        for problem in self.problems:
            raise problem

    # --- as NodePool ------------------------------------------------------------------------------------------------

    def pick(self, spec: EngineSpec) -> Node:
        """The node that serves it, whatever the engine. Raises what `refuse` was told, if that is an `Unavailable`."""
        error, _ = self._refusals.get(spec.service, (None, None))
        if isinstance(error, Unavailable):
            self._count_refusal(spec.service)
            raise error
        return self._nodes[spec.service]

    def open(
        self,
        spec: EngineSpec,
        handler: StreamHandler,
        *,
        session: str,
        generation: int,
        sample_rate: int = 0,
        probe: bool = False,
    ) -> NodeStream:
        """As `NodePool.open`."""
        opening = OpenStream(0, 0, 0, session, spec, probe, sample_rate)
        stream = NodeStream(self._next_stream, self.pick(spec), opening, generation, handler)
        self._next_stream += 1
        stream.open()
        return stream

    def move(self, stream: NodeStream) -> None:
        """As `NodePool.move`."""
        stream.node.streams.pop(stream.id, None)
        stream.node = self.pick(stream.spec)
        stream.open()

    def sample_rate(self, spec: EngineSpec, client_rate: int) -> int:
        """As `NodePool.sample_rate`."""
        error, _ = self._refusals.get(spec.service, (None, None))
        if isinstance(error, Unavailable):
            raise error
        return self._rate

    def finds_speech(self, spec: EngineSpec) -> bool:
        """As `NodePool.finds_speech`: no, the simulated stt is told where its segments end."""
        return False

    def send(self, node: Node, message: ToNode) -> None:
        """As `NodePool.send`: the node has it a moment later."""
        blob = TO_NODE.encode(message)
        asyncio.get_running_loop().call_soon(self._take, node, blob)

    # --- the nodes' side --------------------------------------------------------------------------------------------

    def _start(self, service: Service) -> None:
        self._started[service] += 1
        name = f"{service}-{self._started[service]}"
        rates = [] if service == "llm" else [self._rate]
        registration = Register(
            0, 0, 0, service, "simulated", name, "epoch", os.getpid(), "localhost", SLOTS, "ready", rates
        )
        self._nodes[service] = Node(self.pool, name.encode(), registration)

    def _take(self, node: Node, blob: bytes) -> None:
        if node.lost:
            return
        try:
            message = TO_NODE.decode(blob)
        except ProtocolError as problem:  # a real node refuses it, and the stream waits in vain
            self.problems.append(problem)
            return
        if isinstance(message, OpenStream):
            self._accept(node, message)
        elif isinstance(message, CloseStream):
            self._drop(message.stream)
        elif (work := self._works.get(message.stream)) is not None:
            work.receive(message)

    def _accept(self, node: Node, opening: OpenStream) -> None:
        service = opening.spec.service
        self.openings.append(opening)
        desk = Desk(partial(self._post, node), partial(self._drop, opening.stream), self.problems.append)
        work = self._works[opening.stream] = self._simulated[service].work(opening, desk)
        error, _ = self._refusals.get(service, (None, None))
        if error is not None:
            self._count_refusal(service)
            work.fail(error)
        else:
            work.accept(self.tts.sample_rate if service == "tts" else 0)
            if opening.probe:
                self._drop(opening.stream)

    def _count_refusal(self, service: Service) -> None:
        error, times = self._refusals[service]
        if times is not None:
            self._refusals[service] = (error, times - 1)
            if times <= 1:
                self.accept(service)

    def _drop(self, stream: int) -> None:
        work = self._works.pop(stream, None)
        if work is not None:
            work.close()

    def _post(self, node: Node, message: FromNode) -> None:
        asyncio.get_running_loop().call_soon(self._deliver, node, FROM_NODE.encode(message))

    def _deliver(self, node: Node, blob: bytes) -> None:
        message = FROM_NODE.decode(blob)
        stream = node.streams.get(message.stream)
        if stream is not None:
            stream.receive(message)


def _nobody(_: Node) -> None:
    """Nobody asked to hear of nodes that drain."""
