"""Walks a program: encodes constants, calls the backend, frees ciphertexts, keeps time.

``prepare`` does what depends on the program only, once; ``execute`` runs it on inputs, as often as
wanted. A program may have 10^6 instructions, so the walk costs about a microsecond each. Evaluators
that do matrix products in one call get them so (``fuse``); their time is that of the last addition. So do those
that do sums of products in one call; their time is that of relinearizing.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from pi_compiler.errors import BackendError, ExecutionError, InternalError, UnsupportedInstruction
from pi_compiler.ir.program import Opcode, Program
from pi_compiler.runtime.backend import SHARED_OPCODES, Ciphertext, Conjugating, Evaluator, Plaintext
from pi_compiler.runtime.fuse import NO_FUSION, Fusion, Giant, LinearEvaluator, ProductEvaluator, Term, fuse
from pi_compiler.runtime.rules import mismatch
from pi_compiler.runtime.trace import ENCODE, Event, OpTime, Trace

Progress: TypeAlias = Callable[[str, int, int], None]
"""Called as (layer, instructions done, instructions in all) whenever the layer changes."""

_Key: TypeAlias = tuple[int, int, float, bool]

MAX_EVENTS = 20_000

_ADD, _SUB, _NEG, _MUL, _ADD_PLAIN, _MUL_PLAIN, _ROTATE, _RELINEARIZE, _RESCALE, _DROP_LEVEL, _CONJUGATE = range(11)
_CODES = len(Opcode) + 1
_ENCODE = _CODES - 1
_FIXED_ENCODE_LIMBS = 3.0
"""The part of encoding that does not depend on the level (the complex FFT), in limbs."""


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """A program with its plaintexts, ready to run on one evaluator.

    Attributes:
        program: the program.
        evaluator: where it runs.
        slot: per instruction the number of its plaintext, -1 if it has none.
        keys: per plaintext (constant, level, scale, whether a fused product multiplies by it).
        plaintexts: per plaintext its encoding, None where it is encoded at each use.
        plaintext_bytes: memory of those encoded.
        last: per value the last instruction that reads it, as ``Program.last_uses``.
        fusion: what the evaluator does in one call; empty where it does nothing so.
    """

    program: Program
    evaluator: Evaluator
    slot: list[int]
    keys: list[_Key]
    plaintexts: list[Plaintext | None]
    plaintext_bytes: int
    last: list[int]
    fusion: Fusion


def prepare(program: Program, evaluator: Evaluator, *, plaintext_memory: int, fused: bool = True) -> Prepared:
    """Check a program and encode its constants as far as the memory goes.

    Constants that save most encoding time per byte come first: often used ones, and those of
    low levels, whose FFT weighs more. The rest is encoded at each use. Where those of matrix products
    do not all fit, they are all late (``Fusion.postponed``).

    Args:
        program: what to run.
        evaluator: where to run it.
        plaintext_memory: bytes that encoded constants may take; 0 encodes everything late.
        fused: let the evaluator do whole matrix products in one call if it can.

    Raises:
        ExecutionError: the program is malformed, or a constant cannot be encoded.
        UnsupportedInstruction: the program has an instruction that evaluators lack.
    """
    _check(program, evaluator)
    linear, products = isinstance(evaluator, LinearEvaluator), isinstance(evaluator, ProductEvaluator)
    fusion = fuse(program, linear=linear, products=products) if fused and (linear or products) else NO_FUSION
    if isinstance(evaluator, LinearEvaluator) and _linear_bytes(program, evaluator, fusion) > plaintext_memory:
        fusion = fusion.postponed()
    slot, keys, uses = _plaintext_slots(program, fusion)
    plaintexts: list[Plaintext | None] = [None] * len(keys)
    held = 0
    full: set[tuple[int, int]] = set()
    for k in _by_worth(program, keys, uses, numbers_first=linear) if plaintext_memory > 0 else ():
        const, level = keys[k][:2]
        kind = (level, program.period(const))
        if kind in full:
            continue
        try:
            plaintext = _encode(program, evaluator, keys[k], fusion.late)
        except BackendError as error:
            at = int(np.flatnonzero(np.asarray(slot) == k)[0])
            raise _located(program, at, error) from error
        size = evaluator.plaintext_bytes(plaintext)
        if held + size > plaintext_memory:
            full.add(kind)
            continue
        plaintexts[k] = plaintext
        held += size
    last = fusion.last_uses(program) if fusion.skipped else program.last_uses().tolist()
    return Prepared(program, evaluator, slot, keys, plaintexts, held, last, fusion)


def execute(
    prepared: Prepared, inputs: Mapping[str, Sequence[Ciphertext]], *, progress: Progress | None = None
) -> tuple[dict[str, list[Ciphertext]], Trace]:
    """Run a prepared program.

    A ciphertext is let go after its last use; inputs too, as far as the caller lets go of them.

    Args:
        prepared: from ``prepare``.
        inputs: per network input its ciphertexts.
        progress: observer of layer changes.

    Returns:
        Per network output its ciphertexts, and what the run cost.

    Raises:
        ExecutionError: inputs do not fit the program, or an instruction fails; the message names
            the layer.
    """
    program, evaluator = prepared.program, prepared.evaluator
    live: list[Ciphertext | None] = [None] * len(program.level)
    _place_inputs(program, evaluator, inputs, live)
    walk = _Walk(len(program.origins))
    began = time.perf_counter()
    try:
        _run(prepared, live, walk, progress, began)
    except BackendError as error:
        raise _located(program, walk.at, error) from error
    seconds = time.perf_counter() - began
    outputs = {name: [_output(program, evaluator, live, v, name) for v in vs] for name, vs in program.outputs.items()}
    return outputs, _trace(prepared, walk, seconds)


class _Walk:
    """What a run counts as it goes."""

    __slots__ = ("at", "counts", "peak", "peak_bytes", "pooled_bytes", "seconds", "segments")

    def __init__(self, origins: int) -> None:
        self.at = 0
        self.seconds = [0.0] * (origins * _CODES)
        self.counts = [0] * (origins * _CODES)
        self.segments: list[tuple[int, float]] = []
        self.peak = 0
        self.peak_bytes = 0
        self.pooled_bytes = 0


def _run(
    prepared: Prepared, live: list[Ciphertext | None], walk: _Walk, progress: Progress | None, began: float
) -> None:
    program, ev = prepared.program, prepared.evaluator
    add, sub, neg, mul, add_plain, mul_plain = ev.add, ev.sub, ev.neg, ev.mul, ev.add_plain, ev.mul_plain
    rotate, relinearize, rescale, drop_level = ev.rotate, ev.relinearize, ev.rescale, ev.drop_level
    clock, size_of = time.perf_counter, ev.ciphertext_bytes
    # Asked once: whether something fits a protocol takes Python some fifty microseconds.
    linear = ev if isinstance(ev, LinearEvaluator) else None
    products = ev if isinstance(ev, ProductEvaluator) else None
    slot, keys, plaintexts, last = prepared.slot, prepared.keys, prepared.plaintexts, prepared.last
    sums, skipped, babies = prepared.fusion.sums, prepared.fusion.skipped, prepared.fusion.babies
    product_sums, groups = prepared.fusion.product_sums, prepared.fusion.groups
    ready: dict[int, Ciphertext] = {}
    seconds, counts, segments = walk.seconds, walk.counts, walk.segments
    total, first = len(program), program.arity
    scales = program.scale[first:].tolist()
    size = [size_of(x) if x is not None else 0 for x in live[:first]] + [0] * total
    alive, held, current = first, sum(size), -1
    peak, peak_bytes = alive, held
    of_size = dict(Counter(size[:first]))
    most_of_size = dict(of_size)
    columns = zip(
        program.op.tolist(),
        program.a.tolist(),
        program.b.tolist(),
        program.imm.tolist(),
        program.origin.tolist(),
        slot,
        strict=True,
    )
    now = began
    for i, (op, a, b, imm, origin, k) in enumerate(columns):
        walk.at = i
        if origin != current:
            current = origin
            if len(segments) < MAX_EVENTS:
                segments.append((origin, now - began))
            if progress is not None:
                progress(program.origins[origin], i, total)
        if i in skipped:
            counts[origin * _CODES + op] += 1
            continue
        x = live[a]
        if i in groups:
            made, late, spent = _grouped(prepared, linear, live, i)
            ready.update(zip(groups[i].roots, made, strict=True))
            bytes_ = size_of(made[0])
            alive += len(made)
            held += bytes_ * len(made)
            of_size[bytes_] = same = of_size.get(bytes_, 0) + len(made)
            most_of_size[bytes_] = max(same, most_of_size.get(bytes_, 0))
            peak, peak_bytes = max(alive, peak), max(held, peak_bytes)
            del made
            seconds[origin * _CODES + _ENCODE] += spent
            counts[origin * _CODES + _ENCODE] += late
            now += spent
        if i in ready:
            y = ready.pop(i)
            bytes_ = size_of(y)
            alive -= 1
            held -= bytes_
            of_size[bytes_] -= 1
            for value in sums[i].addends:
                y = add(y, live[value])
        elif i in sums:
            y, late, spent = _sum(prepared, linear, live, i)
            seconds[origin * _CODES + _ENCODE] += spent
            counts[origin * _CODES + _ENCODE] += late
            now += spent
        elif i in product_sums:
            y, late, spent = _product_sum(prepared, products, live, i)
            seconds[origin * _CODES + _ENCODE] += spent
            counts[origin * _CODES + _ENCODE] += late
            now += spent
        elif linear is not None and i in babies:
            y = linear.rotate_linear(x, imm)
        elif k >= 0:
            plain = plaintexts[k]
            if plain is None:
                start = clock()
                plain = _encode(program, ev, keys[k], False)
                spent = clock() - start
                seconds[origin * _CODES + _ENCODE] += spent
                counts[origin * _CODES + _ENCODE] += 1
                now += spent
            y = mul_plain(x, plain) if op == _MUL_PLAIN else add_plain(x, plain)
        elif op == _ADD:
            y = add(x, live[b])
        elif op == _ROTATE:
            y = rotate(x, imm)
        elif op == _RESCALE:
            y = rescale(x, scales[i])
        elif op == _MUL:
            y = mul(x, live[b])
        elif op == _RELINEARIZE:
            y = relinearize(x)
        elif op == _DROP_LEVEL:
            y = drop_level(x, imm)
        elif op == _SUB:
            y = sub(x, live[b])
        elif op == _CONJUGATE and isinstance(ev, Conjugating):
            y = ev.conjugate(x)
        else:
            y = neg(x)
        out = first + i
        if last[out] >= 0:
            live[out] = y
            alive += 1
            size[out] = bytes_ = size_of(y)
            held += bytes_
            of_size[bytes_] = same = of_size.get(bytes_, 0) + 1
            if same > most_of_size.get(bytes_, 0):
                most_of_size[bytes_] = same
            if held > peak_bytes:
                peak_bytes = held
            if alive > peak:
                peak = alive
        reads = prepared.fusion.reads(program, i) if i in sums or i in product_sums else (a, b)
        for value in reads:
            if value >= 0 and last[value] == i and live[value] is not None:
                live[value] = None
                alive -= 1
                held -= size[value]
                of_size[size[value]] -= 1
        x = y = None
        then = clock()
        seconds[origin * _CODES + (_RELINEARIZE if i in product_sums else op)] += then - now
        counts[origin * _CODES + op] += 1
        now = then
    walk.peak, walk.peak_bytes = peak, peak_bytes
    walk.pooled_bytes = sum(bytes_ * count for bytes_, count in most_of_size.items())


def _sum(
    prepared: Prepared, ev: LinearEvaluator | None, live: list[Ciphertext | None], root: int
) -> tuple[Ciphertext, int, float]:
    """A fused matrix product; constants encoded on the way, and the seconds that took."""
    program = prepared.program
    if ev is None:
        raise InternalError("a matrix product was fused for an evaluator that does none")
    late, spent = 0, 0.0
    giants: list[Giant] = []
    found = prepared.fusion.sums[root]
    for step, products in found.giants:
        terms = []
        for at in products:
            plain, took = _plaintext(prepared, at)
            spent += took
            late += took > 0
            terms.append((live[int(program.a[at])], plain))
        giants.append((step, terms))
    total = ev.linear_sum(giants)
    for value in found.addends:
        total = ev.add(total, live[value])
    return total, late, spent


def _grouped(
    prepared: Prepared, ev: LinearEvaluator | None, live: list[Ciphertext | None], first: int
) -> tuple[list[Ciphertext], int, float]:
    """Fused matrix products over the same values; constants encoded on the way, and the seconds that took."""
    if ev is None:
        raise InternalError("matrix products were fused for an evaluator that does none")
    late, spent = 0, 0.0
    group = prepared.fusion.groups[first]
    weights: list[list[Plaintext]] = []
    for products in group.products:
        weights.append([])
        for at in products:
            plain, took = _plaintext(prepared, at)
            spent += took
            late += took > 0
            weights[-1].append(plain)
    return list(ev.linear_sums([live[v] for v in group.values], weights)), late, spent


def _product_sum(
    prepared: Prepared, ev: ProductEvaluator | None, live: list[Ciphertext | None], root: int
) -> tuple[Ciphertext, int, float]:
    """A fused sum of products; constants encoded on the way, and the seconds that took."""
    program = prepared.program
    if ev is None:
        raise InternalError("a sum of products was fused for an evaluator that does none")
    late, spent = 0, 0.0
    terms: list[Term] = []
    for term in prepared.fusion.product_sums[root].terms:
        plain = None
        if term.plain >= 0:
            plain, took = _plaintext(prepared, term.plain)
            spent += took
            late += took > 0
        a, b = (live[v] if v >= 0 else None for v in (term.a, term.b))
        terms.append((term.weight, a, b, plain))
    return ev.product_sum(terms, float(program.scale[program.arity + root])), late, spent


def _plaintext(prepared: Prepared, at: int) -> tuple[Plaintext, float]:
    """An instruction's constant, and the seconds that encoding took if it was encoded now."""
    k = prepared.slot[at]
    plain = prepared.plaintexts[k]
    if plain is not None:
        return plain, 0.0
    start = time.perf_counter()
    key = prepared.keys[k]
    plain = _encode(prepared.program, prepared.evaluator, key, key[3] and prepared.fusion.late)
    return plain, time.perf_counter() - start


