"""The evaluating side of the native backend: checks the books, calls the compiled module."""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pi_compiler.errors import ExecutionError, InternalError
from pi_compiler.ir.graph import FloatArray
from pi_compiler.ir.program import CtType
from pi_compiler.runtime.backend import Ciphertext, Plaintext
from pi_compiler.runtime.fuse import Giant, Term
from pi_compiler.runtime.native.material import NativeCiphertext, NativeKeys, NativePlaintext
from pi_compiler.runtime.rules import Rules

if TYPE_CHECKING:
    from pi_compiler.runtime.native._core import Digits, Plain, Polys

_SHARED = 2
"""Ciphertexts whose decomposition is kept for further rotations; a program rotates one at a time."""


class NativeEvaluator:
    """Arithmetic with parameters and public keys alone."""

    def __init__(self, keys: NativeKeys) -> None:
        self._ring, self._core, self._keys = keys.ring, keys.ring.core, keys
        self._rules = Rules(keys.ring.params, keys.rotations, keys.relinearize)
        self._galois = {step: keys.ring.galois(step) for step in keys.rotations}
        self._own = keys.ring.own
        self._recent: deque[NativeCiphertext] = deque()

    def encode(self, values: FloatArray, level: int, scale: float) -> NativePlaintext:
        self._rules.values(values)
        self._rules.room(level, scale)
        return NativePlaintext(self._ring, self._ring.encode(values, level, scale), scale)

    def plaintext_bytes(self, plaintext: Plaintext) -> int:
        return self._plain(plaintext).plain.nbytes

    def ciphertext_bytes(self, ciphertext: Ciphertext) -> int:
        return self._own(ciphertext).polys.nbytes

    def type_of(self, ciphertext: Ciphertext) -> CtType:
        return self._own(ciphertext).type

    def save_ciphertext(self, ciphertext: Ciphertext, path: Path) -> int:
        return self._ring.save(ciphertext, path)

    def load_ciphertext(self, path: Path) -> NativeCiphertext:
        return self._ring.load(path)

    def add(self, a: Ciphertext, b: Ciphertext) -> NativeCiphertext:
        x, y = self._own(a), self._own(b)
        self._rules.add(x.type, y.type)
        return NativeCiphertext(self._ring, self._core.add(x.polys, y.polys), x.scale)

    def sub(self, a: Ciphertext, b: Ciphertext) -> NativeCiphertext:
        x, y = self._own(a), self._own(b)
        self._rules.add(x.type, y.type)
        return NativeCiphertext(self._ring, self._core.sub(x.polys, y.polys), x.scale)

    def neg(self, a: Ciphertext) -> NativeCiphertext:
        x = self._own(a)
        return NativeCiphertext(self._ring, self._core.neg(x.polys), x.scale)

    def mul(self, a: Ciphertext, b: Ciphertext) -> NativeCiphertext:
        x, y = self._own(a), self._own(b)
        scale = self._rules.mul(x.type, y.type).scale
        return NativeCiphertext(self._ring, self._core.mul(x.polys, y.polys), scale)

    def add_plain(self, a: Ciphertext, b: Plaintext) -> NativeCiphertext:
        x, y = self._own(a), self._plain(b)
        self._rules.add_plain(x.type, y.plain.level, y.scale)
        return NativeCiphertext(self._ring, self._core.add_plain(x.polys, y.plain), x.scale)

    def mul_plain(self, a: Ciphertext, b: Plaintext) -> NativeCiphertext:
        x, y = self._own(a), self._plain(b)
        scale = self._rules.mul_plain(x.type, y.plain.level, y.scale).scale
        return NativeCiphertext(self._ring, self._core.mul_plain(x.polys, y.plain), scale)

    def rotate(self, a: Ciphertext, by: int) -> NativeCiphertext:
        x = self._own(a)
        step = self._rules.rotate(x.type, by)
        if step == 0:
            return x
        polys = self._switched(x, self._key(step, x.polys.level), self._galois[step])
        return NativeCiphertext(self._ring, polys, x.scale)

    def conjugate(self, a: Ciphertext) -> NativeCiphertext:
        x, key = self._own(a), self._keys.conjugation
        if x.polys.polys != 2:
            raise ExecutionError("a ciphertext of dimension 3 cannot be conjugated", hint="relinearize first")
        if key is None:
            raise ExecutionError("there is no key for conjugation", hint="keys made with conjugate=True")
        polys = self._switched(x, self._keys.ready(key), self._ring.conjugation)
        return NativeCiphertext(self._ring, polys, x.scale)

    def linear_bytes(self, period: int, level: int) -> int:
        p = self._ring.params
        return 8 * (level + 1 + len(p.special)) * (1 if period == 1 else 2 * period)

    def encode_linear(self, values: FloatArray, level: int, scale: float, *, late: bool) -> NativePlaintext:
        self._rules.values(values)
        self._rules.room(level, scale)
        return NativePlaintext(self._ring, self._ring.encode(values, level, scale, extended=not late, late=late), scale)

    def rotate_linear(self, a: Ciphertext, by: int) -> NativeCiphertext:
        x = self._own(a)
        step = self._rules.rotate(x.type, by)
        if step == 0:
            return x
        key = self._key(step, x.polys.level)
        polys = self._core.rotate_extended(x.polys, self._digits(x), key, self._galois[step])
        return NativeCiphertext(self._ring, polys, x.scale)

    def linear_sum(self, giants: Sequence[Giant]) -> NativeCiphertext:
        steps: dict[int, list[tuple[Polys, Plain]]] = {}
        result: CtType | None = None
        for by, terms in giants:
            for a, b in terms:
                x, y = self._own(a), self._plain(b)
                product = self._rules.mul_plain(x.type, y.plain.level, y.scale)
                step = self._rules.rotate(product, by)
                result = product if result is None else self._rules.add(result, product)
                steps.setdefault(step, []).append((x.polys, y.plain))
        if result is None:
            raise ExecutionError("a sum of no products")
        keyed = [
            (terms, self._key(step, result.level) if step else None, self._galois[step] if step else 1)
            for step, terms in steps.items()
        ]
        return NativeCiphertext(self._ring, self._core.linear_sum(keyed, result.level), result.scale)

    def linear_sums(
        self, values: Sequence[Ciphertext], weights: Sequence[Sequence[Plaintext]]
    ) -> list[NativeCiphertext]:
        own = [self._own(v) for v in values]
        types = [x.type for x in own]
        rows = [[self._plain(b) for b in row] for row in weights]
        results = []
        for row in rows:
            # A layer has thousands of weights, of few types.
            kinds = {(t, y.plain.level, y.scale) for t, y in zip(types, row, strict=True)}
            products = [self._rules.mul_plain(*kind) for kind in kinds]
            if not products:
                raise ExecutionError("a sum of no products")
            results.append(functools.reduce(self._rules.add, products))
        if not results:
            return []
        plain = [[y.plain for y in row] for row in rows]
        sums = self._core.linear_sums([x.polys for x in own], plain, results[0].level)
        return [NativeCiphertext(self._ring, z, t.scale) for z, t in zip(sums, results, strict=True)]

    def product_sum(self, terms: Sequence[Term], scale: float) -> NativeCiphertext:
        found: list[tuple[int, Polys | None, Polys | None, Plain | None]] = []
        constants: list[NativePlaintext] = []
        total: CtType | None = None
        for weight, a, b, plain in terms:
            c = None if plain is None else self._plain(plain)
            if a is None:
                if c is None:
                    raise ExecutionError("a term of nothing")
                constants.append(c)
                found.append((weight, None, None, c.plain))
                continue
            x, y = self._own(a), None if b is None else self._own(b)
            if y is not None:
                type_ = self._rules.mul(x.type, y.type)
            else:
                type_ = x.type if c is None else self._rules.mul_plain(x.type, c.plain.level, c.scale)
            total = type_ if total is None else self._rules.add(total, type_)
            found.append((weight, x.polys, None if y is None else y.polys, None if c is None else c.plain))
        if total is None:
            raise ExecutionError("a sum of no products")
        for c in constants:
            self._rules.add_plain(total, c.plain.level, c.scale)
        self._rules.rescale(self._rules.relinearize(total), scale)
        polys = self._core.product_sum(found, self._relinearization_key(), total.level)
        return NativeCiphertext(self._ring, polys, scale)

    def _relinearization_key(self) -> Polys:
        if self._keys.relin is None:
            raise InternalError("the rules let a relinearization pass without its key")
        return self._keys.ready(self._keys.relin)

    def _key(self, step: int, level: int) -> Polys:
        key = self._keys.rotation[step]
        if key.level < level:
            raise ExecutionError(
                f"the key for the rotation by {step} serves levels up to {key.level}, this is level {level}",
                hint="keys made for this model",
            )
        return self._keys.ready(key)

    def _switched(self, x: NativeCiphertext, key: Polys, galois: int) -> Polys:
        if x.digits is not None:
            return self._core.rotate(x.polys, x.digits, key, galois)
        polys, digits = self._core.rotate_first(x.polys, key, galois)
        self._share(x, digits)
        return polys

    def _digits(self, x: NativeCiphertext) -> Digits:
        return x.digits or self._share(x, self._core.decompose(x.polys))

    def _share(self, x: NativeCiphertext, digits: Digits) -> Digits:
        while len(self._recent) >= _SHARED:
            self._recent.popleft().digits = None
        x.digits = digits
        self._recent.append(x)
        return digits

    def relinearize(self, a: Ciphertext) -> NativeCiphertext:
        x = self._own(a)
        self._rules.relinearize(x.type)
        return NativeCiphertext(self._ring, self._core.relinearize(x.polys, self._relinearization_key()), x.scale)

    def rescale(self, a: Ciphertext, scale: float) -> NativeCiphertext:
        x = self._own(a)
        self._rules.rescale(x.type, scale)
        return NativeCiphertext(self._ring, self._core.rescale(x.polys), scale)

    def drop_level(self, a: Ciphertext, level: int) -> NativeCiphertext:
        x = self._own(a)
        self._rules.drop_level(x.type, level)
        if level == x.polys.level:
            return x
        return NativeCiphertext(self._ring, self._core.drop(x.polys, level), x.scale)

    def _plain(self, plaintext: Plaintext) -> NativePlaintext:
        if not isinstance(plaintext, NativePlaintext):
            raise ExecutionError(f"the native backend cannot compute with a {type(plaintext).__name__}")
        if plaintext.ring is not self._ring and plaintext.ring.params != self._ring.params:
            raise ExecutionError("a constant of other parameters")
        return plaintext
