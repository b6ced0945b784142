"""Several samples in one run, interleaved: sample b's slot i sits in slot i * batch + b of the ciphertext.

A network is planned for the slots of one sample, slots / batch of them. A rotation by k of those is one by k * batch of
the ciphertext's, cyclic for every sample at once; a constant is each of its values batch times in a row. So one program
answers a batch at the price of one, and no sample ever meets another (MOAI, ICLR 2026, interleaves batches so).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from pi_compiler.errors import ShapeMismatch
from pi_compiler.ir.graph import FloatArray, Shape


def real_period(period: int, batch: int) -> int:
    """Period in the ciphertext of what has a period in the slots of one sample; a number for all slots stays one."""
    return period * batch if period > 1 else 1


def spread(values: FloatArray, batch: int) -> FloatArray:
    """A constant's values (period,) for the ciphertext: the same for every sample."""
    return np.repeat(values, batch) if values.size > 1 and batch > 1 else values


def interleaved(slots: FloatArray) -> FloatArray:
    """Slot vectors (..., batch, ciphertexts, period) of single samples as those of a batch.

    Returns:
        (..., ciphertexts, period * batch).
    """
    moved = np.moveaxis(slots, -3, -1)
    return np.ascontiguousarray(moved.reshape(*moved.shape[:-2], moved.shape[-2] * moved.shape[-1]))


def separated(slots: FloatArray, batch: int) -> FloatArray:
    """Slot vectors (..., ciphertexts, slots) of a batch as those of its samples.

    Returns:
        (..., batch, ciphertexts, slots / batch).
    """
    return np.moveaxis(slots.reshape(*slots.shape[:-1], slots.shape[-1] // batch, batch), -1, -3)


def leading(inputs: Mapping[str, FloatArray], shapes: Mapping[str, Shape]) -> Shape:
    """The dimensions of samples (..., *shape) in front of their shapes, which have to be the same for all inputs.

    Raises:
        ShapeMismatch: they are not, or there is no sample.
    """
    found = {n: np.shape(inputs[n])[: np.ndim(inputs[n]) - len(shapes[n])] for n in shapes}
    lead = next(iter(found.values()))
    if any(other != lead for other in found.values()) or not math.prod(lead):
        told = ", ".join(f"{n!r} {list(shape)}" for n, shape in found.items())
        raise ShapeMismatch("inputs have different numbers of samples, or none", told)
    return lead


def grouped(x: FloatArray, shape: Shape, batch: int) -> FloatArray:
    """Samples (..., *shape) in batches, the last one filled up with its last sample.

    A sample of zeros in its place might leave certified intervals, grow beyond the modulus and take the others along.

    Returns:
        (batches, batch, *shape); without its first axis where there is one batch only.
    """
    flat = x.reshape(-1, *shape)
    missing = -len(flat) % batch
    full = np.concatenate([flat, np.repeat(flat[-1:], missing, axis=0)]) if missing else flat
    return full if len(full) == batch else full.reshape(-1, batch, *shape)


def ungrouped(x: FloatArray, shape: Shape, lead: Shape) -> FloatArray:
    """Answers (..., batch, *shape) of the samples that there were: (*lead, *shape)."""
    return x.reshape(-1, *shape)[: math.prod(lead)].reshape(*lead, *shape)