def _encode(program: Program, evaluator: Evaluator, key: _Key, late: bool) -> Plaintext:
    const, level, scale, linear = key
    values = program.slot_values(const)
    if linear and isinstance(evaluator, LinearEvaluator):
        return evaluator.encode_linear(values, level, scale, late=late)
    return evaluator.encode(values, level, scale)


def _linear_bytes(program: Program, evaluator: LinearEvaluator, fusion: Fusion) -> int:
    """Memory that the constants of all matrix products take if nothing is left for their use."""
    return sum(
        evaluator.linear_bytes(program.period(program.const[k]), int(program.level[program.a[k]]))
        for k in fusion.products
    )


def _check(program: Program, evaluator: Evaluator) -> None:
    """Instructions that the evaluator has, operands defined before use, constants that exist."""
    foreign = {Opcode(op) for op in np.unique(program.op).tolist()} - SHARED_OPCODES
    if isinstance(evaluator, Conjugating):
        foreign -= {Opcode.CONJUGATE}
    if foreign:
        names = ", ".join(sorted(op.name.lower() for op in foreign))
        raise UnsupportedInstruction(f"this evaluator has no instruction {names}")
    out = program.arity + np.arange(len(program))
    plain = np.isin(program.op, (Opcode.ADD_PLAIN, Opcode.MUL_PLAIN))
    two = np.isin(program.op, (Opcode.ADD, Opcode.SUB, Opcode.MUL))
    bad = (program.a < 0) | (program.a >= out) | (program.b >= out) | ((program.b >= 0) != two)
    bad |= (program.const >= len(program.consts)) | ((program.const >= 0) != plain)
    bad |= (program.origin < 0) | (program.origin >= len(program.origins))
    if bad.any():
        raise ExecutionError(f"the program is malformed at instruction {int(np.flatnonzero(bad)[0])}")
    numbers = [v for vs in (*program.inputs.values(), *program.outputs.values()) for v in vs]
    if any(not 0 <= v < len(program.level) for v in numbers):
        raise ExecutionError("the program is malformed: an input or output does not exist")


