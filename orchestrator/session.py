"""One conversation: carries out what the turn machine says, between the client, the hearing and the replies."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Literal

from orchestrator.agent import VoiceAgent
from orchestrator.hearing import Hearing
from orchestrator.nodes import Node, NodePool
from orchestrator.reply import Reply
from orchestrator.stages import Stages
from orchestrator.streams import StreamQueue
from orchestrator.timeline import Arrivals, TurnTimes
from orchestrator.turn import (
    CancelReply,
    ChangeState,
    EndSegment,
    EndTurn,
    Heard,
    Instruction,
    StartReply,
    StartSegment,
    TurnMachine,
)
from protocol.engine import EngineSpec
from protocol.errors import AntiphonError, EngineError, TooLarge
from protocol.ingest import (
    Audio,
    Clear,
    Close,
    Closed,
    Credit,
    Error,
    FromClient,
    Interrupt,
    Metrics,
    Open,
    Opened,
    Ping,
    Played,
    Pong,
    StageTimes,
    State,
    Text,
    ToClient,
    Transcript,
)
from protocol.limits import FRAME_MS, INGEST_AHEAD_MS, PROTOCOL_VERSION

log = logging.getLogger(__name__)

Outcome = Literal["completed", "interrupted", "failed", "nothing_heard", "no_reply"]

STALLED_S = 0.3  # a line that is quiet for so long while somebody speaks is taken to be silent
OVERRUN_MS = INGEST_AHEAD_MS + 30_000  # of audio beyond what vad has taken: what a client without credit may cost


class Session:
    """A conversation from `open` to `closed`. All its methods are called on the event loop."""

    def __init__(
        self, opening: Open, agent: VoiceAgent, pool: NodePool, send: Callable[[ToClient], None], epoch: str, name: str
    ) -> None:
        self.id = opening.session
        self.opening = opening
        self.agent = agent
        self.began = time.monotonic()
        self.gaps = 0  # messages of the client that never arrived
        self.opened = False
        self.closed = False
        self._pool = pool
        self._send_out = send
        self._epoch = epoch
        self._name = name
        self._sequence = 0
        self._expected = opening.sequence + 1
        self._turn = TurnMachine(agent.turn_options)
        self._engines = agent.engines()
        self._hearing: Hearing | None = None
        self._arrivals = Arrivals()
        self._last_audio = time.monotonic()
        self._inserted_ms = 0.0  # silence that was put in for a line that stalled
        self._inserted_before_segment_ms = 0.0
        self._reply: Reply | None = None
        self._reply_task: asyncio.Task[None] | None = None
        self._times: dict[int, tuple[TurnTimes, float]] = {}  # by turn: its moments, where its speech ended
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._leaving: set[Node] = set()
        self._muted = False

    # --- its life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the streams, check every engine's options, and tell the client. Raises what stands in the way."""
        engines = self._engines
        if engines.vad is not None and engines.stt is not None:
            self._hearing = Hearing(
                pool=self._pool,
                session=self.id,
                vad=engines.vad,
                stt=engines.stt,
                client_rate=self.opening.input.sample_rate,
                listener=self,
            )
        probes = await asyncio.gather(*(self._probe(spec) for spec in engines.used), return_exceptions=True)
        for failure in probes:
            if failure is not None:
                raise failure
        if self._hearing is not None:
            self._hearing.start()
        self.opened = True
        self._send(Opened("", 0, 0, PROTOCOL_VERSION, self._epoch, self._name, INGEST_AHEAD_MS))
        self._send(State("", 0, 0, "listening", "silent"))

    async def _probe(self, spec: EngineSpec) -> None:
        """Ask a node whether it accepts the engine's options: wrong ones must end the session now, not a turn later."""
        with StreamQueue() as queue:
            await queue.opened(lambda queue: self._pool.open(spec, queue, session=self.id, generation=0, probe=True))

    def close(self, reason: str) -> None:
        """End the conversation and tell the client. Safe to repeat."""
        if self.closed:
            return
        self._end_reply("interrupted")
        if self._hearing is not None:
            self._hearing.close()
        self._set_timer(None)
        for task in self._tasks:
            task.cancel()
        self._send(Closed("", 0, 0, reason))
        self.closed = True

    async def wait_closed(self) -> None:
        """Until nothing of the session runs any more. Call it after `close()`."""
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def sweep(self, now: float) -> None:
        """Every 50 to 100 ms: open streams again, notice a line that stalled, leave nodes that drain."""
        hearing = self._hearing
        if hearing is None or self.closed or not self.opened:
            return
        hearing.sweep(now)
        if self._leaving and self._turn.user == "silent":
            for node in self._leaving:
                hearing.leave(node)
            self._leaving.clear()
        if self._turn.user != "silent" and now - self._last_audio > STALLED_S:
            # A client that stops sending has stopped speaking; vad and the turn are told by the silence itself.
            missing_ms = (now - self._last_audio - STALLED_S) * 1000
            silence = bytes(self.opening.input.frame_bytes(FRAME_MS))
            for _ in range(int(missing_ms / FRAME_MS)):
                self._inserted_ms += FRAME_MS
                hearing.push(silence)
            self._last_audio += int(missing_ms / FRAME_MS) * FRAME_MS / 1000

    def node_drains(self, node: Node) -> None:
        """This node takes leave: its streams move as soon as no speech is being recognised."""
        self._leaving.add(node)

    @property
    def turns(self) -> int:
        """Turns of the user so far."""
        return self._turn.turns

    @property
    def states(self) -> tuple[str, str]:
        """What the agent and the user are doing."""
        return self._turn.agent, self._turn.user

    @property
    def nodes(self) -> dict[str, str]:
        """The nodes that serve this session now, by service."""
        return self._hearing.nodes if self._hearing is not None else {}

    # --- from the client --------------------------------------------------------------------------------------------

    def receive(self, message: FromClient) -> None:
        """A message of the client. Raises a `ProtocolError` that the ingest answers."""
        if message.sequence < self._expected:
            return  # repeated or late: audio is never reordered
        self.gaps += message.sequence - self._expected
        self._expected = message.sequence + 1
        if isinstance(message, Audio):
            self._on_audio(message.pcm)
        elif isinstance(message, Played):
            if self._reply is not None and message.generation == self._reply.generation:
                self._reply.report_played(message.played_ms)
        elif isinstance(message, Ping):
            self._send(Pong("", 0, 0))
        elif isinstance(message, Text):
            self._do(self._turn.text(time.monotonic(), message.text))
        elif isinstance(message, Interrupt):
            self._do(self._turn.interrupt(time.monotonic()))
        elif isinstance(message, Close):
            self.close(message.reason or "the client closed the session")

    def _on_audio(self, pcm: bytes) -> None:
        self.opening.input.check_frame(pcm, "audio")
        hearing = self._hearing
        if hearing is None:
            return
        if hearing.backlog_ms > OVERRUN_MS:
            if not self._muted:
                self._muted = True
                raise TooLarge(
                    f"audio runs {hearing.backlog_ms / 1000:.0f} s ahead of what could be taken in; frames are dropped "
                    f"until it has caught up. Wait for `credit` before sending more"
                )
            return
        self._muted = False
        self._last_audio = now = time.monotonic()
        hearing.push(pcm)
        self._arrivals.note(hearing.audio.end_ms, now)

    # --- from the hearing -------------------------------------------------------------------------------------------

    def on_speech(self, event: str, at_ms: float, silence_ms: float) -> None:
        now = time.monotonic()
        if event == "start":
            self._do(self._turn.speech_started(now, at_ms))
        elif event == "end":
            self._do(self._turn.speech_ended(now, at_ms, silence_ms))
        else:
            self._do(self._turn.silence(now, silence_ms))

    def on_transcript(self, segment: int, text: str, final: bool) -> None:
        if final:
            self._do(self._turn.final(time.monotonic(), segment, text))
        else:
            self._do(self._turn.partial(segment, text))

    def on_segment_lost(self, segment: int, error: AntiphonError) -> None:
        self._report(error)
        self._do(self._turn.segment_failed(time.monotonic(), segment))

    def on_credit(self, until_ms: int) -> None:
        self._send(Credit("", 0, 0, until_ms + INGEST_AHEAD_MS))

    def on_trouble(self, error: AntiphonError) -> None:
        self._report(error)

    # --- instructions -----------------------------------------------------------------------------------------------

    def _do(self, instructions: list[Instruction]) -> None:
        """Carry out what the turn machine says, in order, then set the timer for what it waits for."""
        if self.closed:
            return
        for instruction in instructions:
            match instruction:
                case StartSegment(segment, at_ms):
                    self._inserted_before_segment_ms = self._inserted_ms
                    if self._hearing is not None:
                        self._hearing.start_segment(segment, at_ms)
                case EndSegment(segment, at_ms):
                    if self._hearing is not None:
                        self._hearing.end_segment(segment, at_ms)
                case Heard(turn, text, final):
                    self._send(Transcript("", 0, 0, turn, "user", text, final))
                case StartReply():
                    self._start_reply(instruction)
                case EndTurn(turn, outcome, speech_end_ms):
                    self._send_metrics(turn, outcome, self._client_ms(speech_end_ms), StageTimes())
                case CancelReply():
                    self._cancel_reply(instruction)
                case ChangeState(agent, user_speaking):
                    self._send(State("", 0, 0, agent, "speaking" if user_speaking else "silent"))
        self._set_timer(self._turn.deadline)

    def _set_timer(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None and not self.closed:
            delay = max(0.0, at - time.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._do(self._turn.tick(time.monotonic()))

    # --- replies ----------------------------------------------------------------------------------------------------

    def _start_reply(self, start: StartReply) -> None:
        now = time.monotonic()
        times = TurnTimes(commit_at=now, endpoint_at=start.endpoint_at)
        if start.speech_end_ms >= 0:
            times.speech_end_at = self._arrivals.at(start.speech_end_ms, now)
        self._times[start.turn] = (times, self._client_ms(start.speech_end_ms))
        self.agent.chat_ctx.add("user", start.text)
        self._reply = reply = Reply(
            turn=start.turn,
            generation=start.generation,
            output=self.opening.output,
            reports_played=self.opening.reports_played,
            send=self._send,
            on_speaking=self._on_speaking,
        )
        self._reply_task = asyncio.get_running_loop().create_task(self._run_reply(reply))
        self._tasks.add(self._reply_task)
        self._reply_task.add_done_callback(self._tasks.discard)

    async def _run_reply(self, reply: Reply) -> None:
        task = self.agent.current_task
        stages = Stages(self._pool, self.agent.engines(), self.id, reply.generation, reply.speech, task.instructions)
        outcome: Outcome = "completed"
        try:
            await reply.run(task, stages, self.agent.chat_ctx.copy())
        except Exception as error:  # noqa: BLE001  # told to the client, and logged
            self._report(_explain(error))
            outcome = "failed"
        if reply is self._reply:
            self._end_reply(outcome)
            self._do(self._turn.reply_ended(reply.generation))

    def _on_speaking(self, generation: int) -> None:
        self._do(self._turn.reply_speaking(generation))

    def _cancel_reply(self, cancel: CancelReply) -> None:
        heard_ms = self._end_reply("interrupted")
        self._send(Clear("", cancel.by, 0, heard_ms))

    def _end_reply(self, outcome: Outcome) -> int:
        """The reply is over, whatever the reason: keep what was heard, send its figures. Returns milliseconds heard."""
        reply, self._reply = self._reply, None
        if reply is None:
            return 0
        task, self._reply_task = self._reply_task, None
        if task is not None and outcome == "interrupted":
            task.cancel()
        played_ms = reply.playout.played_ms(time.monotonic())
        heard = reply.heard_text()
        interrupted = outcome == "interrupted"
        if heard:
            self.agent.chat_ctx.add("assistant", heard, interrupted=interrupted)
            self._send(Transcript("", reply.generation, 0, reply.turn, "agent", heard, True, interrupted))
        elif outcome == "completed":
            outcome = "no_reply"
        times, speech_end_ms = self._times.pop(reply.turn)
        times.first_token_at, times.first_piece_at = reply.first_token_at, reply.first_piece_at
        times.first_audio_at = reply.first_audio_at
        self._send_metrics(
            reply.turn, outcome, speech_end_ms, times.stages(), int(reply.playout.sent_ms), int(played_ms)
        )
        return int(played_ms)

    # --- to the client ----------------------------------------------------------------------------------------------

    def _client_ms(self, at_ms: float) -> float:
        """A position as the client counts it: without the silence that was put in."""
        return at_ms - self._inserted_before_segment_ms if at_ms >= 0 else -1.0

    def _send_metrics(
        self,
        turn: int,
        outcome: Outcome,
        speech_end_ms: float,
        stages: StageTimes,
        audio_ms: int = 0,
        heard_ms: int = 0,
    ) -> None:
        self._send(Metrics("", 0, 0, turn, outcome, int(speech_end_ms), stages, audio_ms, heard_ms))

    def tell(self, error: AntiphonError) -> None:
        """Tell the client that something of its own, or of ours, went wrong; the session goes on."""
        self._send(Error("", 0, 0, error.code, error.category, str(error)))

    def _report(self, error: AntiphonError) -> None:
        log.warning("session %s: %s", self.id, error)
        self.tell(error)

    def _send(self, message: ToClient) -> None:
        """Send with the routing fields filled in. A generation that the message names already is kept."""
        if self.closed:
            return
        message.session = self.id
        message.generation = message.generation or self._turn.generation
        message.sequence = self._sequence
        self._sequence += 1
        self._send_out(message)


def _explain(error: Exception) -> AntiphonError:
    """What the client may be told of an exception; one that nobody foresaw is logged with its traceback."""
    if isinstance(error, AntiphonError):
        return error
    log.error("a reply failed", exc_info=error)
    return EngineError(f"the reply failed: {type(error).__name__}: {error}", category="fatal")
