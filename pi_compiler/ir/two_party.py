"""What two parties and a dealer exchange for every opcode: rounds and bytes, known before anything runs.

The protocol of the ``crypten`` backend, semi-honest, on 64-bit ring elements. The dealer hands out correlated
randomness beforehand (Beaver, "Efficient multiparty protocols using circuit randomization", CRYPTO 1991): most
of it grows from seeds, what does not goes to the model's owner, and that is what ``offline`` counts.

* **Linear opcodes with a private weight W.** The owner of W knows its mask B whole and opens W - B once, at
  set-up. In a run the data owner sends its share minus a mask, X1 - A1; the model's owner multiplies once, by W
  itself, and the data owner not at all: its half, A1 (W - B) + C1, is ready before the input exists.
* **Products of shared values** open both operands minus masks, in both directions; a square opens one.
* **LTZ** adds the two shares bit by bit. Only the carry into the sign bit matters, so a tree of generate and
  propagate bits is evaluated on bit planes, four positions a round: every product of up to four masked bits is
  opened at once, the dealer having dealt shares of the products of their masks (the idea of Patra et al.,
  "ABY2.0", USENIX Security 2021, section 3.2).
* **A bit times a value** is one round: the bit's mask R opens z = bit xor R, the value opens x - A, and shares of
  R and R A do the rest. So a comparison whose only use is selecting stays in bits (``kept_bits``); any other is
  turned into ring elements by opening one masked bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations

from pi_compiler.ir.mpc_program import DATA_PARTY, MpcInstr, MpcOp, MpcProgram

RING_BITS = 64
ELEMENT_BYTES = 8
_RADIX = 4
Factors = tuple[int, ...]
"""Sorted numbers of factors, a product of bits: see ``Level``."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What an instruction, or a whole run, costs on the wire.

    Attributes:
        rounds: messages that are waited for one after the other, one network latency each.
        to_model: bytes from the data's owner to the model's owner.
        to_data: bytes from the model's owner to the data's owner.
        offline: bytes from the dealer, before the input is needed.
    """

    rounds: int = 0
    to_model: int = 0
    to_data: int = 0
    offline: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(
            self.rounds + other.rounds,
            self.to_model + other.to_model,
            self.to_data + other.to_data,
            self.offline + other.offline,
        )

    @property
    def largest(self) -> int:
        """Bytes in the busier direction."""
        return max(self.to_model, self.to_data)


@dataclass(frozen=True, slots=True)
class Level:
    """One round of the tree of carries: ``radix`` neighbors become one, in each of ``groups`` groups.

    Factor t < radix is the propagate bit of the group's position t, lowest first, factor radix + t the
    generate bit of position t; the highest generate bit is in no product and is no factor.

    Attributes:
        groups: how many groups.
        radix: positions per group.
        propagate: whether the group's propagate bit is wanted too; not at the root.
    """

    groups: int
    radix: int
    propagate: bool

    @property
    def factors(self) -> Factors:
        """Factors that are opened."""
        return tuple(range(0 if self.propagate else 1, 2 * self.radix - 1))

    @property
    def products(self) -> tuple[Factors, ...]:
        """The products whose sum is the group's generate bit: g_t and every p above it."""
        return tuple((*range(t + 1, self.radix), self.radix + t) for t in range(self.radix - 1))

    @property
    def whole(self) -> Factors:
        """The product that is the group's propagate bit."""
        return tuple(range(self.radix)) if self.propagate else ()

    @property
    def mask_products(self) -> tuple[Factors, ...]:
        """Sets of two or more factors whose masks' product the dealer shares."""
        wanted = (*self.products, self.whole) if self.propagate else self.products
        return tuple(sorted({s for product in wanted for s in subsets(product) if len(s) > 1}))


@cache
def subsets(factors: Factors) -> tuple[Factors, ...]:
    """All subsets that are not empty."""
    return tuple(s for size in range(1, len(factors) + 1) for s in combinations(factors, size))


def carry_bits(instr: MpcInstr) -> int:
    """Bit positions of the shares that an LTZ adds, the sign bit aside."""
    low = instr.attrs.get("low", (0,))[0]
    return RING_BITS - 1 - low


