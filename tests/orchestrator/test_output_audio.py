"""The agent's audio on its way out: rates, frames, and that nothing of it is lost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchestrator.output_audio import OutputAudio
from protocol.audio import AudioFormat, AudioFrame


def tone(rate: int, count: int, first: int = 0) -> bytes:
    at = np.arange(first, first + count) / rate
    return (np.sin(2 * np.pi * 440 * at) * 10_000).astype("<i2").tobytes()


def sent(client_rate: int, frames: list[AudioFrame]) -> list[bytes]:
    output = OutputAudio(AudioFormat(client_rate))
    return [pcm for frame in frames for pcm in output.push(frame)] + output.flush()


def test_audio_of_the_clients_rate_passes_unchanged_in_frames_of_20_ms() -> None:
    pcm = tone(16_000, 1_234)
    frames = sent(16_000, [AudioFrame(pcm[:1_000], 16_000), AudioFrame(pcm[1_000:], 16_000)])
    assert b"".join(frames) == pcm
    assert [len(frame) for frame in frames] == [640, 640, 640, 2 * 1_234 - 3 * 640]


@pytest.mark.parametrize("client_rate", [8_000, 11_025, 16_000, 24_000, 44_100, 48_000])
@pytest.mark.parametrize("rate", [8_000, 16_000, 22_050, 24_000, 48_000])
def test_its_length_and_sound_are_kept_at_every_rate(client_rate: int, rate: int) -> None:
    frames = sent(client_rate, [AudioFrame(tone(rate, 333, at), rate) for at in range(0, rate, 333)])
    whole = AudioFormat(client_rate).frame_bytes()
    assert all(len(frame) == whole for frame in frames[:-1])
    assert 0 < len(frames[-1]) <= whole
    out = np.frombuffer(b"".join(frames), dtype="<i2").astype(float)
    assert len(out) / client_rate == pytest.approx(-(-rate // 333) * 333 / rate, abs=0.001)
    middle = out[client_rate // 4 : client_rate // 2]
    assert np.argmax(np.abs(np.fft.rfft(middle))) * client_rate / len(middle) == pytest.approx(440, abs=4)
    assert np.max(np.abs(middle)) == pytest.approx(10_000, rel=0.05)


def test_loud_audio_is_clipped_and_does_not_wrap_around() -> None:
    square = np.repeat(np.tile([32_767, -32_768], 50), 40).astype("<i2").tobytes()
    out = np.frombuffer(b"".join(sent(16_000, [AudioFrame(square, 22_050)])), dtype="<i2").astype(int)
    assert np.max(np.abs(out)) >= 32_767
    plateau = out[len(out) // 2 - 400 : len(out) // 2 + 400]
    crossings = np.count_nonzero(np.diff(np.sign(plateau)))
    assert crossings <= 800 / (40 * 16_000 / 22_050) + 2


def test_a_rate_that_changes_midway_loses_nothing_of_either_part() -> None:
    frames = sent(
        16_000,
        [
            AudioFrame(tone(22_050, 22_050), 22_050),
            AudioFrame(tone(16_000, 8_000), 16_000),
            AudioFrame(tone(48_000, 24_000), 48_000),
        ],
    )
    assert all(len(frame) == 640 for frame in frames[:-1])
    assert len(b"".join(frames)) / 2 == pytest.approx(32_000, abs=2)


def test_frames_come_while_the_audio_is_made_and_not_only_at_its_end() -> None:
    output = OutputAudio(AudioFormat(16_000))
    early = [pcm for at in range(0, 22_050, 441) for pcm in output.push(AudioFrame(tone(22_050, 441, at), 22_050))]
    assert len(early) * 20 >= 950


def test_nothing_in_nothing_out() -> None:
    output = OutputAudio(AudioFormat(16_000))
    assert output.flush() == []
    assert output.push(AudioFrame(b"", 22_050)) == []
    assert output.push(AudioFrame(b"", 16_000)) == []
    assert output.flush() == output.flush() == []


def test_audio_may_go_on_after_a_flush() -> None:
    output = OutputAudio(AudioFormat(16_000))
    for _ in range(2):
        frames = output.push(AudioFrame(tone(24_000, 2_400), 24_000)) + output.flush()
        assert len(b"".join(frames)) / 2 == pytest.approx(1_600, abs=1)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.sampled_from([8_000, 16_000, 22_050, 48_000]), st.integers(0, 3_000)), max_size=12))
def test_whatever_frames_come_their_length_is_kept(parts: list[tuple[int, int]]) -> None:
    frames = sent(16_000, [AudioFrame(tone(rate, count), rate) for rate, count in parts])
    expected = sum(count * 16_000 / rate for rate, count in parts)
    assert len(b"".join(frames)) / 2 == pytest.approx(expected, abs=len(parts) + 1)
    assert all(len(frame) == 640 for frame in frames[:-1])
