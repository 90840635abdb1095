"""What hears for a task: its engines, or an `stt_node` of its own."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from orchestrator.engines import Engines
from orchestrator.own_stt import Recognise, recognise
from orchestrator.streams import Pool
from orchestrator.task import AgentTask
from protocol.engine import EngineSpec


@dataclass(frozen=True, slots=True)
class Ears:
    """What hears for a task: its engines, and its `stt_node` if that is its own. None: it does not hear."""

    vad: EngineSpec | None
    stt: EngineSpec | None
    own_stt: Recognise | None = None
    streaming: bool = False  # there is no vad: the stt engine itself finds speech

    @property
    def deaf(self) -> bool:
        """Whether nobody listens to the caller."""
        return not self.streaming and self._lacks_an_ear

    @property
    def _lacks_an_ear(self) -> bool:
        return self.vad is None or (self.stt is None and self.own_stt is None)

    def same(self, other: Ears) -> bool:
        """Whether nothing changes from one to the other."""
        mine, its = self.own_stt, other.own_stt
        owner = mine.args[-1] is its.args[-1] if mine is not None and its is not None else mine is its
        return owner and (self.vad, self.stt) == (other.vad, other.stt)


def ears_of(task: AgentTask, engines: Engines, pool: Pool, session: str) -> Ears:
    """What hears for this task in this session."""
    own = type(task).stt_node is not AgentTask.stt_node
    node = partial(recognise, pool, session, engines, task) if own else None
    streaming = engines.vad is None and engines.stt is not None and node is None
    return Ears(engines.vad, engines.stt, node, streaming)
