"""Silero VAD: the engine of vad nodes, on numpy alone. `silero.VAD(…)` is what users write.

The network is in `silero_network.py`, what makes events of its probabilities in `segmenter.py`. This room holds the
state of streams and puts windows of different streams into one forward pass.

Model: silero-vad 6.2.3, `silero_vad_16k_op15.onnx`, MIT licence (`silero_16k.LICENSE`), no download.
"""

from __future__ import annotations

import logging
import os
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, cast

import numpy as np

from protocol.errors import EngineError, EngineUnavailable
from services.engine import VadEngine, VadStream, VadWindow
from services.vad.segmenter import SpeechOptions
from services.vad.silero_network import MAX_BATCH, STATE, WINDOW, Batch, Network
from services.vad.silero_weights import Weights

log = logging.getLogger(__name__)

WEIGHTS = Path(__file__).with_name("silero_16k.npz")


class VAD(SpeechOptions, frozen=True, kw_only=True):
    """Silero VAD. Its options are those of `SpeechOptions`; a probability is given for each 32 ms."""

    engine: ClassVar[str] = "silero"


class SileroStream(VadStream):
    """What the network remembers of one conversation. Dropped with the object; nothing has to be closed."""

    window = WINDOW

    def __init__(self) -> None:
        self.state = np.zeros(STATE, np.float32)


class Engine(VadEngine[VAD]):
    """The network, for all streams of a node. Belongs to one thread."""

    options_type = VAD
    sample_rates = (16_000,)
    # 200 streams have 6,250 windows a second: 12 % of a core when they come together, 48 % if each came alone (77 us).
    # The rest is for moving their 10,000 frames a second.
    default_slots = 200

    def __init__(self, weights: Path = WEIGHTS) -> None:
        self._path = weights
        self._network: Network | None = None

    async def load(self, slots: int) -> None:
        """Read the weights and run twice: 15 ms. Raises `EngineUnavailable` if the file is missing or damaged."""
        try:
            self._network = Network(Weights.load(self._path))
        except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
            raise EngineUnavailable(
                f"the weights of silero cannot be read from {self._path} ({type(error).__name__}: {error}); "
                "the installation is damaged: pip install --force-reinstall antiphon"
            ) from error
        _check_threads()
        for size in (1, min(max(slots, 1), MAX_BATCH)):
            self.process([VadWindow(SileroStream(), np.zeros(WINDOW, np.float32))] * size)

    def open(self, options: VAD) -> SileroStream:
        """A new stream. The options do not change probabilities, only what is made of them."""
        return SileroStream()

    def process(self, windows: Sequence[VadWindow]) -> list[float]:
        """Probability of speech in each window, in order; at most one window of each stream.

        Blocks for 77 us with one window, and for 17 to 20 us each with sixteen and more (`benchmarks/vad.py`).
        """
        network = self._network
        if network is None:
            raise EngineError("silero was asked before it was loaded", category="fatal")
        probabilities: list[float] = []
        for first in range(0, len(windows), MAX_BATCH):
            part = windows[first : first + MAX_BATCH]
            probabilities += _run(network.batch(len(part)), part)
        return probabilities


def _check_threads() -> None:
    """Warn if numpy may divide its products over threads, which wait for one another longer than the work takes."""
    if "1" not in (os.environ.get("OPENBLAS_NUM_THREADS"), os.environ.get("OMP_NUM_THREADS")):
        log.warning(
            "numpy may use several threads, which makes silero slower, on a busy machine a hundred times: "
            "set OPENBLAS_NUM_THREADS=1 before the process starts"
        )


def _run(batch: Batch, windows: Sequence[VadWindow]) -> list[float]:
    streams = [cast(SileroStream, window.stream) for window in windows]
    np.concatenate([stream.state for stream in streams], out=batch.flat_state)
    for place, window in zip(batch.samples, windows, strict=True):
        place[:] = window.samples
    probabilities = batch.run()
    for stream, state in zip(streams, batch.state, strict=True):
        stream.state[:] = state
    return [float(probability) for probability in probabilities]
