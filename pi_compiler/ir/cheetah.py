"""What two parties send under Cheetah as SPU 0.9.5 runs it: no dealer, lattice ciphertexts and oblivious transfers.

How many ciphertexts, transfers and openings an instruction takes follows from the protocol and is exact; what a
ciphertext takes is measured, because it is compressed, and differs by a few in a thousand from one to the next.

* **Matrix products** (Huang et al., "Cheetah", USENIX Security 2022, section 4; packed as in Lu et al., "BumbleBee",
  NDSS 2025): polynomials of 8,192 coefficients hold blocks of both matrices. Whose matrix makes fewer of them
  encrypts it, the other multiplies and answers with packed ciphertexts, or, if one polynomial holds the whole
  result, with a half of a ciphertext and the coefficients that matter. Blocks are SPU's choice: those that cost
  least at 1,000 a ciphertext, 1 an automorphism and 0.1 a product. Products of shares do this in both directions.
* **Products of elements** below 16,384 of them open two masked operands; their triples come from batches of 4,096,
  charged here by the triple, as if batches were divisible. More of them, and products with what one party knows,
  send batches of 8,192 operands themselves.
* **LTZ** compares 63 bits in digits of four (Rathee et al., "CrypTFlow2", CCS 2020, algorithm 1): a transfer of one
  of 16 per digit, then a tree of products of bits, whose triples are transfers as well.
* **TRUNCATE, a bit times a value, bits as ring elements** are one transfer per element, or one in each direction.
* Transfers come in batches of ten million per direction (Yang et al., "Ferret", CCS 2020); a batch is 266 KB, charged
  here by the transfer. The first of each belong to the set-up.

Rounds are one-way latencies that follow one another; messages, which SPU counts, may be fewer (an answer within one
exchange) or more (ciphertexts one by one).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from math import ceil, inf

from pi_compiler.ir.mpc_program import DATA_PARTY, MODEL_PARTY, MpcInstr, MpcOp, MpcProgram
from pi_compiler.ir.spu import Held, held, product_of
from pi_compiler.ir.two_party import ELEMENT_BYTES, Traffic

DEGREE = 8192
TRANSFERS = 10_485_760 - 468_768
"""Oblivious transfers that a batch yields: what stays of it after the next batch's seeds."""
LTZ_TRANSFERS = (79, 15)
"""Of a comparison, with the model's owner sending, and with the data's owner sending."""
TRIPLES = DEGREE // 2
"""Of a batch for products of elements."""
_BATCH_BYTES = 266_259
_MATRIX_SENT, _MATRIX_BACK = 184_970, 127_185
"""An encrypted polynomial, and one of the two that an answer has; measured."""
_COEFFICIENT = 16.3
_ELEMENTS_SENT, _ELEMENTS_BACK = 643_840, 500_150
"""8,192 encrypted elements, and the answer to them; measured."""
DIRECT = 2 * DEGREE
"""From so many elements on products do without triples."""
_DIGITS, _CHOICES = 16, 64
_LTZ_ROUNDS = 19


@dataclass(frozen=True, slots=True)
class Blocks:
    """How SPU cuts a product of matrices into polynomials.

    Attributes:
        left: polynomials of the first matrix.
        right: of the second.
        results: of the result.
        answers: ciphertexts that hold the result.
        packed: whether they are packed; else one per polynomial of the result.
        products: of two polynomials.
        merges: automorphisms that packing takes.
    """

    left: int
    right: int
    results: int
    answers: int
    packed: bool
    products: int = 1
    merges: int = 0


@cache
def blocks(rows: int, inner: int, columns: int) -> Blocks:
    """The cut of a product (rows, inner) @ (inner, columns)."""
    found = _cheapest(rows, inner, columns, packed=True)
    return found if found.results > 1 else _cheapest(rows, inner, columns, packed=False)


