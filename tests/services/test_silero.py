"""The Silero engine: the numpy forward pass against recorded outputs of ONNX Runtime, and against real speech."""

from __future__ import annotations

import asyncio
import logging
import random
import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from protocol.errors import EngineError, EngineUnavailable, OptionError
from services.engine import VadWindow
from services.runtime.loading import engines_of
from services.vad.segmenter import Segmenter
from services.vad.silero import VAD, WEIGHTS, Engine, SileroStream
from services.vad.silero_network import MAX_BATCH, WINDOW

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = Path(__file__).with_name("data") / "silero_reference.npz"  # made by scripts/export_silero.py
EXAMPLES = sorted(ROOT.glob("examples/audio/*.wav"))
TOLERANCE = 1e-5
WINDOW_MS = 32

Array = NDArray[np.float32]


@pytest.fixture(scope="module")
def engine() -> Engine:
    loaded = Engine()
    asyncio.run(loaded.load(Engine.default_slots))
    return loaded


@pytest.fixture(scope="module")
def reference() -> dict[str, Array]:
    """`windows` (streams, n, 512); `probabilities` (streams, n) and `states` (streams, 320) of the original."""
    with np.load(REFERENCE) as arrays:
        windows = (arrays["pcm"] / np.float32(32768)).reshape(len(arrays["pcm"]), -1, WINDOW)
        return {"windows": windows, "probabilities": arrays["probabilities"], "states": arrays["states"]}


