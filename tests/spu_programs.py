"""MPC programs by hand, and running them on SPU between threads."""

from __future__ import annotations

import threading

import numpy as np

from pi_compiler.ir.mpc_program import MpcConst, MpcInstr, MpcOp, MpcPort, MpcProgram, check
from pi_compiler.runtime.mpc.spu import library
from pi_compiler.runtime.mpc.spu.text import write_modules


class Program:
    """A program by hand: whole numbers, so that all but truncations is exact.

    Args:
        apart: a layer per instruction, named after its opcode and number.
        seed: of its constants.
    """

    def __init__(self, *, apart: bool = False, seed: int = 6):
        self.instrs, self.consts, self.indices, self.ports, self.origins = [], [], [], {}, ["all"]
        self.apart, self.rng = apart, np.random.default_rng(seed)

    def input(self, *shape):
        self.ports[f"x{len(self.ports)}"] = MpcPort(len(self.instrs), shape)
        return self.op(MpcOp.INPUT, (), shape)

    def op(self, op, args, shape, frac=0, **more):
        if self.apart:
            self.origins.append(f"{op} {len(self.instrs)}")
        self.instrs.append(MpcInstr(op, tuple(args), tuple(shape), frac, len(self.origins) - 1, **more))
        return len(self.instrs) - 1

    def const(self, *shape, owner="model"):
        self.consts.append(MpcConst(self.rng.integers(-50, 50, shape), 0, owner))
        return len(self.consts) - 1

    def index(self, values):
        self.indices.append(np.asarray(values))
        return len(self.indices) - 1

    def done(self, *values):
        outputs = {}
        for value in values:
            shape, frac = self.instrs[value].shape, self.instrs[value].frac
            shown = self.op(MpcOp.REVEAL, (value,), shape, frac, attrs={"to": (1,)})
            outputs[f"y{value}"] = MpcPort(shown, shape)
        parts = tuple(self.instrs), tuple(self.consts), tuple(self.indices), self.ports, outputs
        made = MpcProgram(*parts, tuple(self.origins), "semi2k")
        check(made)
        return made


def in_memory(program, values, protocol="semi2k"):
    """Answers (ring elements) of a program between threads of this process; ``ref2k`` is one party in the clear."""
    spu, written = library.load(), write_modules(program)
    parties = {"aby3": 3, "ref2k": 1}.get(protocol, 2)
    settings = library.config(protocol)
    seen, io = spu.Visibility, spu.IoWrapper(parties, settings)
    known = {f"v{port.value}": (values[name], 1) for name, port in program.inputs.items()}
    known |= {f"c{n}": (c.values, 0) for n, c in enumerate(program.consts) if c.owner == "model"}
    known |= {f"p{n}": (c.values, None) for n, c in enumerate(program.consts) if c.owner == "public"}
    known |= {name: (index.astype(np.int64).reshape(-1, 1), None) for name, index in written.indices.items()}
    shares = {}
    for name, (array, owner) in known.items():
        vis = seen.VIS_PUBLIC if owner is None else seen.VIS_SECRET
        shares[name] = io.MakeShares(
            np.ascontiguousarray(array, np.int64), vis, -1 if owner is None or parties == 1 else owner
        )
    modules = [library.compiled("m", m.text, m.inputs, m.outputs) for m in written.modules]
    found, failed = [None] * parties, []

    def party(rank):
        try:
            link = spu.link.Desc()
            link.recv_timeout_ms = 30_000
            for other in range(parties):
                link.add_party(f"id{other}", f"thread{other}")
            runtime = spu.RuntimeWrapper(spu.link.create_mem(link, rank), settings)
            for name, parts in shares.items():
                runtime.SetVar(name, parts[rank])
            for module in modules:
                runtime.Run(module)
            shown = {n: program.instrs[p.value].args[0] for n, p in program.outputs.items()}
            found[rank] = {n: runtime.GetVar(f"v{value}") for n, value in shown.items()}
        except RuntimeError as error:
            failed.append(error)

    threads = [threading.Thread(target=party, args=(rank,)) for rank in range(parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed
    return {n: np.asarray(io.Reconstruct([f[n] for f in found])).astype(np.int64) for n in program.outputs}
