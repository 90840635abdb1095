"""One session: carries out what the turn machine says, between the client, the hearing and the conversation.

It is the channel of its conversation (`channel.py`): what the agent says goes through it to the client.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable

from orchestrator.agent import VoiceAgent
from orchestrator.conversation import Conversation
from orchestrator.ears import Ears, ears_of
from orchestrator.engine_check import EngineCheck
from orchestrator.engines import Engines
from orchestrator.events import AgentStateChanged, TurnMetrics, UserInputTranscribed, UserStateChanged
from orchestrator.hearing import Hearing
from orchestrator.intake import Intake
from orchestrator.nodes import Node
from orchestrator.owned import Owned
from orchestrator.spoken_turns import Spoken, SpokenTurns
from orchestrator.stages import Stages
from orchestrator.streams import Pool
from orchestrator.task import AgentTask
from orchestrator.timeline import TurnTimes
from orchestrator.turn import (
    BeginTurn,
    ChangeState,
    CommitTurn,
    EndSegment,
    EndTurn,
    Heard,
    Instruction,
    InterruptAgent,
    JudgeTurn,
    StartSegment,
    TurnMachine,
)
from orchestrator.turn_detector import is_complete
from orchestrator.user_turn import UserTurn
from orchestrator.utterance import Clock, Utterance
from protocol.errors import AntiphonError
from protocol.ingest import (
    AgentState,
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
    Outcome,
    Ping,
    Played,
    Pong,
    StageTimes,
    State,
    Text,
    ToClient,
    Transcript,
    UserState,
)
from protocol.limits import INGEST_AHEAD_MS, PROTOCOL_VERSION

log = logging.getLogger(__name__)


class Session:
    """A conversation from `open` to `closed`. All its methods are called on the event loop."""

    def __init__(
        self,
        opening: Open,
        agent: VoiceAgent,
        pool: Pool,
        send: Callable[[ToClient], None],
        epoch: str,
        name: str,
        *,
        text_only: bool = False,
        clock: Clock = time.monotonic,
    ) -> None:
        self.id = opening.session
        self.user_id = opening.user
        self.opening = opening
        self.agent = agent
        self.text_only = text_only
        self.now = clock
        self.began = clock()
        self.gaps = 0  # messages of the client that never arrived
        self.opened = False
        self.closed = False
        self._pool = pool
        self._send_out = send
        self._epoch = epoch
        self._name = name
        self._sequence = 0
        self._expected = opening.sequence + 1
        self._generation = 0
        self._turn = TurnMachine(agent.turn_options)
        self._conversation = Conversation(agent, self)
        self._engine_check = EngineCheck(pool, self.id)
        self._ears_due = False  # the current task may have other ears than those that hear
        self._hearing: Hearing | None = None
        self._intake: Intake | None = None
        self._utterance: Utterance | None = None
        self._spoken = SpokenTurns()
        self._due: deque[Instruction] = deque()
        self._doing = False
        self._timer: asyncio.TimerHandle | None = None
        self._judging = Owned()
        self._closing: asyncio.Task[None] | None = None
        self._leaving: set[Node] = set()
        self._shown: tuple[AgentState, UserState] = ("listening", "silent")

    # --- its life ---------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Open the streams, check every engine's options, and tell the client. Raises what stands in the way.

        The first task is entered when this has returned.
        """
        first = self.agent.current_task
        await self.prepare(self.agent.engines(first), first)
        if not self.text_only:
            self._hearing = Hearing(
                pool=self._pool,
                session=self.id,
                client_rate=self.opening.input.sample_rate,
                ears=self._ears(),
                listener=self,
                clock=self.now,
            )
            self._intake = Intake(self._hearing, self.opening.input, self.now)
            self._hearing.start()
        self.opened = True
        self._send(Opened("", 0, 0, PROTOCOL_VERSION, self._epoch, self._name, INGEST_AHEAD_MS))
        self._send(State("", 0, 0, "listening", "silent"))
        self._conversation.start()

    def close(self, reason: str, *, reachable: bool = False) -> None:
        """Leave the tasks, then tell the client. Safe to repeat. `reachable`: the client hears last words."""
        if self._closing is None and not self.closed:
            self._set_timer(None)
            self._closing = asyncio.get_running_loop().create_task(
                self._close(reason, reachable), name=f"close {self.id}"
            )

    async def _close(self, reason: str, reachable: bool) -> None:
        try:
            if self._hearing is not None:
                self._hearing.close()
                self._hearing = self._intake = None
            self._judging.cancel()
            await self._judging.finish()
            await self._conversation.end(reason, reachable=reachable)
        except Exception:
            log.exception("session %s could not be left as it should be", self.id)
        finally:
            self._send(Closed("", 0, 0, reason))
            self.closed = True

    async def wait_closed(self) -> None:
        """Until nothing of the session runs any more. Call it after `close()`."""
        if self._closing is not None:
            await asyncio.wait({self._closing})

    def sweep(self, now: float) -> None:
        """Every 50 to 100 ms: open streams again, notice a line that stalled, leave nodes that drain."""
        hearing = self._hearing
        if hearing is None or self._closing is not None or not self.opened:
            return
        hearing.sweep(now)
        if self._turn.user == "silent":
            for node in self._leaving:
                hearing.leave(node)
            self._leaving.clear()
            if self._ears_due:
                self._change_ears()
        elif self._intake is not None:
            self._intake.fill(now)

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
    def at_rest(self) -> bool:
        """Whether nobody does anything: the task is entered, the user is silent, the agent has nothing to say."""
        return self._turn.user == "silent" and self._conversation.at_rest

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
            self.opening.input.check_frame(message.pcm, "audio")
            if self._intake is not None:
                self._intake.push(message.pcm)
        elif isinstance(message, Played):
            if self._utterance is not None and message.generation == self._utterance.generation:
                self._utterance.report_played(message.played_ms)
        elif isinstance(message, Ping):
            self._send(Pong("", 0, 0))
        elif self._closing is not None:
            return  # the conversation is over; only last words are still played
        elif isinstance(message, Text):
            self._do(self._turn.text(self.now(), message.text))
        elif isinstance(message, Interrupt):
            self._do(self._turn.interrupt(self.now()))
        elif isinstance(message, Close):
            self.close(message.reason or "the client closed the session")

    # --- from the hearing -------------------------------------------------------------------------------------------

    def on_speech(self, event: str, at_ms: float, silence_ms: float) -> None:
        now = self.now()
        if event == "start":
            self._do(self._turn.speech_started(now, at_ms))
        elif event == "end":
            self._do(self._turn.speech_ended(now, at_ms, silence_ms))
        else:
            self._do(self._turn.silence(now, silence_ms))

    def on_transcript(self, segment: int, text: str, final: bool) -> None:
        if final:
            self._do(self._turn.final(self.now(), segment, text))
        else:
            self._do(self._turn.partial(segment, text))

    def on_segment_lost(self, segment: int, error: AntiphonError) -> None:
        self._conversation.report(error)
        self._do(self._turn.segment_failed(self.now(), segment))

    def on_credit(self, until_ms: int) -> None:
        self._send(Credit("", 0, 0, until_ms + INGEST_AHEAD_MS))

    def on_trouble(self, error: AntiphonError) -> None:
        self._conversation.report(error)

    # --- instructions -----------------------------------------------------------------------------------------------

    def _do(self, instructions: list[Instruction]) -> None:
        """Carry out what the turn machine says, in order, then set the timer for what it waits for.

        What an instruction leads to is carried out after those that are there already.
        """
        if self._closing is not None:
            return
        self._due.extend(instructions)
        if self._doing:
            return
        self._doing = True
        try:
            while self._due:
                self._carry_out(self._due.popleft())
        finally:
            self._doing = False
        if self._turn.user == "silent":  # not in a pause, after which the turn may go on
            self._conversation.user_silent.set()
        else:
            self._conversation.user_silent.clear()
        self._set_timer(self._turn.deadline)

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case StartSegment(segment, at_ms):
                if self._hearing is not None and self._intake is not None:
                    self._intake.start_segment()
                    self._hearing.start_segment(segment, at_ms)
            case EndSegment(segment, at_ms):
                if self._hearing is not None:
                    self._hearing.end_segment(segment, at_ms)
            case Heard(turn, text, final):
                self._send(Transcript("", 0, 0, turn, "user", text, final))
                self.agent._listeners.emit(UserInputTranscribed(turn, text, final))
            case BeginTurn(turn):
                self._conversation.begin_turn(turn)
            case JudgeTurn(_, text):
                self._judging.start(self._judge(text), "turn detector")
            case CommitTurn():
                self._commit(instruction)
            case EndTurn(turn, outcome, speech_end_ms):
                self._send_metrics(turn, outcome, self._client_ms(speech_end_ms), StageTimes(), Spoken())
                self._conversation.answering.drop(turn)
            case InterruptAgent(why):
                self._conversation.interrupt(force=why in ("writing", "request"), silence=why == "request")
            case ChangeState(agent, user_speaking):
                self._show(agent, "speaking" if user_speaking else "silent")

    def _show(self, agent: AgentState, user: UserState) -> None:
        self._send(State("", 0, 0, agent, user))
        (old_agent, old_user), self._shown = self._shown, (agent, user)
        if user != old_user:
            self.agent._listeners.emit(UserStateChanged(old_user, user))
        if agent != old_agent:
            self.agent._listeners.emit(AgentStateChanged(old_agent, agent))

    def _commit(self, commit: CommitTurn) -> None:
        now = self.now()
        times = TurnTimes(commit_at=now, endpoint_at=commit.endpoint_at)
        if commit.speech_end_ms >= 0 and self._intake is not None:
            times.speech_end_at = self._intake.arrived_at(commit.speech_end_ms, now)
        turn = UserTurn(commit.turn, commit.text, times, self._client_ms(commit.speech_end_ms))
        self._conversation.answering.commit(turn)

    async def _judge(self, text: str) -> None:
        """Ask the turn detector."""
        task = self.agent.current_task
        detector = self.agent.detector(task)
        timeout_s = self.agent.turn_options.max_endpointing_delay
        complete = detector is None or await is_complete(detector, task._chat_ctx, text, timeout_s)
        self._do(self._turn.judged(self.now(), text, complete=complete))

    def _set_timer(self, at: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if at is not None and self._closing is None:
            delay = max(0.0, at - self.now())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._do(self._turn.tick(self.now()))

    # --- the channel of the conversation ----------------------------------------------------------------------------

    def open_utterance(self, turn: int) -> Utterance:
        self._generation += 1
        self._utterance = Utterance(
            turn=turn,
            generation=self._generation,
            output=self.opening.output,
            reports_played=self.opening.reports_played,
            send=self._send,
            on_speaking=self._conversation.state_changed,
            clock=self.now,
        )
        self._spoken.note(self._utterance)
        return self._utterance

    def end_utterance(self, utterance: Utterance, *, heard: str, interrupted: bool) -> None:
        if interrupted:
            self._generation += 1
            self._send(Clear("", self._generation, 0, int(utterance.played_ms())))
        if heard:
            generation = utterance.generation
            self._send(Transcript("", generation, 0, utterance.turn, "agent", heard, True, interrupted))
        if self._utterance is utterance:
            self._utterance = None

    def stages(self, utterance: Utterance, engines: Engines, instructions: str) -> Stages:
        return Stages(
            self._pool,
            engines,
            session=self.id,
            generation=utterance.generation,
            speech=utterance.speech,
            instructions=instructions,
        )

    def only_text(self, engines: Engines) -> Engines:
        """The engines that are used here: in a session without sound, only the llm."""
        return Engines(None, None, engines.llm, None) if self.text_only else engines

    async def prepare(self, engines: Engines, task: AgentTask) -> None:
        await self._engine_check.check(self.only_text(engines), task)

    def listen(self) -> None:
        self._turn.detects = self.agent.detector(self.agent.current_task) is not None
        self._ears_due = True
        self._change_ears()

    def _change_ears(self) -> None:
        """Hear for the current task; later, if just now somebody speaks."""
        if self._hearing is not None and self._turn.user == "silent":
            self._ears_due = not self._hearing.change(self._ears())

    def _ears(self) -> Ears:
        task = self.agent.current_task
        return ears_of(task, self.agent.engines(task), self._pool, self.id)

    def agent_is(self, state: AgentState, *, interruptible: bool) -> None:
        self._do(self._turn.agent_is(self.now(), state, interruptible=interruptible))

    def turn_ended(self, turn: UserTurn, outcome: Outcome) -> None:
        spoken = self._spoken.take(turn.number)
        if outcome == "completed" and not spoken.text:
            outcome = "no_reply"
        self._send_metrics(turn.number, outcome, turn.speech_end_ms, turn.times.stages(), spoken)

    def end(self, error: AntiphonError) -> None:
        self._conversation.report(error)
        self.close(error.code, reachable=True)

    def report(self, error: AntiphonError) -> None:
        """Log it and tell the client; the session goes on."""
        log.warning("session %s: %s", self.id, error)
        self.tell(error)

    def tell(self, error: AntiphonError) -> None:
        """Tell the client that something of its own, or of ours, went wrong."""
        self._send(Error("", 0, 0, error.code, error.category, str(error)))

    # --- to the client ----------------------------------------------------------------------------------------------

    def _client_ms(self, at_ms: float) -> float:
        """A position as the client counts it; -1: nowhere."""
        return self._intake.client_ms(at_ms) if self._intake is not None else -1.0

    def _send_metrics(
        self, turn: int, outcome: Outcome, speech_end_ms: float, stages: StageTimes, spoken: Spoken
    ) -> None:
        audio_ms, heard_ms = spoken.audio_ms, spoken.heard_ms
        self._send(Metrics("", 0, 0, turn, outcome, int(speech_end_ms), stages, audio_ms, heard_ms))
        self.agent._listeners.emit(TurnMetrics(turn, outcome, stages, audio_ms, heard_ms))

    def _send(self, message: ToClient) -> None:
        """Send with the routing fields filled in. A generation that the message names already is kept."""
        if self.closed:
            return
        message.session = self.id
        message.generation = message.generation or self._generation
        message.sequence = self._sequence
        self._sequence += 1
        self._send_out(message)
