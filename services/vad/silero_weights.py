"""The weights of Silero VAD: how they are stored, and how they must lie for the forward pass.

`silero_16k.npz` holds the arrays of the original under their original names, unchanged. This room turns them into
matrices for products from the right, (inputs, outputs); what is computed with them it need not know.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]

HIDDEN = 128  # units of the LSTM
HOP = 128  # samples from one Fourier transform to the next: half its length
BINS = HOP + 1  # frequencies
KERNEL = 3  # inputs to an output of a convolution
HALF = np.float32(0.5)
_STRIDES = (1, 2, 2, 1)  # of the four convolutions


@dataclass(frozen=True, slots=True)
class Convolution:
    """One layer: `kernel` (3 * inputs, outputs), earliest input first; `bias` (outputs,)."""

    kernel: Array
    bias: Array
    stride: int


@dataclass(frozen=True, slots=True)
class Weights:
    """The weights, arranged for products from the right: (inputs, outputs)."""

    real: Array  # (128, 129), for the sums of mirrored samples
    imaginary: Array  # (128, 129), for their differences
    convolutions: tuple[Convolution, ...]
    gates: Array  # (128 + 128, 512): from input and h, to the gates in the order i, f, o, g; i, f, o are halved
    gates_bias: Array  # (512,)
    output: Array  # (128,), halved
    output_bias: np.float32

    @classmethod
    def load(cls, path: Path) -> Weights:
        """Read the .npz that `scripts/export_silero.py` wrote. Raises what numpy, zipfile and zlib do on a bad file."""
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return cls.arrange(arrays)

    @classmethod
    def arrange(cls, arrays: Mapping[str, Array]) -> Weights:
        """From the arrays of the original, under their original names."""
        basis = arrays["model.stft.forward_basis_buffer"][:, 0, 1 : HOP + 1].T  # sample 0 has no weight
        real = basis[:, :BINS].copy()
        real[-1] *= HALF  # the sample in the middle is its own mirror image, and so is added to itself
        output = arrays["model.decoder.decoder.2.weight"][0, :, 0]
        gates, gates_bias = _arrange_gates(arrays)
        return cls(
            real=real,
            imaginary=basis[:, BINS:].copy(),
            convolutions=tuple(_arrange_convolutions(arrays)),
            gates=gates,
            gates_bias=gates_bias,
            output=output * HALF,
            output_bias=np.float32(arrays["model.decoder.decoder.2.bias"][0] * HALF),
        )


def _arrange_convolutions(arrays: Mapping[str, Array]) -> Iterator[Convolution]:
    for layer, stride in enumerate(_STRIDES):
        name = f"model.encoder.{layer}.reparam_conv"
        kernel = arrays[f"{name}.weight"].transpose(2, 1, 0)  # from (outputs, inputs, 3)
        flat = np.ascontiguousarray(kernel.reshape(-1, kernel.shape[2]))
        yield Convolution(flat, arrays[f"{name}.bias"], stride)


def _arrange_gates(arrays: Mapping[str, Array]) -> tuple[Array, Array]:
    """From the order i, f, g, o to i, f, o, g, so that the three sigmoids lie together; their inputs halved."""
    name = "model.decoder.rnn"
    weights = np.concatenate([arrays[f"{name}.weight_ih"], arrays[f"{name}.weight_hh"]], axis=1)
    bias = arrays[f"{name}.bias_ih"] + arrays[f"{name}.bias_hh"]
    order = np.concatenate(
        [np.arange(2 * HIDDEN), np.arange(3 * HIDDEN, 4 * HIDDEN), np.arange(2 * HIDDEN, 3 * HIDDEN)]
    )
    scale = np.ones(4 * HIDDEN, np.float32)
    scale[: 3 * HIDDEN] = HALF
    return np.ascontiguousarray((weights[order] * scale[:, None]).T), bias[order] * scale