def listen(engine: Engine, samples: Array) -> list[float]:
    """The probabilities of one stream that is alone, shape of samples (n * 512 or a little more,)."""
    stream = engine.open(VAD())
    windows = samples[: len(samples) // WINDOW * WINDOW].reshape(-1, WINDOW)
    return [engine.process([VadWindow(stream, window)])[0] for window in windows]


def spoken(probabilities: list[float]) -> list[tuple[str, int]]:
    """Starts and ends that the segmenter makes of them."""
    segmenter = Segmenter(VAD(), WINDOW_MS)
    found = [event for probability in probabilities for event in segmenter.feed(probability)]
    return [(event.event, event.at_ms) for event in found if event.event != "silence"]


def test_each_stream_alone_gets_the_probabilities_of_the_original(engine: Engine, reference: dict[str, Array]) -> None:
    for windows, expected in zip(reference["windows"], reference["probabilities"], strict=True):
        assert np.abs(listen(engine, windows.ravel()) - expected).max() < TOLERANCE


def test_the_reference_covers_speech_and_silence(reference: dict[str, Array]) -> None:
    assert reference["probabilities"].min() < 0.01
    assert reference["probabilities"].max() > 0.99
    assert ((reference["probabilities"] > 0.3) & (reference["probabilities"] < 0.7)).sum() >= 5


@pytest.mark.parametrize("copies", [1, 8, 30])  # 6, 48 and 180 streams: below and above what is run at once
def test_streams_that_start_at_different_times_do_not_touch_one_another(
    engine: Engine, reference: dict[str, Array], copies: int
) -> None:
    order = random.Random(copies)
    clips = [index % len(reference["windows"]) for index in range(copies * len(reference["windows"]))]
    streams = [engine.open(VAD()) for _ in clips]
    heard: list[list[float]] = [[] for _ in clips]
    length = reference["windows"].shape[1]
    while unfinished := [index for index in range(len(clips)) if len(heard[index]) < length]:
        chosen = order.sample(unfinished, order.randint(max(1, len(unfinished) * 2 // 3), len(unfinished)))
        call = [VadWindow(streams[index], reference["windows"][clips[index], len(heard[index])]) for index in chosen]
        for index, probability in zip(chosen, engine.process(call), strict=True):
            heard[index].append(probability)
    assert np.abs(np.array(heard) - reference["probabilities"][clips]).max() < TOLERANCE
    states = np.stack([stream.state for stream in streams])
    assert np.abs(states - reference["states"][clips]).max() < 10 * TOLERANCE  # c is not bounded by 1


@pytest.mark.parametrize("size", [1, 2, 3, MAX_BATCH - 1, MAX_BATCH, MAX_BATCH + 1])
def test_a_batch_of_any_size_gives_what_each_window_gives_alone(
    engine: Engine, reference: dict[str, Array], size: int
) -> None:
    samples = [reference["windows"][index % 4, 8 + index % 20] for index in range(size)]
    together = engine.process([VadWindow(engine.open(VAD()), window) for window in samples])
    alone = [engine.process([VadWindow(engine.open(VAD()), window)])[0] for window in samples]
    assert np.abs(np.array(together) - alone).max() < TOLERANCE


def test_no_windows_are_no_work(engine: Engine) -> None:
    assert engine.process([]) == []


def test_a_stream_opened_later_knows_nothing_of_those_before(engine: Engine, reference: dict[str, Array]) -> None:
    first = listen(engine, reference["windows"][0].ravel())
    assert listen(engine, reference["windows"][0].ravel()) == first


def test_the_caller_may_reuse_its_samples(engine: Engine, reference: dict[str, Array]) -> None:
    stream, samples = engine.open(VAD()), np.empty(WINDOW, np.float32)
    heard = []
    for window in reference["windows"][1]:
        samples[:] = window
        heard.append(engine.process([VadWindow(stream, samples)])[0])
        samples[:] = 1
    assert np.abs(heard - reference["probabilities"][1]).max() < TOLERANCE


@pytest.mark.parametrize("level", [0.0, 1e-4, 0.01, 0.1, 0.5])
def test_silence_and_white_noise_are_not_speech(engine: Engine, level: float) -> None:
    noise = np.random.default_rng(7).normal(0, 1, 3 * 16_000).clip(-2, 2).astype(np.float32) * np.float32(level)
    assert spoken(listen(engine, noise)) == []


def test_a_tone_is_not_speech(engine: Engine) -> None:
    tone = np.sin(np.arange(3 * 16_000) * 2 * np.pi * 440 / 16_000).astype(np.float32) * np.float32(0.3)
    assert spoken(listen(engine, tone)) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_utterance_is_one_run_of_speech_from_its_beginning_to_its_end(engine: Engine, path: Path) -> None:
    with wave.open(str(path)) as file:
        assert file.getframerate() == 16_000
        pcm = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    loud = np.flatnonzero(np.abs(pcm.astype(np.int32)) > 1_000) / 16  # in milliseconds
    samples = np.concatenate([pcm, np.zeros(16_000, np.int16)]).astype(np.float32) / np.float32(32768)
    (start, start_ms), (end, end_ms) = spoken(listen(engine, samples))
    assert (start, end) == ("start", "end")
    assert abs(start_ms - loud[0]) < 150
    assert abs(end_ms - loud[-1]) < 250


def test_the_engine_is_found_by_its_name_and_its_helpers_are_no_engines() -> None:
    assert "silero" in engines_of("vad")
    assert not {"segmenter", "silero_network", "silero_weights", "serving"} & set(engines_of("vad"))
    assert VAD().spec().service == "vad"
    assert VAD().spec().engine == "silero"


def test_options_travel_and_wrong_ones_are_refused_by_name() -> None:
    options = VAD(activation_threshold=0.7, min_silence_ms=400)
    assert VAD.from_wire(options.spec().options) == options
    with pytest.raises(OptionError, match=r"silero\.VAD: option 'treshold'.*allowed are activation_threshold"):
        VAD.from_wire({"treshold": 0.5})


def test_weights_that_are_missing_or_damaged_are_named(tmp_path: Path) -> None:
    good = WEIGHTS.read_bytes()
    short, changed, foreign = tmp_path / "short.npz", tmp_path / "changed.npz", tmp_path / "foreign.npz"
    short.write_bytes(good[:100_000])
    changed.write_bytes(good[:100_000] + bytes(100) + good[100_100:])
    np.savez(foreign, something=np.zeros(3))
    for path in (tmp_path / "missing.npz", short, changed, foreign):
        with pytest.raises(EngineUnavailable, match=path.name):
            asyncio.run(Engine(path).load(1))


def test_an_engine_that_is_not_loaded_says_so() -> None:
    with pytest.raises(EngineError, match="before it was loaded"):
        Engine().process([VadWindow(SileroStream(), np.zeros(WINDOW, np.float32))])


@pytest.mark.parametrize(("threads", "warned"), [("1", False), ("2", True)])
def test_a_process_whose_numpy_may_use_threads_is_warned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, threads: str, warned: bool
) -> None:
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", threads)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with caplog.at_level(logging.WARNING):
        asyncio.run(Engine().load(1))
    assert ("OPENBLAS_NUM_THREADS=1" in caplog.text) is warned


def test_it_runs_without_torch_and_onnxruntime() -> None:
    code = (
        "import asyncio, sys; from services.vad.silero import Engine; asyncio.run(Engine().load(1));"
        "sys.exit(len({'torch', 'onnxruntime', 'onnx'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def test_the_licence_of_the_weights_lies_beside_them() -> None:
    assert (
        WEIGHTS.with_suffix(".LICENSE").read_text().startswith("MIT License\n\nCopyright (c) 2020-present Silero Team")
    )