def levels(positions: int) -> tuple[Level, ...]:
    """The tree that carries through so many bit positions, leaves first; missing positions are zeros below."""
    found = []
    while positions > 1:
        radix = min(_RADIX, positions)
        groups = -(-positions // radix)
        found.append(Level(groups, radix, propagate=groups > 1))
        positions = groups
    return tuple(found)


def words(bits: int) -> int:
    """64-bit words that hold so many bits."""
    return -(-bits // RING_BITS)


def kept_bits(program: MpcProgram) -> frozenset[int]:
    """Values that stay shared bit by bit: comparisons that only select values, moved or negated on the way."""
    found: set[int] = set()
    for number, instr in enumerate(program.instrs):
        if instr.op is MpcOp.LTZ or (_keeps(program, instr) and all(a in found for a in instr.args)):
            found.add(number)
    shrinking = True
    while shrinking:
        before = len(found)
        for number, instr in enumerate(program.instrs):
            bits = [a for a in instr.args if a in found]
            if _keeps(program, instr):
                if number not in found:
                    found.difference_update(bits)
                elif len(bits) < len(instr.args):
                    found.discard(number)
            elif instr.op is MpcOp.MUL:
                found.difference_update(bits[1:])
            else:
                found.difference_update(bits)
        shrinking = len(found) < before
    return frozenset(found)


def _keeps(program: MpcProgram, instr: MpcInstr) -> bool:
    """Whether bits remain bits: they are moved, or subtracted from one."""
    return instr.op is MpcOp.GATHER or negates(program, instr)


def negates(program: MpcProgram, instr: MpcInstr) -> bool:
    """Whether an instruction is 1 - x, constants public and whole."""
    if instr.op is not MpcOp.SCALE or instr.frac or instr.weight < 0 or instr.bias < 0:
        return False
    weight, bias = program.consts[instr.weight], program.consts[instr.bias]
    if "model" in (weight.owner, bias.owner):
        return False
    return bool((weight.values == -1).all() and (bias.values == 1).all())


def masked_weights(program: MpcProgram) -> tuple[int, ...]:
    """Constants whose masks are opened at set-up: private weights of linear instructions, each once."""
    found = {i.weight: None for i in program.instrs if program.private_weight(i) is not None}
    return tuple(found)


def setup_bytes(program: MpcProgram) -> int:
    """Bytes that the model's owner sends once, before any input."""
    return ELEMENT_BYTES * sum(program.consts[c].values.size for c in masked_weights(program))


def traffic(program: MpcProgram, batch: int = 1) -> Iterator[Traffic]:
    """Per instruction what it costs.

    Args:
        program: what runs.
        batch: inputs that run together.
    """
    bits = kept_bits(program)
    return (_cost(program, number, bits, batch) for number in range(len(program)))


def _cost(program: MpcProgram, number: int, bits: frozenset[int], batch: int) -> Traffic:
    instr = program.instrs[number]
    sizes = [batch * program.instrs[a].size for a in instr.args]
    size = batch * instr.size
    match instr.op:
        case MpcOp.CONV | MpcOp.MATMUL | MpcOp.SCALE if program.private_weight(instr) is not None:
            return Traffic(1, to_model=ELEMENT_BYTES * sizes[0], offline=ELEMENT_BYTES * size)
        case MpcOp.SQUARE:
            return _both(1, ELEMENT_BYTES * size, ELEMENT_BYTES * size)
        case MpcOp.MUL if (bit := next((i for i, a in enumerate(instr.args) if a in bits), None)) is not None:
            sent = ELEMENT_BYTES * (words(sizes[bit]) + sizes[1 - bit])
            return _both(1, sent, ELEMENT_BYTES * (sizes[bit] + size))
        case MpcOp.MUL | MpcOp.DOT:
            return _both(1, ELEMENT_BYTES * sum(sizes), ELEMENT_BYTES * size)
        case MpcOp.LTZ:
            return _comparison(carry_bits(instr), size, number in bits)
        case MpcOp.REVEAL:
            sent = ELEMENT_BYTES * size
            return Traffic(1, to_data=sent) if instr.attrs["to"][0] == DATA_PARTY else Traffic(1, to_model=sent)
        case _:
            return Traffic()


def _both(rounds: int, sent: int, offline: int) -> Traffic:
    return Traffic(rounds, sent, sent, offline)


def _comparison(positions: int, size: int, kept: bool) -> Traffic:
    plane = ELEMENT_BYTES * words(size)
    tree = levels(positions)
    opened = positions + sum(level.groups * len(level.factors) for level in tree)
    dealt = positions + sum(level.groups * len(level.mask_products) for level in tree)
    found = _both(1 + len(tree), plane * opened, plane * dealt)
    return found if kept else found + _both(1, plane, ELEMENT_BYTES * size)
