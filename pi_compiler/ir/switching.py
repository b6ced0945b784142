"""Work of hybrid key switching and of fused matrix products, counted in operations on one limb of N values.

The counts follow ``runtime/native``: what its evaluator does is what a prediction adds up. ``UNITS`` are
what a machine is measured in (``runtime/measure_fused.py``).
"""

from __future__ import annotations

import numpy as np

from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.params import Params

UNITS = ("transform", "convert", "key", "product", "move", "scalar")
"""One limb's transform; its share of one limb of another basis; its product with a limb of both halves of a key;
its product with a constant, both polynomials; one pass over it (a sum, a permutation); its product with a number, both
polynomials."""

STANDS_FOR = {"scalar": "product"}
"""What an older table has in place of a unit that it lacks."""


def _work(
    transform: float = 0, convert: float = 0, key: float = 0, product: float = 0, move: float = 0, scalar: float = 0
) -> FloatArray:
    return np.array([transform, convert, key, product, move, scalar], np.float64)


def decompose(p: Params, level: int) -> FloatArray:
    """Digits of one polynomial, carried to all limbs and the special ones."""
    limbs, every = level + 1, level + 1 + len(p.special)
    widths = [len(digit) for digit in p.digits(level)]
    others = sum(every - w for w in widths)
    return _work(transform=limbs + others, convert=sum(w * (every - w) for w in widths), move=limbs + others)


def apply_key(p: Params, level: int) -> FloatArray:
    """The inner product of digits and a key."""
    every = level + 1 + len(p.special)
    return _work(key=len(p.digits(level)) * every, move=2 * every)


def divide(p: Params, level: int, polys: int = 2) -> FloatArray:
    """Division by the special primes."""
    limbs, specials = level + 1, len(p.special)
    return polys * _work(transform=specials + limbs, convert=specials * limbs, move=specials + 2 * limbs)


def rotate(p: Params, level: int) -> FloatArray:
    """A rotation by itself; a relinearization takes the same but for the permutation."""
    return decompose(p, level) + baby(p, level, late=True)


def baby(p: Params, level: int, *, late: bool) -> FloatArray:
    """A rotation whose digits exist: back over the chain, or left over the extended basis (not ``late``)."""
    if late:
        return apply_key(p, level) + divide(p, level) + _work(move=2 * (level + 1))
    return apply_key(p, level) + _work(move=5 * (level + 1 + len(p.special)))


def giant(p: Params, level: int, *, late: bool) -> FloatArray:
    """A giant step's rotation, added to the sum over the extended basis."""
    moved = decompose(p, level) + apply_key(p, level) + _work(move=4 * (level + 1 + len(p.special)))
    return moved if late else moved + divide(p, level, polys=1)


def product(p: Params, level: int, period: int, *, late: bool) -> FloatArray:
    """A product with a constant of a period, added to a sum; late constants are transformed for it.

    Period 1 is a number, for which nothing is transformed. What it multiplies was not rotated, as a rule.
    """
    limbs = level + 1
    if period == 1:
        return _work(scalar=limbs)
    if not late:
        return _work(product=limbs + len(p.special))
    share = min(1.0, 2.0 * period / (1 << p.log_n))
    return _work(transform=share * limbs, move=share * limbs, product=limbs)


def tensor(p: Params, level: int) -> FloatArray:
    """A product of two ciphertexts, added to a sum of such: four products of limbs."""
    return _work(product=2 * (level + 1))


def scaled(p: Params, level: int) -> FloatArray:
    """A product with a constant made beforehand, added to a sum over the chain."""
    return _work(product=level + 1)


def relinearize_rescale(p: Params, level: int) -> FloatArray:
    """A sum of products relinearized, and divided at once by the special primes and the level's own."""
    divided = _work(
        transform=len(p.special) + 1 + level,
        convert=(len(p.special) + 1) * level,
        move=len(p.special) + 1 + 2 * level,
    )
    return decompose(p, level) + apply_key(p, level) + _work(move=2 * (level + 1)) + 2 * divided


def finish(p: Params, level: int) -> FloatArray:
    """What a sum of giant steps takes at its end."""
    return divide(p, level) + _work(move=2 * (level + 1 + len(p.special)))


def constant_bytes(p: Params, level: int, period: int, *, late: bool) -> int:
    """Memory of a matrix product's constant made beforehand."""
    values = min(2 * period, 1 << p.log_n) if period > 1 else 1
    return 8 * values * (1 if late and period > 1 else level + 1 + len(p.special))