def _plaintext_slots(program: Program, fusion: Fusion) -> tuple[list[int], list[_Key], list[int]]:
    """Number the distinct plaintexts: per instruction its number, per plaintext its key and uses."""
    level, scale = program.level[program.a], program.scale[program.a]
    scale = np.where(program.op == Opcode.MUL_PLAIN, program.plain_scale, scale)
    numbers: dict[_Key, int] = {}
    slot: list[int] = []
    uses: list[int] = []
    for i, columns in enumerate(zip(program.const.tolist(), level.tolist(), scale.tolist(), strict=True)):
        key = (*columns, i in fusion.products)
        if key[0] < 0:
            slot.append(-1)
            continue
        number = numbers.setdefault(key, len(uses))
        if number == len(uses):
            uses.append(0)
        uses[number] += 1
        slot.append(number)
    return slot, list(numbers), uses


def _by_worth(program: Program, keys: list[_Key], uses: list[int], *, numbers_first: bool) -> list[int]:
    """Plaintext numbers, those first whose encoding beforehand saves most time per byte.

    Encoded numbers come first where they take next to no memory.
    """

    def worth(k: int) -> float:
        const, level = keys[k][:2]
        if numbers_first and program.consts[const].size == 1:
            return math.inf
        fixed = _FIXED_ENCODE_LIMBS if program.consts[const].size > 1 else 0.0
        transform = 1.0 if program.consts[const].size > 1 else 0.02
        return uses[k] * (fixed / (level + 1) + transform)

    return sorted(range(len(keys)), key=worth, reverse=True)


