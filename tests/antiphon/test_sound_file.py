"""Sound files: many formats, rates and channel counts become 16-bit mono PCM; what is no sound is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from numpy.typing import NDArray

from antiphon.exit_codes import UnreadableInput
from antiphon.sound_file import SoundFile, session_rate

SECONDS = 0.5


def tone(rate: int, channels: int = 1, hertz: float = 440.0) -> NDArray[np.float64]:
    wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(int(rate * SECONDS)) / rate)
    return np.repeat(wave[:, None], channels, axis=1)


def samples(file: SoundFile, rate: int) -> NDArray[np.float64]:
    pcm = b"".join(file.blocks(rate))
    assert len(pcm) % 2 == 0
    return np.frombuffer(pcm, dtype="<i2") / 32_768


@pytest.mark.parametrize(
    ("ending", "subtype"),
    [
        ("wav", "PCM_U8"),
        ("wav", "PCM_16"),
        ("wav", "PCM_24"),
        ("wav", "FLOAT"),
        ("wav", "ULAW"),
        ("flac", "PCM_16"),
        ("aiff", "PCM_16"),
        ("au", "PCM_16"),
        ("ogg", "VORBIS"),
        ("mp3", "MPEG_LAYER_III"),
    ],
)
def test_every_common_format_is_read(tmp_path: Path, ending: str, subtype: str) -> None:
    path = tmp_path / f"tone.{ending}"
    soundfile.write(str(path), tone(16_000), 16_000, subtype=subtype)
    file = SoundFile(path)
    assert file.rate == 16_000
    heard = samples(file, 16_000)
    assert len(heard) == pytest.approx(8_000, abs=1_200)  # mp3 pads
    assert np.abs(heard).max() == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("channels", [1, 2, 6])
def test_any_rate_and_number_of_channels_becomes_mono_at_the_rate_of_the_session(
    tmp_path: Path, rate: int, channels: int
) -> None:
    path = tmp_path / "tone.wav"
    soundfile.write(str(path), tone(rate, channels), rate)
    heard = samples(SoundFile(path), 16_000)
    assert len(heard) == pytest.approx(16_000 * SECONDS, abs=2)
    spectrum = np.abs(np.fft.rfft(heard))
    assert spectrum.argmax() / SECONDS == pytest.approx(440, abs=2)


def test_samples_at_their_own_rate_are_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "exact.wav"
    written = np.array([0, 1, -1, 32_767, -32_768, 12_345], dtype=np.int16)
    soundfile.write(str(path), written, 16_000)
    assert b"".join(SoundFile(path).blocks(16_000)) == written.astype("<i2").tobytes()


def test_channels_are_mixed(tmp_path: Path) -> None:
    path = tmp_path / "stereo.wav"
    soundfile.write(str(path), np.array([[0.5, 0.0], [0.0, -0.5]]), 16_000)
    assert samples(SoundFile(path), 16_000) == pytest.approx([0.25, -0.25], abs=1e-4)


def test_floats_beyond_full_scale_and_those_that_are_no_number_do_not_wrap(tmp_path: Path) -> None:
    path = tmp_path / "loud.wav"
    soundfile.write(str(path), np.array([2.0, -2.0, np.nan]), 16_000, subtype="FLOAT")
    assert np.frombuffer(b"".join(SoundFile(path).blocks(16_000)), "<i2").tolist() == [32_767, -32_768, 0]


def test_a_long_file_comes_in_small_blocks(tmp_path: Path) -> None:
    path = tmp_path / "long.wav"
    soundfile.write(str(path), np.zeros(60 * 16_000), 16_000)
    sizes = {len(block) for block in SoundFile(path).blocks(16_000)}
    assert sizes == {16_000 * 2 * 200 // 1000}


def test_a_file_that_ends_early_gives_what_it_has_and_then_says_that_it_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "cut.flac"
    soundfile.write(str(path), np.random.default_rng(1).normal(0, 0.1, 80_000), 16_000)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    blocks = SoundFile(path).blocks(16_000)
    assert len(next(blocks)) == 6_400
    with pytest.raises(UnreadableInput, match="is damaged"):
        list(blocks)


@pytest.mark.parametrize(
    ("name", "why"),
    [("missing", "no such file"), ("empty", "is empty"), ("text", "no sound file"), ("folder", "is a directory")],
)
def test_what_is_no_sound_is_refused_with_the_reason(tmp_path: Path, name: str, why: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "text").write_text("words " * 100)
    (tmp_path / "folder").mkdir()
    with pytest.raises(UnreadableInput, match=why):
        SoundFile(tmp_path / name)


def test_a_header_without_samples_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none.wav"
    soundfile.write(str(path), np.zeros(0), 16_000)
    with pytest.raises(UnreadableInput, match="no samples"):
        SoundFile(path)


@pytest.mark.parametrize(
    ("rates", "expected"),
    [([44_100], 44_100), ([8_000, 8_000], 8_000), ([8_000, 48_000], 16_000), ([96_000], 16_000), ([4_000], 16_000)],
)
def test_a_session_has_the_rate_of_its_files_if_they_agree_and_it_may_travel(
    tmp_path: Path, rates: list[int], expected: int
) -> None:
    files = []
    for number, rate in enumerate(rates):
        path = tmp_path / f"{number}.wav"
        soundfile.write(str(path), tone(rate), rate)
        files.append(SoundFile(path))
    assert session_rate(files) == expected
