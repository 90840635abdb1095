"""A call to a VoiceAgent in a test: the client's side, with the real session and simulated nodes behind it."""

from __future__ import annotations

import asyncio
import inspect
import time
import wave
from bisect import bisect_right
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from orchestrator.agent import VoiceAgent
from orchestrator.events import NAMES, Closed, ConversationItemAdded, ErrorOccurred, Event
from orchestrator.factory import SessionInfo
from orchestrator.session import Session
from orchestrator.testing.expect import Expect
from orchestrator.testing.nodes import SimulatedNodes
from orchestrator.testing.script import Chooser, Part, Script, Step
from protocol.audio import AudioFormat
from protocol.ids import new_session_id
from protocol.ingest import Audio, Clear, Close, Interrupt, Open, Text, ToClient, Transcript
from protocol.limits import FRAME_MS

SWEEP_S = 0.05  # as an orchestrator does
WITHIN_S = 60.0  # of virtual time, for the agent to come to rest
SILENCE_S = 1.0  # after recorded speech: longer than any usual endpointing delay

Factory = Callable[[SessionInfo], Any]


class Call:
    """`async with Call(agent, script) as call:` is a conversation from `open` to `closed`.

    `agent`: a VoiceAgent, or the factory of one, sync or async. `steps`: what the LLM says, see `Script`; or a Script.
    When the block is left, the call is hung up, and it is an error if the agent asked the LLM or the recogniser for
    what the test had not said, or has left a stream open.
    """

    def __init__(
        self,
        agent: VoiceAgent | Factory,
        *steps: Script | Step | Part | str | Chooser,
        nodes: SimulatedNodes | None = None,
        user_id: str = "",
        metadata: dict[str, str] | None = None,
        text_only: bool = False,
        sample_rate: int = 16_000,
    ) -> None:
        self.script = steps[0] if len(steps) == 1 and isinstance(steps[0], Script) else Script(*steps)  # type: ignore[arg-type]
        self.nodes = nodes or SimulatedNodes(self.script)
        self.session_info = SessionInfo(new_session_id(), user_id, metadata or {})
        self.happened: list[Any] = []  # chat items and errors, by their times
        self.events: list[Event] = []  # all that the agent's listeners were told
        self.messages: list[ToClient] = []  # what the client was sent, audio included
        self.agent: VoiceAgent
        self.closed: str | None = None  # the reason, once it is over
        self._given = agent
        self._text_only = text_only
        self._format = AudioFormat(sample_rate)
        self._sequence = 0
        self._changed = asyncio.Event()
        self._sweeping: asyncio.Task[None] | None = None
        self._session: Session
        self._times: list[float] = []  # of `happened`, seconds since the epoch
        self._expect = Expect(self.happened)

    @property
    def expect(self) -> Expect:
        """Assertions over what has happened, in order; each goes on where the last one stopped."""
        return self._expect

    @property
    def transcript(self) -> list[tuple[str, str]]:
        """Who said what so far, as heard: ("user" or "agent", text)."""
        return [(one.speaker, one.text) for one in self.messages if isinstance(one, Transcript) and one.final]

    @property
    def state(self) -> str:
        """What the agent is doing: listening, thinking or speaking."""
        return self._session.states[0]

    async def __aenter__(self) -> Self:
        given = self._given
        agent = given(self.session_info) if not isinstance(given, VoiceAgent) else given
        if inspect.isawaitable(agent):
            agent = await agent
        assert isinstance(agent, VoiceAgent), f"{given!r} gave {agent!r}, not a VoiceAgent"
        self.agent = agent
        for event in NAMES.values():
            agent.on(event, self._note)
        opening = Open(
            self.session_info.id,
            0,
            0,
            input=self._format,
            output=self._format,
            user=self.session_info.user_id,
            metadata=self.session_info.metadata,
        )
        clock = asyncio.get_running_loop().time
        self._session = Session(
            opening, agent, self.nodes, self._receive, "epoch", "test", text_only=self._text_only, clock=clock
        )
        await self._session.open()
        self._sweeping = asyncio.create_task(self._sweep(), name="sweep")
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.hang_up()
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait({self._sweeping})
        if kind is None:
            self.nodes.check()
            assert not self.nodes.used, f"streams were left open: {self.nodes.used}"

    # --- the caller -------------------------------------------------------------------------------------------------

    async def write(self, text: str, *, within: float = WITHIN_S) -> None:
        """A turn in writing; returns when the agent is at rest again."""
        self.send(text)
        await self.settled(within)

    def send(self, text: str) -> None:
        """A turn in writing; does not wait."""
        self._say(Text, text)

    async def speak(self, recording: str | Path, transcript: str, *, within: float = WITHIN_S) -> None:
        """Send a WAV as a caller would, in real (virtual) time, then silence; returns when the agent is at rest.

        `transcript` is what the recogniser will hear in it. The file must be mono, 16-bit and of the call's rate.
        """
        self.nodes.stt.transcripts.append(transcript)
        await self.play(_read(Path(recording), self._format))
        await self.silence(SILENCE_S)
        await self.settled(within)

    async def play(self, pcm: bytes) -> None:
        """Send 16-bit samples in frames, at the pace at which they would be spoken."""
        size = self._format.frame_bytes(FRAME_MS)
        for start in range(0, len(pcm) - size + 1, size):
            self._say(Audio, pcm[start : start + size])
            await asyncio.sleep(FRAME_MS / 1000)

    async def silence(self, seconds: float) -> None:
        """Send silence."""
        await self.play(bytes(self._format.frame_bytes(int(seconds * 1000))))

    def interrupt(self) -> None:
        """Ask for silence, as a client's stop button does."""
        self._say(Interrupt)

    async def hang_up(self) -> None:
        """End the call; returns when every task has been left. Safe to repeat."""
        if self.closed is None:
            self._say(Close, "the test is over")
        await self._session.wait_closed()

    async def shut_down(self) -> None:
        """End the call as an orchestrator does that is stopped: the caller still hears what is said."""
        self._session.close("the orchestrator is shutting down", reachable=True)
        await self._session.wait_closed()

    async def lose_client(self) -> None:
        """End the call as when the client vanishes."""
        self._session.close("the client is gone")
        await self._session.wait_closed()

    # --- waiting ----------------------------------------------------------------------------------------------------

    async def settled(self, within: float = WITHIN_S) -> None:
        """Wait until the agent is at rest: entered, listening, with nothing to say; or the call is over."""
        await self.until(lambda: self.closed is not None or self._session.at_rest, within, "the agent to come to rest")

    async def until(self, condition: Callable[[], object], within: float = WITHIN_S, what: str = "that") -> None:
        """Wait until something holds; AssertionError after `within` (virtual) seconds, with what happened instead."""
        try:
            async with asyncio.timeout(within):
                while not condition():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"waited {within:g} s for {what}; {self._expect.told()}") from None

    # --- inside -----------------------------------------------------------------------------------------------------

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self._session.sweep(asyncio.get_running_loop().time())
            self._changed.set()

    def _say(self, kind: Any, *fields: Any) -> None:
        self._sequence += 1
        self._session.receive(kind(self.session_info.id, 0, self._sequence, *fields))

    def _receive(self, message: ToClient) -> None:
        self.messages.append(message)
        self._changed.set()

    def _note(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, ConversationItemAdded):
            self._keep(event.item.created_at, event.item)
        elif isinstance(event, ErrorOccurred):
            self._keep(time.time(), event.error)
        elif isinstance(event, Closed):
            self.closed = event.reason
        self._changed.set()

    def forget(self) -> None:
        """Drop what was recorded so far, for a long test: `happened`, `events` and `messages`."""
        for record in (self.happened, self._times, self.events, self.messages):
            record.clear()
        self._expect = Expect(self.happened)

    def _keep(self, at: float, happening: Any) -> None:
        """By its time: what the agent said before it called a function was heard to its end only later."""
        place = bisect_right(self._times, at)
        self._times.insert(place, at)
        self.happened.insert(place, happening)

    @property
    def interruptions(self) -> int:
        """How often the client was told to drop what it had."""
        return sum(isinstance(message, Clear) for message in self.messages)


def _read(path: Path, wanted: AudioFormat) -> bytes:
    with wave.open(str(path)) as file:
        found = (file.getframerate(), file.getnchannels(), file.getsampwidth())
        if found != (wanted.sample_rate, 1, 2):
            raise ValueError(
                f"{path} has {found[0]} Hz, {found[1]} channel(s) and {8 * found[2]} bits; the call takes "
                f"{wanted.sample_rate} Hz, mono, 16 bits: convert it, as with "
                f"`sox IN -r {wanted.sample_rate} -c 1 -b 16 OUT`"
            )
        return bytes(file.readframes(file.getnframes()))