def _place_inputs(
    program: Program,
    evaluator: Evaluator,
    inputs: Mapping[str, Sequence[Ciphertext]],
    live: list[Ciphertext | None],
) -> None:
    faults = [f"missing input {name!r}" for name in program.inputs if name not in inputs]
    faults += [f"unknown input {name!r}" for name in inputs if name not in program.inputs]
    for name, values in program.inputs.items():
        given = inputs.get(name)
        if given is None:
            continue
        if len(given) != len(values):
            faults.append(f"input {name!r} has {len(given)} ciphertexts, needs {len(values)}")
            continue
        for v, ciphertext in zip(values, given, strict=True):
            if why := mismatch(evaluator.type_of(ciphertext), program.type(v)):
                faults.append(f"input {name!r}: {why}")
            live[v] = ciphertext
    if faults:
        raise ExecutionError("the inputs do not fit the program", *faults)


def _output(program: Program, evaluator: Evaluator, live: list[Ciphertext | None], value: int, name: str) -> Ciphertext:
    ciphertext = live[value]
    if ciphertext is None:
        raise ExecutionError(f"output {name!r} was never computed: the program is malformed")
    if why := mismatch(evaluator.type_of(ciphertext), program.type(value)):
        raise ExecutionError(f"output {name!r} is not what the program promises: {why}")
    return ciphertext


