"""The executor frees what it no longer needs, keeps time by layer and says where it failed."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pi_compiler.errors import ExecutionError, PiError, ShapeMismatch, UnsupportedInstruction
from pi_compiler.ir.layout import place
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import Opcode, Port, Program, Signature
from pi_compiler.runtime.backend import Client, Evaluator, get_backend
from pi_compiler.runtime.clear import ClearBackend
from pi_compiler.runtime.executor import MAX_EVENTS, execute, prepare
from pi_compiler.runtime.session import Session
from pi_compiler.runtime.trace import merge

Build = Callable[..., object]


def clear(params: Params, program: Program) -> tuple[Client, Evaluator]:
    client = ClearBackend().keygen(params, program.rotations())
    return client, ClearBackend().evaluator(params, client.eval_keys)


def run(params: Params, program: Program, *rows: np.ndarray, memory: int = 1 << 30) -> tuple[list[np.ndarray], object]:
    client, ev = clear(params, program)
    x = [client.encrypt(v, program.type(i).level, params.scale) for i, v in enumerate(rows)]
    out, trace = execute(prepare(program, ev, plaintext_memory=memory), {"x": x})
    return [client.decrypt(c) for c in out["y"]], trace


def test_each_instruction_is_booked_under_its_layer_and_opcode(build: Build, small: Params) -> None:
    b = build(small)
    t = b.mul_plain(0, np.ones(8))
    b.layer("second")
    y = b.rescale(b.add(t, b.rotate(t, 1)))
    (found,), trace = run(small, b.program(y), np.arange(8.0))
    np.testing.assert_allclose(found[:8], np.arange(8) + np.roll(np.arange(8), -1))
    counts = {layer: {op: t.count for op, t in ops.items()} for layer, ops in trace.layers.items()}
    assert counts == {"layer 0": {"mul_plain": 1}, "second": {"add": 1, "rotate": 1, "rescale": 1}}
    assert sum(trace.layer_seconds().values()) == pytest.approx(trace.seconds, rel=0.2, abs=1e-4)
    assert [e.origin for e in trace.events] == ["layer 0", "second"]


def test_late_encoding_is_booked_by_itself_and_gives_the_same_result(build: Build, small: Params) -> None:
    b = build(small)
    y = b.rescale(b.add(b.mul_plain(0, np.arange(8.0)), b.mul_plain(0, np.ones(1))))
    program = b.program(y)
    early, trace = run(small, program, np.ones(8))
    late, late_trace = run(small, program, np.ones(8), memory=0)
    np.testing.assert_array_equal(early, late)
    assert "encode" not in trace.opcodes()
    assert late_trace.opcodes()["encode"].count == 2
    assert trace.plaintext_bytes == 72
    assert late_trace.plaintext_bytes == 0


def test_the_most_used_constants_are_encoded_beforehand(build: Build, small: Params) -> None:
    b = build(small)
    rare = b.mul_plain(0, np.arange(64.0))
    often = [b.mul_plain(0, np.arange(64.0) + 1) for _ in range(3)]
    for column in range(2, 4):  # the three share one constant
        b.rows[column] = (*b.rows[column][:4], b.rows[1][4], *b.rows[column][5:])
    total = rare
    for v in often:
        total = b.add(total, v)
    program = b.program(total)
    _, ev = clear(small, program)
    prepared = prepare(program, ev, plaintext_memory=64 * 8)
    assert [p is not None for p in prepared.plaintexts] == [False, True]
    assert prepared.plaintext_bytes == 512


def test_a_constant_used_at_two_levels_is_encoded_for_each(build: Build, small: Params) -> None:
    b = build(small)
    high = b.rescale(b.mul_plain(0, np.full(4, 2.0)))
    low = b.rescale(b.mul_plain(high, np.full(4, 2.0)))
    b.rows[2] = (*b.rows[2][:4], b.rows[0][4], *b.rows[2][5:])
    (found,), _ = run(small, b.program(low), np.ones(4))
    np.testing.assert_allclose(found[:4], 4)


def test_ciphertexts_are_freed_at_their_last_use(build: Build, small: Params) -> None:
    b = build(small)
    total = 0
    for k in range(1, 20):
        total = b.add(total, b.rotate(total, k))
    _, trace = run(small, b.program(total), np.ones(small.slots))
    assert trace.peak_ciphertexts == 3
    assert trace.peak_ciphertext_bytes == 3 * 8 * small.slots


def test_memory_of_another_size_is_not_reused_by_a_pool(build: Build, small: Params) -> None:
    pytest.importorskip("tenseal")
    b = build(small)
    program = b.program(b.drop_level(b.drop_level(0, 3), 1))
    backend = get_backend("tenseal")
    client = backend.keygen(small, (), relinearize=False)
    ev = backend.evaluator(small, client.eval_keys)
    x = [client.encrypt(np.ones(4), 5, small.scale)]
    _, trace = execute(prepare(program, ev, plaintext_memory=0), {"x": x})
    limb = 2 * 8 * 8192
    assert trace.peak_ciphertext_bytes == (6 + 4) * limb
    assert trace.pooled_ciphertext_bytes == (6 + 4 + 2) * limb


def test_results_that_nobody_reads_are_not_kept(build: Build, small: Params) -> None:
    b = build(small)
    for k in range(1, 20):
        b.rotate(0, k)
    _, trace = run(small, b.program(b.neg(0)), np.ones(small.slots))
    assert trace.peak_ciphertexts <= 2


def test_an_input_may_be_an_output_and_an_output_may_come_twice(build: Build, small: Params) -> None:
    b = build(small, 2)
    y = b.neg(0)
    found, _ = run(small, b.program(0, y, y), np.ones(1), np.ones(1))
    assert [v[0] for v in found] == [1, -1, -1]


def test_a_failure_names_layer_instruction_and_reason(build: Build, small: Params) -> None:
    b = build(small)
    b.layer("conv2")
    y = b.rotate(b.neg(0), 3)
    program = b.program(y)
    client = ClearBackend().keygen(small, ())
    ev = ClearBackend().evaluator(small, client.eval_keys)
    with pytest.raises(ExecutionError) as caught:
        execute(prepare(program, ev, plaintext_memory=0), {"x": [client.encrypt(np.ones(1), 5, small.scale)]})
    assert str(caught.value).startswith("layer 'conv2': there is no key for the rotation by 3")
    assert "instruction 1 of 2: rotate" in str(caught.value)


@pytest.mark.parametrize("memory", [0, 1 << 20])
def test_a_constant_that_cannot_be_encoded_names_its_layer(build: Build, small: Params, memory: int) -> None:
    b = build(small)
    b.layer("fc")
    program = b.program(b.rescale(b.mul_plain(0, np.array([np.nan]))))
    with pytest.raises(ExecutionError, match="layer 'fc': slot values are not finite"):
        run(small, program, np.ones(1), memory=memory)


def test_all_faults_of_the_inputs_come_at_once(build: Build, small: Params) -> None:
    program = build(small, 2).program(0)
    client, ev = clear(small, program)
    prepared = prepare(program, ev, plaintext_memory=0)
    low, off = client.encrypt(np.ones(1), 2, small.scale), client.encrypt(np.ones(1), 5, 2.0**20)
    with pytest.raises(ExecutionError) as caught:
        execute(prepared, {"x": [low, off], "z": []})
    message = str(caught.value)
    assert "unknown input 'z'" in message
    assert "input 'x': level 2, needed 5" in message
    assert "input 'x': scale 1048576.0, needed 67108864.0" in message
    with pytest.raises(ExecutionError, match="missing input 'x'"):
        execute(prepared, {})
    with pytest.raises(ExecutionError, match="has 1 ciphertexts, needs 2"):
        execute(prepared, {"x": [low]})


def test_an_output_of_another_type_than_promised_is_refused(build: Build, small: Params) -> None:
    b = build(small)
    program = b.program(b.neg(0))
    lying = replace(program, scale=program.scale * np.array([1.0, 2.0]))
    with pytest.raises(ExecutionError, match="output 'y' is not what the program promises: scale"):
        run(small, lying, np.ones(1))


@pytest.mark.parametrize(
    ("column", "value"), [("a", 9), ("a", -1), ("b", 7), ("const", 3), ("const", -1), ("origin", 2)]
)
def test_malformed_programs_are_refused_before_they_run(build: Build, small: Params, column: str, value: int) -> None:
    b = build(small)
    program = b.program(b.add_plain(0, np.ones(1)))
    broken = replace(program, **{column: np.array([value], np.int32)})
    _, ev = clear(small, program)
    with pytest.raises(ExecutionError, match="malformed"):
        prepare(broken, ev, plaintext_memory=0)


def test_instructions_that_no_evaluator_has_are_refused(build: Build, small: Params) -> None:
    b = build(small)
    program = b.program(b.emit(Opcode.CONJUGATE, 0, b.types[0]))
    with pytest.raises(UnsupportedInstruction, match="conjugate"):
        prepare(program, clear(small, program)[1], plaintext_memory=0)


def test_progress_follows_the_layers(build: Build, small: Params) -> None:
    b = build(small)
    y = b.neg(0)
    b.layer("next")
    program = b.program(b.neg(b.neg(y)))
    client, ev = clear(small, program)
    seen: list[tuple[str, int, int]] = []
    x = [client.encrypt(np.ones(1), 5, small.scale)]
    execute(prepare(program, ev, plaintext_memory=0), {"x": x}, progress=lambda *at: seen.append(at))
    assert seen == [("layer 0", 0, 3), ("next", 1, 3)]


def test_a_hundred_thousand_instructions_take_little_time_beyond_the_arithmetic(build: Build, small: Params) -> None:
    count = 100_000
    b = build(small)
    base = b.program(b.neg(0))
    column = np.zeros(count, np.int32)
    program = replace(
        base,
        op=np.full(count, Opcode.NEG, np.uint8),
        a=np.arange(count, dtype=np.int32),
        b=column - 1,
        imm=column,
        const=column - 1,
        plain_scale=np.zeros(count),
        origin=np.arange(count, dtype=np.int32) % 2,
        level=np.full(count + 1, 5, np.int16),
        scale=np.full(count + 1, small.scale),
        dimension=np.full(count + 1, 2, np.uint8),
        outputs={"y": (count,)},
        origins=("even", "odd"),
    )
    start = time.perf_counter()
    (found,), trace = run(small, program, np.ones(1))
    assert time.perf_counter() - start < 5
    assert found[0] == 1
    assert len(trace.events) == MAX_EVENTS
    assert trace.opcodes()["neg"].count == count
    assert trace.peak_ciphertexts == 2


def test_a_trace_is_a_file_that_trace_viewers_open(build: Build, small: Params, tmp_path: Path) -> None:
    b = build(small)
    _, trace = run(small, b.program(b.neg(0)), np.ones(1))
    both = merge([trace, trace])
    both.write(tmp_path / "trace.json")
    read = json.loads((tmp_path / "trace.json").read_text())
    assert read["opcodes"]["neg"]["count"] == 2
    assert read["layers"][0]["name"] == "layer 0"
    assert [e["ph"] for e in read["traceEvents"]] == ["X", "X"]
    assert read["traceEvents"][1]["ts"] >= read["traceEvents"][0]["ts"] + read["traceEvents"][0]["dur"]
    with pytest.raises(PiError, match="cannot write the trace"):
        trace.write(tmp_path / "no" / "folder.json")


def ports(small: Params, level: int) -> Signature:
    square = place((1, 3, 3), small.slots, np.arange(9), period=16)
    return Signature({"x": Port(square, 2.0, 5, small.scale)}, {"y": Port(square, 3.0, level, small.scale)}, {})


@pytest.mark.parametrize("name", ["clear", "sim", "tenseal"])
def test_a_session_takes_tensors_and_gives_tensors(build: Build, small: Params, name: str) -> None:
    if name == "tenseal":
        pytest.importorskip("tenseal")
    b = build(small)
    program = b.program(b.rescale(b.mul_plain(0, np.full(16, 4.0))))
    session = Session(program, small, ports(small, 4), name)
    x = np.random.default_rng(0).normal(size=(1, 3, 3))
    result = session.run({"x": x})
    np.testing.assert_allclose(result.outputs["y"], 6 * x, atol=1e-2)
    assert result.seconds >= result.trace.seconds > 0


def test_batches_give_what_single_samples_give(build: Build, small: Params) -> None:
    b = build(small)
    low = b.drop_level(0, 4)
    program = b.program(b.add(b.rotate(low, 1), b.rescale(b.mul_plain(0, np.arange(16.0)))))
    session = Session(program, small, ports(small, 4), "clear")
    x = np.random.default_rng(0).normal(size=(7, 1, 3, 3))
    whole = session.run({"x": x}).outputs["y"]
    one = np.stack([session.run({"x": row}).outputs["y"] for row in x])
    np.testing.assert_array_equal(whole, one)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "'x' is missing"),
        ({"x": np.ones((2, 3, 3))}, "has shape (2, 3, 3), needed is (1, 3, 3)"),
        ({"x": np.ones((1, 3, 3)), "z": np.ones(1)}, "no input 'z'"),
        ({"x": np.full((1, 3, 3), np.nan)}, "not finite"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    build: Build, small: Params, inputs: Mapping[str, np.ndarray], message: str
) -> None:
    b = build(small)
    session = Session(b.program(b.neg(0)), small, ports(small, 5), "clear")
    with pytest.raises(ShapeMismatch) as caught:
        session.run(inputs)
    assert message in str(caught.value)
