"""What truncations cost per protocol, and what is saved where a value's sign is known.

CrypTen truncates locally. SPU's protocols talk; under Cheetah a truncation of known sign is the cheap one in theory
(36 bits instead of 724). Part of a plan's bytes: counted (CrypTen, SEMI2K) or from measured prices. Known against
unknown sign: squares of 16,384 values, truncated as squares, of which SPU knows that they are not negative, or as ring
elements of which it does not; real processes on the loopback interface, bytes of both parties.

    PI_DATA_DIR=... python bench/mpc_truncation.py        # about two minutes
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import rows

from pi_compiler.api import compile_secure
from pi_compiler.cost_mpc import load_mpc_prices, total_cost
from pi_compiler.ir.mpc_program import MpcConst, MpcInstr, MpcOp, MpcPort, MpcProgram
from pi_compiler.ir.spu import fused_squares
from pi_compiler.models.data import load
from pi_compiler.models.zoo import model_path
from pi_compiler.options import Options
from pi_compiler.runtime.mpc.launcher import Plan
from pi_compiler.runtime.mpc.spu.backend import SpuMpc

_NETWORKS = ("resnet20_cifar10_jpeg", "resnet20_cifar10_jpeg_quadratic")
_PROTOCOLS = ("crypten-ttp", "semi2k", "cheetah", "aby3")
_SIZE, _FRAC = 16_384, 16


def parts() -> Iterator[rows.Row]:
    """What part of a plan's bytes and rounds are truncations."""
    calibration = load("cifar10-jpeg", "calibration").x[:64]
    for name in _NETWORKS:
        for protocol in _PROTOCOLS:
            options = Options(target="mpc", protocol=protocol, network="wan")
            program = compile_secure(model_path(name), calibration=calibration, options=options).program
            prices = load_mpc_prices(protocol)
            costs = zip(program.instrs, prices.each(program), strict=True)
            cut = [cost for instr, cost in costs if instr.op is MpcOp.TRUNCATE]
            whole = total_cost(program, prices)
            title = f"{name} {protocol}: truncations"
            yield rows.Row(f"{title}, part of the bytes", sum(c.bytes for c in cut) / whole.bytes, "")
            yield rows.Row(f"{title}, part of the rounds", sum(c.rounds for c in cut) / whole.rounds, "")
        known = len(fused_squares(program))
        yield rows.Row(f"{name}: truncations of known sign", float(known), "instructions", "all", float(len(cut)))


def squares(*, known: bool) -> MpcProgram:
    """Squares, truncated; with their sign known to SPU or not, which it is told within a layer only.

    What the model's owner adds makes the values both parties' secret: a value of one party's needs no protocol.
    """
    shape = (_SIZE,)
    shift = MpcConst(np.ones(shape, np.int64), _FRAC, "model")
    instrs = (
        MpcInstr(MpcOp.INPUT, (), shape, _FRAC, 0),
        MpcInstr(MpcOp.SCALE, (0,), shape, _FRAC, 0, bias=0),
        MpcInstr(MpcOp.SQUARE, (1,), shape, 2 * _FRAC, 1),
        MpcInstr(MpcOp.TRUNCATE, (2,), shape, _FRAC, 1 if known else 2, attrs={"bits": (_FRAC,)}),
        MpcInstr(MpcOp.REVEAL, (3,), shape, _FRAC, 3, attrs={"to": (1,)}),
    )
    layers = ("x", "square", "truncate", "y")
    return MpcProgram(instrs, (shift,), (), {"x": MpcPort(0, shape)}, {"y": MpcPort(4, shape)}, layers, "cheetah")


def signs() -> Iterator[rows.Row]:
    """Bytes of squares with and without their sign known."""
    x = np.random.default_rng(0).normal(size=(1, _SIZE))
    for protocol in ("semi2k", "cheetah"):
        sent = {}
        for known in (True, False):
            backend = SpuMpc(Plan(spu=protocol, timeout=120.0))
            found, _ = backend.run(squares(known=known), {"x": x})
            error = float(np.abs(found["y"] - x**2).max())
            sent[known] = sum(p.online.sent for p in backend.parties) / _SIZE
            yield rows.Row(f"squares {protocol}, sign {'known' if known else 'unknown'}: error", error, "")
        yield rows.cost(f"squares {protocol}, sign known", sent[True], "bytes each", "unknown", sent[False])


def main() -> None:
    """Write ``results/mpc_truncation.json``."""
    rows.write("mpc_truncation", [*signs(), *parts()])
    print(rows.machine())


if __name__ == "__main__":
    main()
