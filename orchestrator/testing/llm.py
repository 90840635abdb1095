"""The simulated LLM: plays a script's steps as chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from orchestrator.testing.script import Calls, Fails, Hangs, Pause, Says, Script, Step
from orchestrator.testing.work import Desk, Work
from protocol.node import Chunk, Generate, OpenStream, ToNode


class SimulatedLlm:
    """What all its streams share: the script, and how fast it is said.

    - `first_token_s`: from the request to the first part of the answer.
    - `pace_s`: from one word to the next.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        self.first_token_s = 0.0
        self.pace_s = 0.0

    def work(self, opening: OpenStream, desk: Desk) -> Work:
        """A new stream."""
        return _Reply(opening, desk, self)


class _Reply(Work):
    """One request and its answer."""

    takes = (Generate,)

    def __init__(self, opening: OpenStream, desk: Desk, llm: SimulatedLlm) -> None:
        super().__init__(opening, desk)
        self._llm = llm

    def take(self, message: ToNode) -> None:
        assert isinstance(message, Generate)
        self.play(self._actions(self._llm.script.answer(message)))

    def _actions(self, step: Step) -> Iterator[tuple[float, Callable[[], None]]]:
        """What to do, each with the seconds to wait before it."""
        wait_s = self._llm.first_token_s
        for part in step.parts:
            match part:
                case Pause(seconds):
                    wait_s += seconds
                    continue
                case Hangs():
                    return
                case Fails(error):
                    yield wait_s, partial(self.fail, error)
                    return
                case Calls():
                    yield wait_s, partial(self._call, part)
                case Says(chunks, after_s, every_s):
                    wait_s += after_s
                    for chunk in chunks:
                        yield wait_s, partial(self.send, Chunk(0, 0, 0, chunk))
                        wait_s = self._llm.pace_s if every_s is None else every_s
            wait_s = 0.0
        yield wait_s, self.done

    def _call(self, part: Calls) -> None:
        self.send(Chunk(0, 0, 0, "", self._llm.script.call(part)))
