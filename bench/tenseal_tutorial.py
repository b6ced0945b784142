"""The peer: TenSEAL's own high-level API on the network of its encrypted-convolution tutorial.

Parameters are the tutorial's: ring dimension 8192, moduli of 31, six times 26 and 31 bits (218 in
all, the 128-bit limit), scale 2^26. The image is encrypted once in im2col form; a convolution is
one ``conv2d_im2col`` per output channel, a dense layer one ``mm``, an activation one ``square_``.

Run it alone for the peer's own figures: ``python bench/tenseal_tutorial.py --images 10``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import tenseal as ts
from numpy.typing import NDArray
from onnx import numpy_helper

__all__ = ["PeerRun", "TutorialWeights", "infer", "make_context", "read_weights"]

RING_DIMENSION = 8192
MODULUS_BITS = (31, 26, 26, 26, 26, 26, 26, 31)
SCALE_BITS = 26
STRIDE = 3


@dataclass(frozen=True, slots=True)
class TutorialWeights:
    """The network's weights as nested lists, which is what TenSEAL takes.

    Attributes:
        kernels: one 7x7 kernel per output channel.
        kernel_biases: one number per output channel.
        dense: per dense layer its matrix, rows being inputs, and its bias.
    """

    kernels: list[list[list[float]]]
    kernel_biases: list[float]
    dense: tuple[tuple[list[list[float]], list[float]], ...]


@dataclass(frozen=True, slots=True)
class PeerRun:
    """One image through the peer: logits, shape (10,), and seconds of each part."""

    logits: NDArray[np.float64]
    encrypt_seconds: float
    evaluate_seconds: float
    decrypt_seconds: float

    @property
    def seconds(self) -> float:
        """All three parts together."""
        return self.encrypt_seconds + self.evaluate_seconds + self.decrypt_seconds


def read_weights(path: Path) -> TutorialWeights:
    """Weights of ``tutorial_cnn`` from its ONNX file."""
    arrays = {item.name: numpy_helper.to_array(item).astype(np.float64) for item in onnx.load(path).graph.initializer}
    return TutorialWeights(
        kernels=arrays["conv1.weight"][:, 0].tolist(),
        kernel_biases=arrays["conv1.bias"].tolist(),
        dense=tuple((arrays[f"{name}.weight"].T.tolist(), arrays[f"{name}.bias"].tolist()) for name in ("fc1", "fc2")),
    )


def make_context(threads: int | None = None) -> ts.Context:
    """Keys for the tutorial's parameters. ``threads``: TenSEAL's own, None for one per core."""
    context = ts.context(
        ts.SCHEME_TYPE.CKKS,
        poly_modulus_degree=RING_DIMENSION,
        coeff_mod_bit_sizes=list(MODULUS_BITS),
        n_threads=threads,
    )
    context.global_scale = 2**SCALE_BITS
    context.generate_galois_keys()
    return context


def infer(context: ts.Context, weights: TutorialWeights, image: NDArray[np.float32]) -> PeerRun:
    """Encrypt, evaluate and decrypt one image, shape (28, 28), values in [0, 1]."""
    rows, columns = np.shape(weights.kernels[0])
    start = time.perf_counter()
    encrypted, windows = ts.im2col_encoding(context, image.tolist(), rows, columns, STRIDE)
    evaluate = time.perf_counter()
    channels = [
        encrypted.conv2d_im2col(kernel, windows) + bias
        for kernel, bias in zip(weights.kernels, weights.kernel_biases, strict=True)
    ]
    x = ts.CKKSVector.pack_vectors(channels)
    for matrix, bias in weights.dense:
        x.square_()
        x = x.mm(matrix) + bias
    decrypt = time.perf_counter()
    logits = np.asarray(x.decrypt(), dtype=np.float64)
    return PeerRun(logits, evaluate - start, decrypt - evaluate, time.perf_counter() - decrypt)


def _main() -> None:
    from pi_compiler.models.data import load
    from pi_compiler.models.zoo import model_path

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10)
    parser.add_argument("--threads", type=int, help="TenSEAL's own threads; one per core if not given")
    given = parser.parse_args()
    weights, context = read_weights(model_path("tutorial_cnn")), make_context(given.threads)
    data = load("mnist", "validation").take(given.images)
    runs = [infer(context, weights, image[0]) for image in data.x]
    right = sum(int(run.logits.argmax() == label) for run, label in zip(runs, data.labels, strict=True))
    medians = {
        part: float(np.median([getattr(run, part) for run in runs]))
        for part in ("encrypt_seconds", "evaluate_seconds", "decrypt_seconds", "seconds")
    }
    print(json.dumps({"images": len(runs), "correct": right, "median": medians}, indent=2))


if __name__ == "__main__":
    _main()
