"""Sums of products in one call mean what their instructions mean one by one."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pi_compiler.approx.plan import make_plan
from pi_compiler.approx.poly import Basis, Poly
from pi_compiler.errors import ExecutionError
from pi_compiler.ir.params import make_params
from pi_compiler.ir.program import Opcode, Program
from pi_compiler.kernels.poly import polynomial
from pi_compiler.passes.lower import Emit, assemble, number
from pi_compiler.runtime.backend import Evaluator
from pi_compiler.runtime.clear import ClearBackend
from pi_compiler.runtime.executor import execute, prepare
from pi_compiler.runtime.fuse import fuse
from pi_compiler.runtime.native import NativeBackend
from pi_compiler.runtime.native.material import core, core_error

pytestmark = pytest.mark.skipif(core_error() is not None, reason="the native module is not built")

PARAMS = make_params(11, 4, 40, log_q0=46, log_special=45, specials=2, insecure=True)
KERNELS = core.instruction_sets() if core is not None else []
INPUTS = 3
Build = Callable[..., object]


@cache
def parts(kernels: str) -> tuple[object, Evaluator]:
    backend = NativeBackend(threads=1, kernels=kernels)
    client = backend.keygen(PARAMS, (1,), insecure=True)
    return client, backend.evaluator(PARAMS, client.eval_keys)


def answers(program: Program, kernels: str, *, fused: bool) -> tuple[np.ndarray, tuple[int, float]]:
    client, ev = parts(kernels)
    x = encrypted(kernels)
    out, trace = execute(prepare(program, ev, plaintext_memory=1 << 20, fused=fused), {"x": x})
    assert sum(t.count for name, t in trace.opcodes().items() if name != "encode") == len(program)
    y = out["y"][0]
    return client.decrypt(y), (ev.type_of(y).level, ev.type_of(y).scale)


@cache
def encrypted(kernels: str) -> list[object]:
    """The same for all sides, whose noise is compared."""
    return [parts(kernels)[0].encrypt(row, PARAMS.max_level, PARAMS.scale) for row in rows()]


def rows() -> np.ndarray:
    return np.random.default_rng(1).uniform(-1, 1, (INPUTS, PARAMS.slots))


def meaning(program: Program) -> np.ndarray:
    client = ClearBackend().keygen(PARAMS, (1,), insecure=True)
    ev = ClearBackend().evaluator(PARAMS, client.eval_keys)
    x = [client.encrypt(row, PARAMS.max_level, PARAMS.scale) for row in rows()]
    out, _ = execute(prepare(program, ev, plaintext_memory=0), {"x": x})
    return client.decrypt(out["y"][0])


TREE = st.recursive(
    st.tuples(st.sampled_from(["mul", "plain", "shared"]), st.integers(0, INPUTS - 1), st.integers(0, INPUTS - 1)),
    lambda parts: st.one_of(
        st.tuples(st.sampled_from(["add", "sub"]), parts, parts),
        st.tuples(st.sampled_from(["double", "constant", "neg"]), parts),
    ),
    max_leaves=7,
)


def emit(b: object, tree: tuple[object, ...], shared: int) -> int:
    """The value of a tree of sums, all in double scale."""
    kind, *of = tree
    match kind:
        case "mul":
            return b.mul(*of)
        case "plain":
            values = np.random.default_rng(of[1]).uniform(-1, 1, (1, 4, PARAMS.slots)[of[1]])
            return b.mul_plain(of[0], values, PARAMS.scale)
        case "shared":
            return shared
        case "add" | "sub":
            x, y = (emit(b, part, shared) for part in of)
            return b.add(x, y) if kind == "add" else b.sub(x, y)
    x = emit(b, of[0], shared)
    if kind == "constant":
        return b.add_plain(x, np.array([0.25, -0.5]))
    return b.neg(x) if kind == "neg" else b.add(x, x)


@pytest.mark.parametrize("kernels", KERNELS)
@settings(max_examples=25, deadline=None)
@given(tree=TREE, again=st.booleans())
def test_any_tree_of_sums_gives_the_same_level_scale_and_values(
    build: Build, kernels: str, tree: tuple[object, ...], again: bool
) -> None:
    b = build(PARAMS, INPUTS)
    shared = b.mul(0, 2)  # read by others too: not part of any fused sum
    total = b.add(b.mul(0, 1), emit(b, tree, shared))
    y = b.rescale(b.relinearize(total))
    if again:
        rest = b.mul_plain(b.drop_level(0, 3), np.ones(1), b.types[y][1] ** 2 / PARAMS.scale)
        y = b.rescale(b.relinearize(b.sub(b.mul(y, y), rest)))
    program = b.program(y, b.rescale(b.relinearize(shared)))
    assert fuse(program).product_sums
    exact = meaning(program)
    plain, fused = (answers(program, kernels, fused=f) for f in (False, True))
    assert plain[1] == fused[1]
    size = max(1.0, float(np.abs(exact).max()))
    assert np.abs(plain[0] - exact).max() < 2.0**-18 * size
    assert np.abs(fused[0] - exact).max() < 2.0**-18 * size
    # One rounding instead of two: noise does not grow.
    assert (fused[0] - exact).std() < 1.25 * (plain[0] - exact).std() + 2.0**-40


def test_a_sum_of_products_is_found_whole_and_only_where_nobody_else_reads_its_parts(build: Build) -> None:
    b = build(PARAMS, INPUTS)
    product = b.mul(0, 1)
    doubled = b.add(product, product)
    total = b.sub(b.add_plain(doubled, np.ones(1)), b.mul_plain(2, np.ones(1), PARAMS.scale))
    y = b.rescale(b.relinearize(total))
    found = fuse(b.program(y))
    ((root, whole),) = found.product_sums.items()
    assert root == len(b.rows) - 1
    assert sorted((t.weight, t.a, t.b) for t in whole.terms) == [(-1, 2, -1), (1, -1, -1), (2, 0, 1)]
    assert set(whole.covered) == set(range(root))
    assert fuse(b.program(y, total)).product_sums[root].terms[0].a == total
    assert not fuse(b.program(y, root + INPUTS - 1)).product_sums
    assert not fuse(b.program(y), products=False).product_sums


@pytest.mark.parametrize("basis", ["power", "chebyshev"])
@pytest.mark.parametrize("degree", [2, 5, 7, 11])
def test_polynomials_relinearize_in_fused_calls_only_and_keep_their_values(basis: Basis, degree: int) -> None:
    rng = np.random.default_rng(degree)
    poly = Poly(basis, tuple(rng.uniform(-1, 1, degree + 1).tolist()), (-1.0, 1.0))
    plan = make_plan(poly)
    emit = Emit(PARAMS, 1)
    emit.enter("polynomial")
    x = emit.input(PARAMS.max_level)
    result = polynomial(emit, x, plan, PARAMS.max_level - plan.depth)
    program = assemble(emit, {"x": (0,)}, {"y": (number(result),)})
    found = fuse(program)
    relinearized = {at for s in found.product_sums.values() for at in s.covered if program.op[at] == Opcode.RELINEARIZE}
    assert len(relinearized) == program.count(Opcode.RELINEARIZE) == len(found.product_sums)
    client, ev = parts(KERNELS[0])
    row = rows()[0]
    values = []
    for fused in (False, True):
        prepared = prepare(program, ev, plaintext_memory=1 << 20, fused=fused)
        out, _ = execute(prepared, {"x": encrypted(KERNELS[0])[:1]})
        assert ev.type_of(out["y"][0]).scale == pytest.approx(result.scale, rel=1e-12)
        values.append(client.decrypt(out["y"][0]) - poly(row))
    assert np.abs(values[0]).max() < 2.0**-16
    assert values[1].std() < 1.25 * values[0].std()


def test_books_are_kept_in_one_call_too() -> None:
    client, ev = parts(KERNELS[0])
    scale = PARAMS.scale**2 / PARAMS.primes[3]
    x, y = (client.encrypt(np.ones(4), level, PARAMS.scale) for level in (3, 2))
    one, other = ev.encode(np.ones(1), 3, PARAMS.scale), ev.encode(np.ones(1), 3, PARAMS.scale**2)
    ev.product_sum([(1, x, x, None), (-3, None, None, other)], scale)
    for terms, why in (
        ([], "no products"),
        ([(1, None, None, None)], "a term of nothing"),
        ([(1, x, y, None)], "different levels"),
        ([(1, x, x, None), (1, x, None, None)], "different scales"),
        ([(1, x, x, None), (1, None, None, one)], "different scales"),
        ([(1, x, None, one)], "only dimension 3"),
        ([(1, ev.mul(x, x), x, None)], "not relinearized"),
    ):
        with pytest.raises(ExecutionError, match=why):
            ev.product_sum(terms, scale)
    with pytest.raises(ExecutionError, match="the program says"):
        ev.product_sum([(1, x, x, None)], PARAMS.scale)
