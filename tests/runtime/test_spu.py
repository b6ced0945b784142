"""SPU: what its text computes is what the program means, what it sends was predicted, and nobody learns more."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
from networks_mpc import Transformer
from parties import dense_relu, workers
from spu_programs import Program, in_memory

from pi_compiler import api
from pi_compiler.errors import ExecutionError, ParameterError, UnsupportedInstruction
from pi_compiler.ir.mpc_program import MpcInstr, MpcOp
from pi_compiler.ir.spu import semi2k_traffic
from pi_compiler.models.zoo import model_path
from pi_compiler.options import Options
from pi_compiler.runtime.mpc import launcher
from pi_compiler.runtime.mpc.handout import public_view
from pi_compiler.runtime.mpc.launcher import Link, Parties, Plan
from pi_compiler.runtime.mpc.sim import RingEngine
from pi_compiler.runtime.mpc.spu import library
from pi_compiler.runtime.mpc.spu.backend import SpuMpc
from pi_compiler.runtime.mpc.spu.text import write_modules
from pi_compiler.runtime.mpc.walk import execute

installed = pytest.mark.skipif(library.missing() is not None, reason="spu is not installed")
RNG = np.random.default_rng(6)


def conv(p, x, weight, shape, group=1, strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), bias=-1):
    attrs = {"group": (group,), "strides": strides, "pads": pads, "dilations": dilations}
    return p.op(MpcOp.CONV, (x,), shape, weight=weight, bias=bias, attrs=attrs)


def linear():
    p = Program()
    x, v = p.input(1, 4, 6, 6), p.input(3, 5)
    a = conv(p, x, p.const(4, 4, 3, 3), (1, 4, 6, 6), bias=p.const(4, 1, 1))
    b = conv(p, a, p.const(6, 2, 3, 3), (1, 6, 2, 2), group=2, strides=(2, 2), pads=(1, 0, 0, 1), dilations=(2, 2))
    c = conv(p, v3 := p.op(MpcOp.GATHER, (v,), (1, 3, 5)), p.const(2, 3, 3), (1, 2, 5), 1, (1,), (1, 1), (1,))
    d = p.op(MpcOp.MATMUL, (v,), (3, 7), weight=p.const(5, 7), bias=p.const(7))
    e = p.op(MpcOp.MATMUL, (v3,), (2, 3, 4), weight=p.const(2, 5, 4))
    f = p.op(MpcOp.SCALE, (d,), (3, 7), weight=p.const(7, owner="public"), bias=p.const(3, 1))
    return p.done(b, c, e, p.op(MpcOp.SCALE, (f,), (3, 7), weight=p.const(1, 7)))


def between_values():
    p = Program()
    x, y = p.input(2, 3, 4), p.input(4, 5)
    s = p.op(MpcOp.SCALE, (x,), (2, 3, 4), bias=p.const(2, 3, 4))
    a = p.op(MpcOp.DOT, (s, y), (2, 3, 5))
    b = p.op(MpcOp.DOT, (s, p.op(MpcOp.GATHER, (s,), (2, 4, 3))), (2, 3, 3))
    c = p.op(MpcOp.MUL, (p.op(MpcOp.SUM, (s,), (2, 1, 4), attrs={"axes": (1,)}), s), (2, 3, 4))
    d = p.op(MpcOp.ADD, (c, p.op(MpcOp.SUB, (c, s), (2, 3, 4))), (2, 3, 4))
    return p.done(a, b, d, p.op(MpcOp.SQUARE, (d,), (2, 3, 4)))


def comparisons():
    """Bits that select, bits that are moved and split, bits that are counted, and a bit times a bit."""
    p = Program()
    x = p.op(MpcOp.SCALE, (p.input(10),), (10,), bias=p.const(10))
    bit = p.op(MpcOp.LTZ, (x,), (10,))
    moved = p.op(MpcOp.GATHER, (bit,), (4,), index=p.index([9, -1, 3, 3]))
    kept = p.op(MpcOp.GATHER, (x, x), (4,), index=p.index([0, 12, -1, 5]))
    run = p.op(MpcOp.GATHER, (x,), (4,), index=p.index([2, 3, 4, 5]))
    chosen = p.op(MpcOp.MUL, (kept, moved), (4,))
    count = p.op(MpcOp.SUM, (bit,), (1,), attrs={"axes": (0,)})
    both = p.op(MpcOp.MUL, (moved, p.op(MpcOp.LTZ, (run,), (4,))), (4,))
    wide = p.op(MpcOp.MUL, (count, run), (4,))
    return p.done(chosen, both, wide, p.op(MpcOp.MUL, (bit, x), (10,)))


def truncations():
    """Several widths in one program, and of a square."""
    p = Program()
    x = p.op(MpcOp.SCALE, (p.input(40),), (40,), bias=p.const(40))
    big = p.op(MpcOp.MUL, (x, x), (40,))
    less = p.op(MpcOp.TRUNCATE, (big,), (40,), -3, attrs={"bits": (3,)})
    least = p.op(MpcOp.TRUNCATE, (big,), (40,), -5, attrs={"bits": (5,)})
    square = p.op(MpcOp.SQUARE, (x,), (40,))
    return p.done(less, least, p.op(MpcOp.TRUNCATE, (square,), (40,), -4, attrs={"bits": (4,)}))


@installed
@pytest.mark.parametrize("make", [linear, between_values, comparisons, truncations])
@pytest.mark.parametrize("protocol", ["semi2k", "aby3"])
def test_every_opcode_keeps_its_meaning_on_spu(make, protocol):
    """Ring elements are compared: nothing but truncations may be off, and those by one unit."""
    program = make()
    x = {n: RNG.integers(-99, 99, program.instrs[p.value].shape) for n, p in program.inputs.items()}
    found = in_memory(program, x, protocol)
    wanted, _ = execute(program, RingEngine(program, "interactive"), {n: v[None] for n, v in x.items()})
    for name, port in program.outputs.items():
        exact = np.ldexp(wanted[name][0], program.instrs[port.value].frac)
        assert np.abs(found[name] - exact).max() <= (1 if make is truncations else 0), name


@installed
@pytest.mark.slow
def test_a_block_of_a_transformer_runs_on_spu():
    """Softmax, GELU and normalization, which the compiler composes of few opcodes."""
    model = Transformer(tokens=4, width=8, heads=2).model()
    x = RNG.normal(size=(8, 1, 4, 8)).astype(np.float32)
    compiled = api.compile_secure(model, calibration=x, options=Options(target="mpc", protocol="semi2k"))
    program = compiled.program
    rings = {n: np.rint(np.ldexp(x[0].astype(np.float64), program.instrs[p.value].frac)).astype(np.int64)
             for n, p in program.inputs.items()}  # fmt: skip
    found = in_memory(program, rings)
    wanted = compiled.run(x[:1], backend="mpc-clear").logits
    for name, port in program.outputs.items():
        assert np.abs(np.ldexp(found[name], -program.instrs[port.value].frac) - wanted[name][0]).max() < 0.05


@installed
def test_processes_on_spu_send_what_was_predicted_and_know_only_their_own(digits, monkeypatch, capfd):
    """The digits network between two real processes: answers, bytes, rounds, and what each was handed."""
    handed: list[tuple[int, bytes]] = []
    plain = launcher.write_frame

    def recorded(stream, head, arrays=None):
        handed.append(
            (head.get("rank", -1), b"".join(np.ascontiguousarray(a).tobytes() for a in (arrays or {}).values()))
        )
        plain(stream, head, arrays)

    monkeypatch.setattr(launcher, "write_frame", recorded)
    monkeypatch.setenv("PI_DEBUG", "1")  # lets what the processes log through
    compiled, x = digits
    program, backend = compiled.program, SpuMpc()
    outputs, trace = backend.run(program, {next(iter(program.inputs)): x})
    exact = compiled.run(x, backend="mpc-sim").logits
    name = next(iter(program.outputs))
    assert (outputs[name].argmax(-1) == exact[name].argmax(-1)).all()
    assert np.abs(outputs[name] - exact[name]).max() < 0.01

    for layer in trace.layers:
        sent = [c for i, c in zip(program.instrs, semi2k_traffic(program), strict=True)
                if program.origins[i.origin] == layer]  # fmt: skip
        spent = trace.layers[layer].traffic
        assert spent.rounds == sum(c.rounds for c in sent), layer
        assert abs(spent.bytes_sent / len(x) - sum(c.to_data + c.to_model for c in sent)) <= 64, layer

    weights = [c.values.tobytes("A") for c in program.consts if c.owner == "model" and c.values.size > 8]
    by_rank = dict(handed)
    assert sorted(by_rank) == [0, 1]
    assert [all(w in by_rank[rank] for w in weights) for rank in range(2)] == [True, False]
    assert not any(w in by_rank[1] for w in weights)
    assert [x.tobytes() in by_rank[rank] for rank in range(2)] == [False, True]
    logged = "".join(capfd.readouterr())
    assert not any(f"{v:.5f}"[:7] in logged for v in x.ravel() if abs(v) > 1e-4)
    assert not workers()


@pytest.fixture(scope="module")
def digits():
    from pi_compiler.models.data import load

    data = load("digits", "calibration").x[:64].astype(np.float64)
    compiled = api.compile_secure(
        model_path("digits_cnn"), calibration=data, options=Options(target="mpc", protocol="semi2k")
    )
    return compiled, compiled.stacked(data[:2])[next(iter(compiled.program.inputs))]


@installed
def test_what_is_not_a_party_s_own_does_not_depend_on_it():
    """Whoever does not own a value enters zeros: the library may put nothing of them into what is sent."""
    io = library.load().IoWrapper(2, library.config("semi2k"))
    seen = library.load().Visibility.VIS_SECRET
    mine, zeros = (io.MakeShares(v, seen, 1) for v in (np.arange(6), np.zeros(6, np.int64)))
    assert list(mine[0].share_chunks) == list(zeros[0].share_chunks)
    assert list(mine[1].share_chunks) != list(zeros[1].share_chunks)


def test_texts_hold_no_weights():
    """Every party compiles the same text, so it may depend on public numbers only."""
    program = dense_relu()
    own, public = write_modules(program), write_modules(public_view(program))
    assert [m.text for m in own.modules] == [m.text for m in public.modules]


def test_layers_that_spu_cannot_run_are_named_at_once():
    p = Program()
    x = p.input(1, 1, 3, 3, 3)
    for name in ("first", "second"):
        p.origins.append(name)
        attrs = {"group": (1,), "strides": (1,) * 3, "pads": (1,) * 6, "dilations": (1,) * 3}
        made = MpcInstr(MpcOp.CONV, (x,), (1, 1, 3, 3, 3), 0, len(p.origins) - 1, p.const(1, 1, 3, 3, 3), attrs=attrs)
        p.instrs.append(made)
        x = len(p.instrs) - 1
    with pytest.raises(UnsupportedInstruction, match=r"(?s)'first'.*3 dimensions.*'second'"):
        write_modules(p.done(x))


@installed
@pytest.mark.parametrize("protocol", ["semi2k", "aby3"])
def test_truncations_are_off_by_one_at_most_over_the_whole_ring(protocol):
    """SPU scales the constant that we multiply by; told to assume more fractional bits it would overflow."""
    p, powers = Program(), [sign * (2**k + 12345) for k in range(16, 62, 3) for sign in (1, -1)]
    x = p.op(MpcOp.SCALE, (p.input(len(powers)),), (len(powers),), bias=p.const(1))
    bits = (1, 7, 16, 32, 33, 60)
    program = p.done(*(p.op(MpcOp.TRUNCATE, (x,), (len(powers),), -b, attrs={"bits": (b,)}) for b in bits))
    found = in_memory(program, {"x0": np.array(powers)}, protocol)
    for b, got in zip(bits, found.values(), strict=True):
        assert np.abs(got - (np.array(powers) + p.consts[0].values >> b)).max() <= 1, b


@installed
@pytest.mark.slow
def test_survivors_of_a_killed_party_on_spu_say_so_and_end():
    plan = Plan(timeout=10, link=Link(2e-3, 1e8), spu="semi2k")
    with Parties(dense_relu(repeats=40), {"x": np.zeros((9, 1, 24))}, plan) as run:
        assert run.met.wait(120)
        time.sleep(0.2)
        run.processes[1].kill()
        start = time.monotonic()
        with pytest.raises(ExecutionError) as caught:
            run.wait()
    assert time.monotonic() - start < 15
    assert "party 0 (model owner): " in str(caught.value)
    assert "party 1 (data owner): its process was killed by signal 9" in str(caught.value)
    assert not workers()


def test_three_parties_are_those_of_the_protocol():
    assert Plan(3, spu="aby3").seats == 3
    assert Plan(spu="semi2k").seats == 2
    with pytest.raises(ParameterError, match="model owner, data owner and helper"):
        Plan(2, spu="aby3")


def test_without_the_library_the_backend_says_what_to_install(monkeypatch):
    monkeypatch.setattr(library, "find_spec", lambda name: None)
    assert "pip install --no-deps spu==0.9.5" in str(SpuMpc().available())


def test_the_library_is_loaded_without_its_package(tmp_path: Path):
    """Its package would import jax."""
    import sys

    if library.missing() is None:
        library.load()
    assert "jax" not in sys.modules
    assert "spu" not in sys.modules
