"""The network of Silero VAD (16 kHz) as a forward pass in numpy, over a batch of streams at once.

Why not ONNX Runtime: this is faster (`benchmarks/vad.py` compares them), and spares 78 MB of installation. The weights
are those of `silero_vad_16k_op15.onnx`, unchanged; `scripts/export_silero.py` takes them out of Silero's wheel and
checks this pass against ONNX Runtime. This room knows arrays only: neither streams nor options nor events.

    576 samples ─▶ short-time Fourier transform, magnitudes (4, 129) ─▶ four convolutions over time, ReLU after each:
    (4, 128) (2, 64) (1, 64) (1, 128) ─▶ LSTM (128) ─▶ ReLU ─▶ one output, sigmoid

Three things are arranged differently from the original, each exact up to rounding (the probabilities are within 2e-6 of
ONNX Runtime's; the tests allow 1e-5):

- The transform's window is symmetric. Adding and subtracting mirrored samples first halves its multiplications.
- A convolution is one matrix product for each of its few outputs, over exactly the inputs that exist.
- sigmoid(x) = (1 + tanh(x / 2)) / 2, so that one tanh serves all gates and nothing can overflow.

Folding each bias into the layer after it was tried: it saves three calls, but large numbers cancel, and probabilities
were wrong by up to 8e-4.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from services.vad.silero_weights import BINS, HALF, HIDDEN, HOP, KERNEL, Array, Convolution, Weights

WINDOW = 512  # samples of a window: 32 ms at 16 kHz
CONTEXT = 64  # samples of the window before, put in front of it
STATE = CONTEXT + 2 * HIDDEN  # what a stream keeps between windows: context, then h, then c
MAX_BATCH = 64  # more gain nothing (13.6 us each at 64, 13.5 at 128), and the event loop waits for a call to end

_FRAME = 2 * HOP  # samples of one Fourier transform
_FRAMES = 4
_MIRRORED = 64  # samples that are reflected at the end of the window
_ZERO = np.float32(0)


class Network:
    """The weights and the working memory. Not to be shared between threads: each call overwrites the memory."""

    def __init__(self, weights: Weights) -> None:
        memory = _Memory.of(MAX_BATCH)
        # A view of an array costs as much as a small product does, so all of them are made once, for each size.
        self._batches = [Batch(weights, memory, size) for size in range(1, MAX_BATCH + 1)]

    def batch(self, size: int) -> Batch:
        """Where to put `size` windows (1 to `MAX_BATCH`). What another batch held is then no longer valid."""
        return self._batches[size - 1]


@dataclass(frozen=True, slots=True)
class _Memory:
    """Every intermediate result, for the largest batch. The first axis is the stream."""

    state: Array
    audio: Array
    sums: Array
    differences: Array
    real: Array
    imaginary: Array
    layers: tuple[Array, ...]
    recurrent: Array  # the LSTM's input, then h
    gates: Array
    hidden: Array
    output: Array

    @classmethod
    def of(cls, size: int) -> _Memory:
        def zeros(*shape: int) -> Array:
            return np.zeros((size, *shape), np.float32)

        return cls(
            state=zeros(STATE),
            audio=zeros(CONTEXT + WINDOW + _MIRRORED),
            sums=zeros(_FRAMES, HOP),
            differences=zeros(_FRAMES, HOP),
            real=zeros(_FRAMES, BINS),
            imaginary=zeros(_FRAMES, BINS),
            layers=(zeros(4 * 128), zeros(2 * 64), zeros(1 * 64)),  # the fourth writes into `recurrent`
            recurrent=zeros(2 * HIDDEN),
            gates=zeros(4 * HIDDEN),
            hidden=zeros(HIDDEN),
            output=zeros(),
        )


class Batch:
    """The forward pass for one number of windows. Fill `samples` and `state`, call `run`, read `state` again.

    `samples`: float32 in [-1, 1], shape (size, 512). `state`: float32, shape (size, 320), contiguous; zeros for a new
    stream; a row after `run` is what the same stream needs for its next window.
    """

    def __init__(self, weights: Weights, memory: _Memory, size: int) -> None:
        self._weights = weights
        self.state = memory.state[:size]
        self.flat_state = self.state.reshape(-1)  # the same memory
        self._context = self.state[:, :CONTEXT]
        self._h = self.state[:, CONTEXT : CONTEXT + HIDDEN]
        self._c = self.state[:, CONTEXT + HIDDEN :]
        self._audio_in(memory.audio[:size])
        self._sums, self._differences = memory.sums[:size], memory.differences[:size]
        rows = size * _FRAMES
        self._flat_sums, self._flat_differences = self._sums.reshape(rows, HOP), self._differences.reshape(rows, HOP)
        self._real = memory.real[:size].reshape(rows, BINS)
        self._imaginary = memory.imaginary[:size].reshape(rows, BINS)
        recurrent = memory.recurrent[:size]
        self._recurrent, self._h_before = recurrent, recurrent[:, HIDDEN:]
        steps = [memory.real[:size].reshape(size, -1), *(layer[:size] for layer in memory.layers)]
        steps.append(recurrent[:, :HIDDEN])
        self._layers = [_Layer(*layer) for layer in zip(weights.convolutions, steps[:-1], steps[1:], strict=True)]
        self._gates = memory.gates[:size]
        self._sigmoids = self._gates[:, : 3 * HIDDEN]
        self._i, self._f, self._o, self._g = (self._gates[:, k * HIDDEN : (k + 1) * HIDDEN] for k in range(4))
        self._hidden = memory.hidden[:size]
        self._output = memory.output[:size]

    def _audio_in(self, audio: Array) -> None:
        self.samples = audio[:, CONTEXT : CONTEXT + WINDOW]
        self._audio_start = audio[:, :CONTEXT]
        self._audio_end = audio[:, WINDOW : WINDOW + CONTEXT]  # the context of the next window
        end = CONTEXT + WINDOW
        self._mirror = audio[:, end:]
        self._mirrored = audio[:, end - 2 : end - 2 - _MIRRORED : -1]  # the last sample itself is not repeated
        stream, sample = audio.strides
        frames = np.lib.stride_tricks.as_strided(
            audio, (len(audio), _FRAMES, _FRAME), (stream, HOP * sample, sample), writeable=False
        )
        self._rising = frames[:, :, 1 : HOP + 1]
        self._falling = frames[:, :, : HOP - 1 : -1]

    def run(self) -> Array:
        """Probability of speech in each window, shape (size,); valid until the next run of any batch."""
        self._magnitudes()
        for layer in self._layers:
            layer.run()
        self._recur()
        np.maximum(self._h, _ZERO, out=self._hidden)
        np.matmul(self._hidden, self._weights.output, out=self._output)
        np.add(self._output, self._weights.output_bias, out=self._output)
        return _sigmoid_of_half(self._output)

    def _magnitudes(self) -> None:
        """The magnitudes of the four transforms, into `_real`."""
        real, imaginary = self._real, self._imaginary
        self._audio_start[...] = self._context
        self._context[...] = self._audio_end
        self._mirror[...] = self._mirrored
        np.add(self._rising, self._falling, out=self._sums)
        np.subtract(self._rising, self._falling, out=self._differences)
        np.matmul(self._flat_sums, self._weights.real, out=real)
        np.matmul(self._flat_differences, self._weights.imaginary, out=imaginary)
        np.multiply(real, real, out=real)
        np.multiply(imaginary, imaginary, out=imaginary)
        np.add(real, imaginary, out=real)
        np.sqrt(real, out=real)

    def _recur(self) -> None:
        """The LSTM: c = f * c + i * g, h = o * tanh(c)."""
        gates, c, i = self._gates, self._c, self._i
        self._h_before[...] = self._h
        np.matmul(self._recurrent, self._weights.gates, out=gates)
        np.add(gates, self._weights.gates_bias, out=gates)
        np.tanh(gates, out=gates)
        np.multiply(self._sigmoids, HALF, out=self._sigmoids)
        np.add(self._sigmoids, HALF, out=self._sigmoids)
        np.multiply(c, self._f, out=c)
        np.multiply(i, self._g, out=i)
        np.add(c, i, out=c)
        np.tanh(c, out=self._hidden)
        np.multiply(self._hidden, self._o, out=self._h)


class _Layer:
    """One convolution from a fixed place in memory, (size, steps * inputs), to another, (size, steps * outputs)."""

    def __init__(self, convolution: Convolution, source: Array, target: Array) -> None:
        kernel, stride = convolution.kernel, convolution.stride
        inputs, outputs = kernel.shape[0] // KERNEL, kernel.shape[1]
        steps = source.shape[1] // inputs
        self._products: list[tuple[Array, Array, Array]] = []
        for step in range(target.shape[1] // outputs):
            first = step * stride - 1  # one step of zeros on either side: no need to multiply them
            low, high = max(first, 0), min(first + KERNEL, steps)
            self._products.append(
                (
                    source[:, low * inputs : high * inputs],
                    kernel[(low - first) * inputs : (high - first) * inputs],
                    target[:, step * outputs : (step + 1) * outputs],
                )
            )
        self._target = target
        self._bias = np.tile(convolution.bias, target.shape[1] // outputs)

    def run(self) -> None:
        for source, kernel, target in self._products:
            np.matmul(source, kernel, out=target)
        np.add(self._target, self._bias, out=self._target)
        np.maximum(self._target, _ZERO, out=self._target)


def _sigmoid_of_half(half: Array) -> Array:
    """sigmoid(2 * half), in place."""
    np.tanh(half, out=half)
    np.multiply(half, HALF, out=half)
    return np.add(half, HALF, out=half)
