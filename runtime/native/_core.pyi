"""The compiled module: CKKS arithmetic in residues. Sizes and levels are checked; ValueError if they do not fit."""

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

def instruction_sets() -> list[str]:
    """What this processor can run, fastest first."""

class Polys:
    """Polynomials over q_0 ... q_level and perhaps the special primes; a read-only buffer (polys, limbs, N)."""

    polys: int
    level: int
    extended: bool
    nbytes: int
    def __buffer__(self, flags: int, /) -> memoryview: ...

class Plain:
    """An encoded constant."""

    level: int
    extended: bool
    nbytes: int

class Digits:
    """A polynomial decomposed for key switching."""

    level: int

class Ring:
    """Primes, tables and a pool of threads."""

    kernels: str
    def __init__(
        self, log_n: int, primes: list[int], specials: int, threads: int = 1, kernels: str = "", digit: int = 0
    ) -> None:
        """``digit``: primes of the chain in one digit of key switching; 0: as many as special primes."""

    def digits(self, level: int) -> int: ...
    def load(self, polys: int, given: int, level: int, extended: bool, content: Buffer) -> Polys: ...
    def map(self, polys: int, level: int, extended: bool, content: Buffer) -> Polys:
        """Polynomials that are read where they are; ``content`` lives as long, and nothing writes into it."""

    def valid(self, p: Polys) -> bool:
        """Whether every value is below its modulus."""

    def empty(self, polys: int, level: int, extended: bool, secret: bool = False) -> Polys: ...
    def encode(
        self,
        values: NDArray[np.float64],
        scale: float,
        level: int,
        extended: bool = False,
        late: bool = False,
        secret: bool = False,
    ) -> Plain:
        """``late``: only ``linear_sum`` may use it, which transforms limb by limb; takes less memory.
        ``secret``: memory that held the values is wiped.
        """

    def decode(self, a: Polys) -> NDArray[np.float64]: ...
    def small(self, coefficients: NDArray[np.float64], level: int, extended: bool) -> Polys: ...
    def uniform(self, p: Polys, poly: int, limb: int, stream: bytes) -> None: ...
    def mul_add(self, z: Polys, zi: int, x: Polys, xi: int, y: Polys, yi: int, a: Polys, ai: int) -> None: ...
    def add_gadget(self, z: Polys, zi: int, x: Polys, xi: int, digit: int) -> None: ...
    def permute(self, a: Polys, galois: int) -> Polys: ...
    def ntt(self, a: Polys) -> None: ...
    def intt(self, a: Polys) -> None: ...
    def add(self, a: Polys, b: Polys) -> Polys: ...
    def sub(self, a: Polys, b: Polys) -> Polys: ...
    def neg(self, a: Polys) -> Polys: ...
    def mul(self, a: Polys, b: Polys) -> Polys: ...
    def add_plain(self, a: Polys, b: Plain) -> Polys: ...
    def mul_plain(self, a: Polys, b: Plain) -> Polys: ...
    def drop(self, a: Polys, level: int) -> Polys: ...
    def rescale(self, a: Polys) -> Polys: ...
    def relinearize(self, a: Polys, key: Polys) -> Polys: ...
    def divide_special(self, a: Polys) -> Polys: ...
    def decompose(self, a: Polys) -> Digits: ...
    def rotate(self, a: Polys, digits: Digits, key: Polys, galois: int) -> Polys: ...
    def rotate_first(self, a: Polys, key: Polys, galois: int) -> tuple[Polys, Digits]:
        """``decompose`` and ``rotate`` in one, which is faster than one after the other."""

    def rotate_extended(self, a: Polys, digits: Digits, key: Polys, galois: int) -> Polys: ...
    def product_sum(
        self, terms: list[tuple[int, Polys | None, Polys | None, Plain | None]], key: Polys, level: int
    ) -> Polys:
        """Weight times a product of two, of one with a constant, or either alone; relinearized and rescaled."""

    def linear_sums(self, inputs: list[Polys], weights: list[list[Plain]], level: int) -> list[Polys]:
        """Several sums over the same inputs; every weight is an encoded number."""

    def linear_sum(self, giants: list[tuple[list[tuple[Polys, Plain]], Polys | None, int]], level: int) -> Polys: ...
