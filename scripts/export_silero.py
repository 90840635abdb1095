#!/usr/bin/env python3
"""Takes the weights, the licence and the reference outputs of the Silero VAD out of its wheel.

    pip download --no-deps silero-vad==6.2.3
    python scripts/export_silero.py silero_vad-6.2.3-py3-none-any.whl

Writes services/vad/silero_16k.npz, services/vad/silero_16k.LICENSE and tests/services/data/silero_reference.npz, then
compares the numpy forward pass with ONNX Runtime over everything in examples/audio. Needs onnxruntime.

Of the model files in the wheel, only the one below has the weights meant: those in silero_vad_16k.safetensors and
silero_vad_half.onnx give other probabilities. Its digest is checked, so that another release is a decision.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import sys
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy

import numpy as np
import onnxruntime  # type: ignore[import-untyped]
from numpy.typing import NDArray

from services.vad.silero_network import CONTEXT, STATE, WINDOW, Network
from services.vad.silero_weights import HIDDEN, Weights

ROOT = Path(__file__).resolve().parent.parent
MODEL = "silero_vad/data/silero_vad_16k_op15.onnx"
MODEL_SHA256 = "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49"
LICENSE = "silero_vad-6.2.3.dist-info/licenses/LICENSE"
WEIGHTS = ROOT / "services/vad/silero_16k.npz"
REFERENCE = ROOT / "tests/services/data/silero_reference.npz"
REFERENCE_WINDOWS = 36  # of each stream: 1.15 s
TOLERANCE = 1e-5
INT16 = np.float32(1 / 32768)

Array = NDArray[np.float32]
Samples = NDArray[np.int16]

# The few fields of onnx.proto that are needed: https://github.com/onnx/onnx/blob/main/onnx/onnx.proto
MODEL_GRAPH, GRAPH_INITIALIZER = 7, 5
TENSOR_DIMS, TENSOR_TYPE, TENSOR_NAME, TENSOR_RAW = 1, 2, 8, 9
TENSOR_TYPE_FLOAT = 1


def varint(data: memoryview, at: int) -> tuple[int, int]:
    """The number at `at`, seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


def fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a protobuf message: number, and value (an int, or the bytes of what has a length)."""
    at = 0
    while at < len(data):
        key, at = varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = varint(data, at)
            yield key >> 3, value
            continue
        if kind == 2:
            size, at = varint(data, at)
        else:
            size = {1: 8, 5: 4}[kind]
        yield key >> 3, data[at : at + size]
        at += size


def initializers(model: bytes) -> dict[str, Array]:
    """The float tensors of an ONNX file, by name."""
    graphs = [value for number, value in fields(memoryview(model)) if number == MODEL_GRAPH]
    tensors: dict[str, Array] = {}
    for graph in graphs:
        assert isinstance(graph, memoryview)
        for number, value in fields(graph):
            if number == GRAPH_INITIALIZER:
                assert isinstance(value, memoryview)
                tensors.update(tensor(value))
    return tensors


def tensor(data: memoryview) -> dict[str, Array]:
    """One tensor as `{name: array}`; nothing if its elements are no float32."""
    shape: list[int] = []
    name, kind, raw = "", 0, memoryview(b"")
    for number, value in fields(data):
        if number == TENSOR_DIMS:
            shape += [value] if isinstance(value, int) else packed(value)
        elif number == TENSOR_TYPE and isinstance(value, int):
            kind = value
        elif number == TENSOR_NAME and isinstance(value, memoryview):
            name = bytes(value).decode()
        elif number == TENSOR_RAW and isinstance(value, memoryview):
            raw = value
    return {name: np.frombuffer(raw, "<f4").reshape(shape)} if kind == TENSOR_TYPE_FLOAT else {}


def packed(data: memoryview) -> list[int]:
    """Several numbers in one field."""
    at, values = 0, []
    while at < len(data):
        value, at = varint(data, at)
        values.append(value)
    return values


class Original:
    """The model in ONNX Runtime, one stream."""

    def __init__(self, model: bytes) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(self, pcm: Samples) -> tuple[Array, Array]:
        """Probability of each window, shape (n,); and the last state as our network keeps it, shape (320,)."""
        samples = pcm * INT16
        state, context = np.zeros((2, 1, HIDDEN), np.float32), np.zeros(CONTEXT, np.float32)
        probabilities = np.zeros(len(pcm) // WINDOW, np.float32)
        for index in range(len(probabilities)):
            window = np.concatenate([context, samples[index * WINDOW : (index + 1) * WINDOW]])
            inputs = {"input": window[None], "state": state, "sr": np.array(16_000, np.int64)}
            output, state = self._session.run(None, inputs)
            probabilities[index], context = output[0, 0], window[-CONTEXT:]
        return probabilities, np.concatenate([context, state.ravel()])


def ours(network: Network, pcm: Samples) -> Array:
    """The same in numpy."""
    batch, state = network.batch(1), np.zeros(STATE, np.float32)
    probabilities = np.zeros(len(pcm) // WINDOW, np.float32)
    for index in range(len(probabilities)):
        batch.samples[0] = pcm[index * WINDOW : (index + 1) * WINDOW] * INT16
        batch.state[0] = state
        probabilities[index] = batch.run()[0]
        state = batch.state[0].copy()
    return probabilities


def read_wave(path: Path) -> Samples:
    """A 16 kHz mono file."""
    with wave.open(str(path)) as file:
        if (file.getframerate(), file.getnchannels(), file.getsampwidth()) != (16_000, 1, 2):
            sys.exit(f"{path}: not 16 kHz, mono, 16 bit")
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.int16)


def reference_streams(speech: list[Samples]) -> Samples:
    """Unlike streams, shape (streams, samples): speech, too loud speech, noisy speech, a tone, noise."""
    length = REFERENCE_WINDOWS * WINDOW
    noise = np.random.default_rng(1).normal(0, 600, length)
    tone = 8_000 * np.sin(np.arange(length) * 2 * np.pi * 440 / 16_000)
    first, second, third = (pcm[:length] for pcm in speech[:3])
    streams = [first, second, np.clip(third * 12.0, -32_768, 32_767), first + noise, tone, noise]
    return np.stack([np.round(stream) for stream in streams]).astype(np.int16)


def write_reference(original: Original, pcm: Samples) -> None:
    """What the original answers to each stream, and the state that it ends in."""
    answers = [original.run(stream) for stream in pcm]
    probabilities, states = (np.stack(each) for each in zip(*answers, strict=True))
    REFERENCE.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(REFERENCE, pcm=pcm, probabilities=probabilities, states=states)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n", 1)[0])
    parser.add_argument("wheel", type=Path, help="silero_vad-6.2.3-py3-none-any.whl")
    with zipfile.ZipFile(parser.parse_args().wheel) as wheel:
        model, licence = wheel.read(MODEL), wheel.read(LICENSE)
    if (digest := hashlib.sha256(model).hexdigest()) != MODEL_SHA256:
        sys.exit(f"{MODEL} has the digest {digest}, not {MODEL_SHA256}: another release than the one that was checked")
    WEIGHTS.with_suffix(".LICENSE").write_bytes(licence.rstrip() + b"\n")
    weights: dict[str, Any] = {**initializers(model)}
    np.savez_compressed(WEIGHTS, **weights)

    original, speech = Original(model), [read_wave(path) for path in sorted(ROOT.glob("examples/audio/*.wav"))]
    pcm = reference_streams(speech)
    write_reference(original, pcm)
    for path in (WEIGHTS, REFERENCE):
        print(f"{path.relative_to(ROOT)}: {path.stat().st_size:,} bytes")

    network = Network(Weights.load(WEIGHTS))
    worst = max(float(np.abs(ours(network, clip) - original.run(clip)[0]).max()) for clip in [*pcm, *speech])
    print(f"largest difference from ONNX Runtime {onnxruntime.__version__}: {worst:.1e} (allowed: {TOLERANCE:.0e})")
    if worst > TOLERANCE:
        sys.exit("the forward pass does not compute what the model does")


if __name__ == "__main__":
    main()
