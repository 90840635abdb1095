"""The audio format: what is spoken, how long it is, and what a frame may hold."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.audio import AudioFormat, AudioFrame
from protocol.errors import Malformed, TooLarge
from protocol.limits import MAX_FRAME_MS, MAX_INGEST_BYTES, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE

rates = st.integers(MIN_SAMPLE_RATE, MAX_SAMPLE_RATE)


@given(rate=rates, duration_ms=st.integers(0, 1_000))
def test_a_frame_has_whole_samples_and_the_length_that_was_asked_for(rate: int, duration_ms: int) -> None:
    audio = AudioFormat(rate)
    size = audio.frame_bytes(duration_ms)
    assert size % 2 == 0
    assert 0 <= duration_ms - audio.duration_ms(size) < 1000 / rate + 1e-9


@given(rate=rates)
def test_every_frame_up_to_the_longest_passes_and_one_sample_more_does_not(rate: int) -> None:
    audio = AudioFormat(rate)
    most = audio.frame_bytes(MAX_FRAME_MS)
    assert most < MAX_INGEST_BYTES
    audio.check_frame(b"", "audio")
    audio.check_frame(bytes(most), "audio")
    with pytest.raises(TooLarge, match=rf"audio\.pcm has {most + 2} bytes.*a frame may hold {MAX_FRAME_MS} ms, {most}"):
        audio.check_frame(bytes(most + 2), "audio")


def test_half_a_sample_is_malformed() -> None:
    with pytest.raises(Malformed, match=r"audio\.pcm has 3 bytes; 16-bit samples need an even number"):
        AudioFormat().check_frame(b"abc", "audio")


@pytest.mark.parametrize("rate", [MIN_SAMPLE_RATE, 11_025, 16_000, 44_100, MAX_SAMPLE_RATE])
def test_usual_rates_are_spoken(rate: int) -> None:
    AudioFormat(rate).check("input")


@pytest.mark.parametrize(
    ("audio", "problem"),
    [
        (AudioFormat(MIN_SAMPLE_RATE - 1), r"input\.sample_rate is 7999 Hz; allowed are 8000 to 48000 Hz"),
        (AudioFormat(MAX_SAMPLE_RATE + 1), r"input\.sample_rate is 48001 Hz"),
        (AudioFormat(-1), r"input\.sample_rate is -1 Hz"),
        (AudioFormat(channels=2), r"input\.channels is 2; only 1 \(mono\)"),
        (AudioFormat(encoding="opus"), r"input\.encoding is 'opus'; only 'pcm_s16le'"),
    ],
)
def test_what_is_not_spoken_is_refused_by_name(audio: AudioFormat, problem: str) -> None:
    with pytest.raises(Malformed, match=problem):
        audio.check("input")


def test_a_frame_knows_its_length() -> None:
    assert AudioFrame(bytes(640), 16_000).duration_ms == 20.0
    assert AudioFrame(b"", 16_000).duration_ms == 0.0
