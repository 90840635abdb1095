"""The caller's audio: what feeds send of it, under which credit, and how much of it is kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.hearing import PREROLL_MS
from orchestrator.input_audio import KEPT_MS, MAX_KEPT_MS, TRIM_STEP_MS, Feed, InputAudio
from protocol.limits import MAX_FRAME_MS, NODE_AHEAD_MS

RATE = 16_000
BYTES_PER_MS = 32


class Listening:
    """An audio with one feed, and what that feed has sent."""

    def __init__(self, client_rate: int = RATE) -> None:
        self.audio = InputAudio(client_rate, RATE)
        self.parts: list[bytes] = []
        self.feed: Feed = self.audio.feed(self.parts.append)
        self.pushed = b""

    @property
    def sent(self) -> bytes:
        return b"".join(self.parts)

    def push_ms(self, duration_ms: int) -> None:
        """So much more of a ramp, of which no two milliseconds are alike, in frames of 20 ms at most."""
        for start in range(0, duration_ms, 20):
            self.push(samples(len(self.pushed) // 2, 16 * min(20, duration_ms - start)))

    def push(self, pcm: bytes) -> None:
        self.pushed += pcm
        self.audio.push(pcm)

    def part(self, start_ms: int, end_ms: int) -> bytes:
        return self.pushed[start_ms * BYTES_PER_MS : end_ms * BYTES_PER_MS]


def samples(first: int, count: int) -> bytes:
    return np.arange(first, first + count).astype("<u2").tobytes()


def attached(credit_ms: int = 100_000) -> Listening:
    listening = Listening()
    listening.feed.attach(0)
    listening.feed.allow(credit_ms)
    return listening


# --- credit and segments ----------------------------------------------------------------------------------------------


def test_a_feed_sends_nothing_before_it_is_attached() -> None:
    listening = Listening()
    listening.push_ms(40)
    listening.feed.allow(1_000)
    assert listening.sent == b""
    listening.feed.attach(0)
    assert listening.sent == b""
    listening.feed.allow(1_000)
    assert listening.sent == listening.part(0, 40)


def test_a_feed_stops_where_its_credit_ends_and_goes_on_with_more() -> None:
    listening = attached(credit_ms=50)
    listening.push_ms(100)
    assert listening.sent == listening.part(0, 50)
    listening.feed.allow(70)
    listening.feed.allow(60)  # late news takes nothing back
    assert listening.sent == listening.part(0, 70)


def test_credit_counts_from_where_the_stream_begins() -> None:
    listening = Listening()
    listening.push_ms(200)
    listening.feed.attach(100)
    listening.feed.allow(30)
    assert listening.sent == listening.part(100, 130)
    assert listening.feed.to_session_ms(30) == 130


def test_what_is_behind_is_sent_in_frames_of_the_longest_that_is_allowed() -> None:
    listening = Listening()
    listening.push_ms(1_000)
    listening.feed.attach(0)
    listening.feed.allow(5_000)
    assert [len(part) for part in listening.parts] == [MAX_FRAME_MS * BYTES_PER_MS] * 5


def test_a_segment_is_sent_to_its_end_and_then_reported_once() -> None:
    listening = attached()
    listening.feed.pause()
    listening.push_ms(100)
    ends: list[int] = []
    listening.feed.resume(40)
    listening.feed.stop_at(120, lambda: ends.append(len(listening.sent)))
    assert listening.sent == listening.part(40, 100)
    assert ends == []
    listening.push_ms(100)
    assert listening.sent == listening.part(40, 120)
    assert ends == [80 * BYTES_PER_MS]
    listening.push_ms(100)
    assert len(ends) == 1


def test_an_end_that_was_already_passed_is_reported_at_once() -> None:
    listening = attached()
    listening.push_ms(100)
    ends: list[bool] = []
    listening.feed.stop_at(60, lambda: ends.append(True))
    assert ends == [True]
    listening.push_ms(20)
    assert listening.sent == listening.part(0, 100)


def test_the_end_of_a_segment_may_start_the_next_one() -> None:
    listening = attached(credit_ms=0)
    listening.push_ms(200)
    listening.feed.stop_at(110, lambda: listening.feed.resume(150))
    listening.feed.allow(1_000)
    assert listening.sent == listening.part(0, 110) + listening.part(150, 200)


def test_a_segment_sends_nothing_twice_to_the_same_stream() -> None:
    listening = attached()
    listening.push_ms(100)
    listening.feed.stop_at(100, lambda: None)
    listening.feed.resume(20)
    listening.push_ms(20)
    assert listening.sent == listening.part(0, 120)


def test_a_stream_counts_and_is_credited_only_what_it_was_sent() -> None:
    listening = attached(credit_ms=50)
    listening.push_ms(20)
    listening.feed.stop_at(20, lambda: None)
    listening.push_ms(1_000)
    listening.feed.resume(1_000)
    assert listening.sent == listening.part(0, 20) + listening.part(1_000, 1_020)
    listening.push_ms(20)
    assert listening.sent == listening.part(0, 20) + listening.part(1_000, 1_030)
    assert listening.feed.to_session_ms(25) == 1_005


def test_a_further_bound_holds_what_credit_would_allow() -> None:
    listening = attached()
    listening.feed.limit = lambda: 30 * BYTES_PER_MS
    listening.push_ms(100)
    assert listening.sent == listening.part(0, 30)
    listening.feed.limit = lambda: 60 * BYTES_PER_MS
    listening.feed.pump()
    assert listening.sent == listening.part(0, 60)


def test_a_new_stream_is_fed_the_same_bytes_again() -> None:
    listening = attached()
    listening.feed.keep(300)
    listening.push_ms(5_000)
    listening.parts.clear()
    listening.feed.attach(300)
    listening.feed.allow(100_000)
    assert listening.sent == listening.part(300, 5_000)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.integers(1, 700), st.just("credit"), st.just("lose")), max_size=60),
    st.integers(1, 200),
)
def test_however_audio_and_credit_come_a_stream_is_sent_every_byte_once_and_in_order(
    events: list[int | str], credit_ms: int
) -> None:
    listening = attached(credit_ms=0)
    allowed_ms = 0
    for event in events:
        if isinstance(event, int):  # a frame of so many samples
            listening.push(samples(len(listening.pushed) // 2, event))
        elif event == "credit":
            allowed_ms += credit_ms
            listening.feed.allow(allowed_ms)
        else:
            listening.parts.clear()
            allowed_ms = 0
            listening.feed.attach(0)
        assert listening.sent == listening.part(0, allowed_ms)
    listening.feed.allow(1_000_000)
    assert listening.sent == listening.pushed


# --- what is kept -----------------------------------------------------------------------------------------------------


def test_what_nobody_needs_is_dropped_but_for_what_speech_may_begin_with() -> None:
    listening = attached()
    other = listening.audio.feed(lambda _: None)  # never attached: a stt without speech
    listening.push_ms(20_000)
    for feed in (listening.feed, other):
        feed.attach(0)
        start_ms = feed.cursor / BYTES_PER_MS
        assert 20_000 - KEPT_MS - TRIM_STEP_MS <= start_ms <= 20_000 - KEPT_MS


def test_speech_that_a_vad_far_behind_reports_is_still_there_with_its_beginning() -> None:
    listening = attached()
    stt = listening.audio.feed(lambda _: None)
    listening.push_ms(20_000)
    start_ms = 20_000 - NODE_AHEAD_MS - 500 - PREROLL_MS  # vad's longest `min_speech_ms` is 500
    stt.resume(start_ms)
    assert stt.cursor == start_ms * BYTES_PER_MS


def test_a_segment_is_kept_until_it_is_not_wanted_any_more() -> None:
    listening = attached()
    listening.feed.keep(500)
    listening.push_ms(20_000)
    assert listening.audio.read(500 * BYTES_PER_MS, 600 * BYTES_PER_MS) == listening.part(500, 600)
    listening.feed.keep(None)
    listening.push_ms(20)
    assert listening.audio.clamp(0) > 500 * BYTES_PER_MS


def test_what_was_not_sent_yet_is_kept_for_a_stream_that_is_slow() -> None:
    listening = attached(credit_ms=100)
    listening.push_ms(20_000)
    listening.feed.allow(30_000)
    assert listening.sent == listening.pushed


@pytest.mark.parametrize("credit_ms", [100, 1_000_000])
def test_a_segment_that_never_ends_is_kept_to_a_bound_and_positions_stay_true(credit_ms: int) -> None:
    listening = attached(credit_ms)
    listening.feed.keep(0)
    listening.push_ms(MAX_KEPT_MS + 30_000)
    audio = listening.audio
    assert audio.end - audio.clamp(0) <= MAX_KEPT_MS * BYTES_PER_MS
    assert audio.end_ms == MAX_KEPT_MS + 30_000
    sent_ms = len(listening.sent) / BYTES_PER_MS
    assert listening.feed.to_session_ms(sent_ms) == listening.feed.cursor / BYTES_PER_MS
    listening.parts.clear()
    listening.feed.attach(0)
    listening.feed.allow(10)
    start = audio.clamp(0)
    assert listening.sent == listening.pushed[start : start + 10 * BYTES_PER_MS]


# --- rates ------------------------------------------------------------------------------------------------------------


def tone(rate: int, duration_ms: int, frequency: float = 440.0) -> bytes:
    at = np.arange(rate * duration_ms // 1000) / rate
    return (np.sin(2 * np.pi * frequency * at) * 10_000).astype("<i2").tobytes()


# What soxr holds back at most of a rate, as measured with it: ever more samples the lower the rate.
HELD_MS = {8_000: 120, 11_025: 90, 16_000: 0, 24_000: 45, 44_100: 45, 48_000: 45}


@pytest.mark.parametrize("rate", HELD_MS)
@pytest.mark.parametrize("frame", [160, 333, 1_764])
def test_positions_do_not_drift_over_a_minute_of_any_rate(rate: int, frame: int) -> None:
    audio = InputAudio(rate, RATE)
    pcm = tone(rate, 1_000) * 60
    behind_ms = []
    for at in range(0, len(pcm), frame * 2):
        audio.push(pcm[at : at + frame * 2])
        behind_ms.append(min(at + frame * 2, len(pcm)) / 2 * 1000 / rate - audio.end_ms)
    assert min(behind_ms) >= -0.1
    assert max(behind_ms) <= HELD_MS[rate] + frame * 1000 / rate
    third = len(behind_ms) // 3
    assert np.mean(behind_ms[:third]) == pytest.approx(np.mean(behind_ms[-third:]), abs=25)


@pytest.mark.parametrize("rate", [8_000, 44_100, 48_000])
def test_sound_is_where_it_was_after_resampling(rate: int) -> None:
    listening = Listening(rate)
    listening.feed.attach(0)
    listening.feed.allow(10_000)
    pcm = bytes(rate) + tone(rate, 500) + bytes(rate)  # silence, sound and silence of half a second each
    for at in range(0, len(pcm), 2 * 333):
        listening.push(pcm[at : at + 2 * 333])
    heard = np.abs(np.frombuffer(listening.sent, dtype="<i2").astype(int)) > 2_000
    first, last = np.flatnonzero(heard)[[0, -1]]
    assert first / 16 == pytest.approx(500, abs=5)
    assert last / 16 == pytest.approx(1_000, abs=5)