def _located(program: Program, at: int, error: BackendError) -> ExecutionError:
    """The same error, with the layer and the instruction that it happened in."""
    layer = program.origins[int(program.origin[at])]
    opcode = Opcode(int(program.op[at])).name.lower()
    where = f"instruction {at} of {len(program)}: {opcode}"
    return ExecutionError(f"layer {layer!r}: {error.what}", *error.details, where, hint=error.hint)


def _trace(prepared: Prepared, walk: _Walk, seconds: float) -> Trace:
    program = prepared.program
    layers: dict[str, dict[str, OpTime]] = {}
    names = [op.name.lower() for op in Opcode] + [ENCODE]
    order = dict.fromkeys(program.origin.tolist())
    for origin in order:
        at = origin * _CODES
        layers[program.origins[origin]] = {
            name: OpTime(walk.counts[at + c], walk.seconds[at + c])
            for c, name in enumerate(names)
            if walk.counts[at + c]
        }
    ends = [start for _, start in [*walk.segments, (0, seconds)]][1:]
    events = tuple(
        Event(program.origins[origin], start, end - start)
        for (origin, start), end in zip(walk.segments, ends, strict=True)
    )
    return Trace(seconds, layers, events, walk.peak, walk.peak_bytes, walk.pooled_bytes, prepared.plaintext_bytes)
