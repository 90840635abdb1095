"""What a conversation is kept in: turns, the reply file, the pace, the loudspeaker's queue."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from antiphon.exit_codes import UnwritableOutput
from antiphon.pacing import Fast, RealTime
from antiphon.reply_file import ReplyFile
from antiphon.speaker import PlayQueue
from antiphon.spoken import describe
from antiphon.turns import Turn, Turns
from protocol.audio import AudioFormat
from protocol.client import Reconnected
from protocol.ingest import Audio, Error, Metrics, StageTimes, State, Transcript

FORMAT = AudioFormat(16_000)


def user(turn: int, text: str, final: bool = True) -> Transcript:
    return Transcript("s", 0, 0, turn, "user", text, final)


def agent(turn: int, generation: int, text: str, interrupted: bool = False) -> Transcript:
    return Transcript("s", generation, 0, turn, "agent", text, True, interrupted)


def metrics(turn: int, speech_end_ms: int = 1_000, outcome: str = "completed", audio_ms: int = 800) -> Metrics:
    stages = StageTimes(endpointing_ms=500, stt_ms=20, llm_ms=3, llm_first_token_ms=2, tts_ms=2, total_ms=525)
    return Metrics("s", 9, 0, turn, outcome, speech_end_ms, stages, audio_ms, audio_ms)  # type: ignore[arg-type]


def test_latency_is_from_when_the_end_of_speech_was_sent_to_the_first_audio_of_that_answer() -> None:
    turns = Turns()
    for frame in range(1, 101):
        turns.sent_audio(frame * 20.0, 100.0 + frame * 0.02)
    turns.take(user(1, "hello"), 101.4)
    turns.take(Audio("s", 1, 0, b"\0\0"), 101.6)
    turns.take(Audio("s", 1, 0, b"\0\0"), 101.7)
    turns.take(agent(1, 1, "Hello."), 101.8)
    ended = turns.take(metrics(1), 103.0)
    assert ended is not None
    assert ended.first_audio_ms == pytest.approx(600, abs=0.2)
    assert not turns.open
    assert ended.ok


def test_a_turn_in_writing_counts_from_when_it_was_sent() -> None:
    turns = Turns()
    turns.sent_text(5.0)
    assert turns.open
    turns.take(user(1, "hello"), 5.001)
    turns.take(Audio("s", 1, 0, b"\0\0"), 5.25)
    turns.take(agent(1, 1, "Hello."), 5.3)
    turns.take(metrics(1, speech_end_ms=-1), 6.0)
    assert turns.all[0].first_audio_ms == 250.0
    assert not turns.open


def test_a_conversation_is_open_while_somebody_speaks_thinks_or_has_not_been_accounted_for() -> None:
    turns = Turns()
    assert not turns.open
    turns.take(State("s", 0, 0, "listening", "speaking"), 0.0)
    assert turns.open
    turns.take(State("s", 0, 0, "listening", "silent"), 0.0)
    assert not turns.open
    turns.take(State("s", 0, 0, "thinking", "silent"), 0.0)
    assert turns.open
    turns.take(State("s", 0, 0, "listening", "silent"), 0.0)
    turns.take(user(1, "hel", final=False), 0.0)
    assert turns.open


def test_an_interrupted_turn_keeps_what_was_heard_of_its_answer() -> None:
    turns = Turns()
    turns.take(user(1, "hello"), 0.0)
    turns.take(agent(1, 1, "Hello, how", interrupted=True), 0.0)
    turns.take(metrics(1, outcome="interrupted"), 0.0)
    turn = turns.all[0]
    assert (turn.answered, turn.interrupted, turn.ok) == ("Hello, how", True, True)


def test_what_the_agent_says_unasked_is_no_turn_that_could_stay_open() -> None:
    turns = Turns()
    assert turns.take(agent(0, 1, "Good morning."), 0.0) is turns.unasked
    assert (turns.unasked.answered, turns.all, turns.open) == ("Good morning.", [], False)


def test_all_that_is_said_in_a_turn_is_its_answer() -> None:
    turns = Turns()
    turns.take(user(1, "billing"), 0.0)
    turns.take(agent(1, 1, "One"), 0.1)
    turns.take(agent(1, 1, "One moment."), 0.2)
    turns.take(agent(1, 2, "Billing here."), 0.3)
    assert turns.all[0].answered == "One moment. Billing here."


def test_an_agent_that_listens_with_a_turn_open_waits_for_the_next_one() -> None:
    turns = Turns()
    turns.sent_text(0.0)
    turns.take(State("s", 0, 0, "listening", "silent"), 0.0)
    assert not turns.waits(9.0)  # the text was not heard yet
    turns.take(user(1, "order"), 9.0)
    turns.take(State("s", 0, 0, "thinking", "silent"), 9.0)
    assert not turns.waits(20.0)
    turns.take(State("s", 0, 0, "listening", "silent"), 20.0)
    assert not turns.waits(20.5)  # it may go on
    assert turns.waits(21.0)
    assert turns.open


def test_after_a_reconnection_turns_go_on_counting_and_what_was_open_has_failed() -> None:
    turns = Turns()
    turns.take(user(1, "lost"), 0.0)
    turns.take(Reconnected("other", "it was started anew"), 0.0)
    assert not turns.open
    turns.take(user(1, "again"), 0.0)
    assert [(turn.turn, turn.heard, turn.outcome) for turn in turns.all] == [(1, "lost", "failed"), (2, "again", "")]


def test_errors_are_kept_and_a_document_has_null_for_stages_that_did_not_run() -> None:
    turns = Turns()
    turns.take(Error("s", 0, 0, "no_node", "retryable", "no llm node"), 0.0)
    assert turns.errors[0].code == "no_node"
    document = Turn(1, "a.wav").document()
    assert document["stages"]["stt_ms"] is None
    assert document["outcome"] == "unfinished"


def test_what_is_printed_of_a_turn_names_what_went_wrong() -> None:
    turn = Turn(1, outcome="nothing_heard")
    assert "no words" in describe(turn)[0]
    turn = Turn(1, heard="billing", answered="Billing here.", outcome="no_reply")
    assert not any("did not answer" in line for line in describe(turn))
    turn = Turn(1, heard="[bold]", answered="Yes", outcome="completed", first_audio_ms=512.3)
    turn.stages = StageTimes(endpointing_ms=500, llm_ms=3, llm_first_token_ms=2, total_ms=503)
    you, answer, latency = describe(turn)
    assert "\\[bold]" in you
    assert "Yes" in answer
    assert "first audio after 512 ms: endpointing 500, llm 3[" in latency


def test_the_reply_file_holds_all_replies_and_cuts_one_where_it_was_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "reply.wav"
    with ReplyFile(path, FORMAT) as file:
        file.take(1, np.full(16_000, 1, "<i2").tobytes())
        file.clear(250)
        file.take(3, np.full(1_600, 3, "<i2").tobytes())
        file.take(3, b"")
    samples, rate = soundfile.read(str(path), dtype="int16")
    assert rate == 16_000
    assert samples.tolist() == [1] * 4_000 + [3] * 1_600
    assert file.written_ms == 350.0


def test_a_reply_file_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(UnwritableOutput, match="cannot be written"):
        ReplyFile(tmp_path / "nowhere" / "reply.wav", FORMAT)


def test_real_time_keeps_the_deadlines_and_fast_does_not_wait() -> None:
    async def timed(pace: RealTime | Fast) -> float:
        began = time.monotonic()
        for _ in range(11):
            await pace.wait(20)
        return time.monotonic() - began

    assert 0.199 <= asyncio.run(timed(RealTime())) < 0.3
    assert asyncio.run(timed(Fast())) < 0.05


def test_real_time_catches_up_after_a_late_frame_but_not_after_a_stall() -> None:
    async def late(seconds: float) -> float:
        pace = RealTime()
        await pace.wait(20)
        time.sleep(seconds)  # what a blocked loop does  # noqa: ASYNC251
        began = time.monotonic()
        for _ in range(6):
            await pace.wait(20)
        return time.monotonic() - began

    assert asyncio.run(late(0.1)) < 0.06
    assert asyncio.run(late(0.6)) >= 0.099


def test_the_loudspeaker_plays_in_order_and_silence_when_it_runs_dry() -> None:
    queue = PlayQueue(FORMAT)
    queue.push(1, b"aabb")
    queue.push(1, b"cc")
    assert [queue.take(3), queue.take(3), queue.take(4)] == [b"aab", b"bcc", b"\0\0\0\0"]


def test_only_what_the_device_took_of_the_newest_generation_counts_as_played() -> None:
    queue = PlayQueue(FORMAT)
    queue.push(1, bytes(640 * 5))
    queue.take(640)
    queue.take(640)
    assert queue.played == (1, 40)
    queue.clear(2)
    assert queue.played == (2, 0)
    assert queue.take(4) == b"\0\0\0\0"
    queue.push(1, b"stale!")
    queue.push(3, b"new!")
    assert queue.take(4) == b"new!"
    assert queue.played[0] == 3


def test_a_new_session_starts_its_generations_again() -> None:
    queue = PlayQueue(FORMAT)
    queue.push(7, b"old!")
    queue.reset()
    queue.push(1, b"new!")
    assert queue.take(4) == b"new!"


def test_a_device_thread_and_the_session_may_use_the_queue_at_once() -> None:
    queue = PlayQueue(FORMAT)
    taken = bytearray()
    full = threading.Event()

    def device() -> None:
        while not full.is_set() or len(taken) < 200_000:
            taken.extend(part for part in queue.take(64) if part)

    thread = threading.Thread(target=device)
    thread.start()
    for _ in range(2_000):
        queue.push(1, b"x" * 100)
    full.set()
    thread.join(30)
    assert not thread.is_alive()
    assert len(taken) == 200_000
