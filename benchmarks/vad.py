#!/usr/bin/env python3
"""What a 32 ms window costs in the Silero engine, by how many streams are in the call; beside ONNX Runtime.

    python benchmarks/vad.py [--wheel silero_vad-6.2.3-py3-none-any.whl] [--seconds 20] [--json]

`engine` is `Engine.process` as a vad node calls it: state of each stream in and out, forward pass. `onnx` is the
original model in ONNX Runtime (one thread, no spinning) on arrays that are ready, so it is spared the gathering; it is
measured when `--wheel` is given and onnxruntime can be imported. Both take turns in one run, so that whatever else the
machine does falls on both, and each finds the caches as the other left them: compare the ratios. Medians.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy, as in a vad node

import numpy as np

from services.engine import VadWindow
from services.vad.silero import VAD, Engine
from services.vad.silero_network import CONTEXT, WINDOW
from services.vad.silero_weights import HIDDEN

SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 200)
MODEL = "silero_vad/data/silero_vad_16k_op15.onnx"
WINDOWS_A_SECOND = 16_000 / WINDOW

Call = Callable[[], object]


@dataclass(frozen=True)
class Row:
    """Microseconds for each window in a call with `streams` windows."""

    streams: int
    engine_us: float
    onnx_us: float | None
    onnx_over_engine: float | None  # of the medians
    engine_core_percent: float  # of one core, for so many streams in real time


def load_engine() -> tuple[Engine, float]:
    """The engine, and how long it took to load: the median of five, in milliseconds."""
    times = []
    for _ in range(5):
        engine = Engine()
        begin = time.perf_counter()
        asyncio.run(engine.load(Engine.default_slots))
        times.append((time.perf_counter() - begin) * 1000)
    return engine, statistics.median(times)


def engine_call(engine: Engine, samples: np.ndarray) -> Call:
    windows = [VadWindow(engine.open(VAD()), row) for row in samples]
    return lambda: engine.process(windows)


def onnx_calls(wheel: Path | None) -> Callable[[np.ndarray], Call] | None:
    """Makes calls of the original; None if there is no wheel or no onnxruntime."""
    if wheel is None:
        return None
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        print("onnxruntime is not installed: measuring the engine alone", file=sys.stderr)
        return None
    with zipfile.ZipFile(wheel) as archive:
        model = archive.read(MODEL)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def call(samples: np.ndarray) -> Call:
        window = np.concatenate([np.zeros((len(samples), CONTEXT), np.float32), samples], axis=1)
        state = np.zeros((2, len(samples), HIDDEN), np.float32)
        inputs = {"input": window, "state": state, "sr": np.array(16_000, np.int64)}
        return lambda: session.run(None, inputs)

    return call


def medians(calls: list[Call], seconds: float) -> list[float]:
    """Microseconds for each of these, called in turn for so long."""
    times: list[list[int]] = [[] for _ in calls]
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        for call, taken in zip(calls, times, strict=True):
            begin = time.perf_counter_ns()
            call()
            taken.append(time.perf_counter_ns() - begin)
    return [statistics.median(taken) / 1000 for taken in times]


def measure(engine: Engine, onnx: Callable[[np.ndarray], Call] | None, streams: int, seconds: float) -> Row:
    samples = np.random.default_rng(streams).normal(0, 0.1, (streams, WINDOW)).astype(np.float32)
    calls = [engine_call(engine, samples)] + ([onnx(samples)] if onnx else [])
    medians(calls, seconds / 10)  # warm up
    taken = medians(calls, seconds)
    engine_us, onnx_us = taken[0] / streams, taken[1] / streams if onnx else None
    ratio = onnx_us / engine_us if onnx_us else None
    return Row(streams, engine_us, onnx_us, ratio, engine_us * streams * WINDOWS_A_SECOND / 1e4)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n\n", 1)[0])
    parser.add_argument("--wheel", type=Path, help="Silero's wheel, for the comparison")
    parser.add_argument("--seconds", type=float, default=20.0, help="for the whole run")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    arguments = parser.parse_args()
    engine, load_ms = load_engine()
    onnx = onnx_calls(arguments.wheel)
    rows = [measure(engine, onnx, streams, arguments.seconds / len(SIZES)) for streams in SIZES]
    if arguments.json:
        print(json.dumps({"load_ms": load_ms, "rows": [asdict(row) for row in rows]}))
        return
    print(f"load: {load_ms:.1f} ms\nstreams  engine us/window  onnx us/window  onnx / engine  engine, % of a core")
    for row in rows:
        compared = f"{row.onnx_us:14.1f}  {row.onnx_over_engine:13.2f}" if row.onnx_us else f"{'-':>14}  {'-':>13}"
        print(f"{row.streams:7}  {row.engine_us:16.1f}  {compared}  {row.engine_core_percent:19.1f}")


if __name__ == "__main__":
    main()