def _cheapest(rows: int, inner: int, columns: int, *, packed: bool) -> Blocks:
    best, least = Blocks(1, 1, 1, 1, packed), inf
    for high in range(1, min(DEGREE, rows) + 1):
        deep = 1
        while deep <= inner and high * deep <= DEGREE:
            wide = min(columns, DEGREE // high // deep)
            a, b, c = -(-rows // high), -(-inner // deep), -(-columns // wide)
            answers = -(-a * c // deep)
            automorphisms = -(-rows * columns // DEGREE) * deep if packed else 0
            cost = 1000.0 * (min(a, c) * b + answers) + automorphisms + a * b * c / 10
            if cost <= least:
                least = cost
                best = Blocks(a * b, b * c, a * c, answers if packed else a * c, packed, a * b * c, automorphisms)
            deep = 2 * deep if packed else deep + 1
    return best


@dataclass(frozen=True, slots=True)
class Use:
    """What an instruction takes.

    Attributes:
        sent: in its own messages.
        by_model: transfers that the model's owner offers.
        by_data: transfers that the data's owner offers.
        triples: of the batches for products of elements.
    """

    sent: Traffic = field(default_factory=Traffic)
    by_model: int = 0
    by_data: int = 0
    triples: int = 0

    def __add__(self, other: Use) -> Use:
        return Use(
            self.sent + other.sent,
            self.by_model + other.by_model,
            self.by_data + other.by_data,
            self.triples + other.triples,
        )

    @property
    def traffic(self) -> Traffic:
        """With its part of the batches that transfers and triples come from."""
        made, each = self.triples / TRIPLES, _BATCH_BYTES / TRANSFERS
        return self.sent + Traffic(
            round(2 * min(1.0, made)),
            round(made * _ELEMENTS_SENT + self.by_data * each),
            round(made * _ELEMENTS_BACK + self.by_model * each),
        )


def cheetah_traffic(program: MpcProgram, how: Held | None = None) -> list[Traffic]:
    """Rounds and bytes of every instruction under Cheetah, batches charged by the part that is used."""
    return [use.traffic for use in cheetah_uses(program, how)]


def cheetah_uses(program: MpcProgram, how: Held | None = None) -> list[Use]:
    """What every instruction takes under Cheetah; ``how`` its values are held, if that is known."""
    how = how or held(program)
    return [_use(program, number, how) for number in range(len(program))]


def _use(program: MpcProgram, number: int, how: Held) -> Use:
    instr = program.instrs[number]
    if instr.op is MpcOp.REVEAL:
        return Use(Traffic(1, to_data=ELEMENT_BYTES * instr.size))
    if number in how.owners:
        return Use()
    return _turned(program, instr, how) + _computed(program, instr, how)


def _turned(program: MpcProgram, instr: MpcInstr, how: Held) -> Use:
    count = how.turned(instr)
    if not count:
        return Use()
    size = sum(program.instrs[a].size for a in instr.args if a in how.bits)
    # Sums halve their operand first and turn both halves.
    calls = 2 if instr.op is MpcOp.SUM else count
    choices = calls * _choices(size // calls)
    return Use(Traffic(2 * calls, choices, ELEMENT_BYTES * size), size)


def _computed(program: MpcProgram, instr: MpcInstr, how: Held) -> Use:
    size = instr.size
    match instr.op:
        case MpcOp.CONV | MpcOp.MATMUL if how.shared(program, instr):
            return Use(_product(program, instr, both=False))
        case MpcOp.DOT:
            return Use(_product(program, instr, both=True))
        case MpcOp.SCALE if program.private_weight(instr) is not None:
            return _elements(size) if instr.args[0] in how.owners else Use(_known(size, MODEL_PARTY))
        case MpcOp.SQUARE:
            return _elements(size)
        case MpcOp.MUL:
            return _mul(instr, how)
        case MpcOp.TRUNCATE:
            return Use(Traffic(2, _choices(size), _packed(size, instr.attrs["bits"][0])), size)
        case MpcOp.LTZ:
            return _compared(size)
        case _:
            return Use()


def _product(program: MpcProgram, instr: MpcInstr, *, both: bool) -> Traffic:
    """The data's owner holds the first matrix, or a share of it; with ``both`` also the other way round."""
    size = product_of(program, instr)
    cut = blocks(size.rows, size.inner, size.columns)
    sent = _MATRIX_SENT * min(cut.left, cut.right)
    back = _MATRIX_BACK * 2 * cut.answers
    if not cut.packed:
        back = _MATRIX_BACK * cut.answers + ceil(_COEFFICIENT * size.rows * size.columns)
    if both:
        return Traffic(2 * size.batch, size.batch * (sent + back), size.batch * (sent + back))
    to_model, to_data = (sent, back) if cut.left <= cut.right else (back, sent)
    return Traffic(2 * size.batch, size.batch * to_model, size.batch * to_data)


def _mul(instr: MpcInstr, how: Held) -> Use:
    size, own = instr.size, how.owners
    bits = sum(a in how.bits for a in instr.args if a not in own)
    if bits == 2:
        opened = 2 * _words(size)
        return Use(Traffic(2, opened, opened), size, size)
    if bits:
        sent = ELEMENT_BYTES * size + _choices(size)
        return Use(Traffic(3, sent, sent), size, size)
    knows = [own[a] for a in instr.args if a in own]
    return Use(_known(size, knows[0])) if len(knows) == 1 else _elements(size)


def _elements(size: int) -> Use:
    """Products of two shares."""
    if size < DIRECT:
        opened = 2 * ELEMENT_BYTES * size
        return Use(Traffic(1, opened, opened), triples=size)
    first, second = -(-(size // 2) // DEGREE), -(-(size - size // 2) // DEGREE)
    to_data = 2 * _ELEMENTS_SENT * first + _ELEMENTS_BACK * second
    return Use(Traffic(2, 2 * _ELEMENTS_SENT * second + _ELEMENTS_BACK * first, to_data))


def _known(size: int, owner: int) -> Traffic:
    """Products of a share with what a party knows, who encrypts it."""
    batches = -(-size // DEGREE)
    sent, back = batches * _ELEMENTS_SENT, batches * _ELEMENTS_BACK
    return Traffic(2, sent, back) if owner == DATA_PARTY else Traffic(2, back, sent)


def _compared(size: int) -> Use:
    """The model's owner offers, the data's owner chooses; then both open masked bits, in words of 64."""
    opened, digits = 0, _DIGITS
    while digits > 1:
        digits //= 2
        # The lowest pair needs one product, the others two with a common factor.
        opened += 2 * _words(size) + (3 * _words((digits - 1) * size) if digits > 1 else 0)
    offered = 4 * _DIGITS * size
    sent = Traffic(_LTZ_ROUNDS, _choices(_CHOICES * size) + opened, offered + opened)
    return Use(sent, *(n * size for n in LTZ_TRANSFERS))


def _words(bits: int) -> int:
    return 8 * -(-bits // 64)


def _choices(transfers: int) -> int:
    """Choice bits, in words of 128."""
    return 16 * -(-transfers // 128)


def _packed(size: int, bits: int) -> int:
    """Numbers of so many bits, eight at a time in whole words."""
    whole, rest = divmod(size, 8)
    return whole * _words(8 * bits) + (_words(rest * bits) if rest else 0)
