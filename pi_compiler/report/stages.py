"""The record after a pass as lines of text, for ``--print-after`` and ``--dump-dir``."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pi_compiler.ir.graph import Graph, Node
from pi_compiler.ir.mpc_program import MpcProgram
from pi_compiler.ir.program import Opcode, Program
from pi_compiler.ir.stages import Affine, InputStage, Polynomial, Stage, sources_of
from pi_compiler.passes.compilation import Compilation
from pi_compiler.report.plan import kind_of


def stage_text(name: str, c: Compilation) -> Iterator[str]:
    """Lines that describe what a pass made; of passes that rewrite the graph, the graph.

    Args:
        name: the pass.
        c: the record after it.
    """
    match name:
        case "calibrate":
            return _calibrated(c)
        case "choose":
            return _chosen(c)
        case "approximate":
            return _approximated(c)
        case "fold":
            return _folded(c)
        case "encode":
            return mpc_text(Compilation.require(c.mpc_program, "text", name))
        case "schedule":
            return _scheduled(c)
        case "lower":
            return program_text(Compilation.require(c.program, "text", name))
    return graph_text(c.replaced or c.graph)


def graph_text(graph: Graph) -> Iterator[str]:
    """One line per node: number, operator, operands, shape, layer."""
    numbers: dict[int, int] = {}
    for node in graph.nodes():
        numbers[id(node)] = len(numbers)
        operands = ", ".join(f"%{numbers[id(i)]}" for i in node.inputs)
        yield f"%{numbers[id(node)]} = {node.op}({operands}) {list(node.shape)}{_attributes(node)}  # {node.origin}"
    for name, node in zip(graph.output_names, graph.outputs, strict=True):
        yield f"output {name} = %{numbers[id(node)]}"


def mpc_text(program: MpcProgram) -> Iterator[str]:
    """One line per instruction: number, opcode, operands, constants, shape, fractional bits, layer."""
    for number, i in enumerate(program.instrs):
        given = [f"%{a}" for a in i.args]
        for name, place in (("weight", i.weight), ("bias", i.bias)):
            if place >= 0:
                const = program.consts[place]
                given.append(f"{name}={const.owner}{list(const.values.shape)}")
        given += [f"index[{program.indices[i.index].size}]"] if i.index >= 0 else []
        given += [f"{k}={list(v)}" for k, v in i.attrs.items()]
        yield f"%{number} = {i.op}({', '.join(given)}) {list(i.shape)} frac {i.frac}  # {program.origins[i.origin]}"
    for name, port in program.outputs.items():
        yield f"output {name} = %{port.value}"


def _attributes(node: Node) -> str:
    """Attributes in brief: arrays by their shapes."""
    found = [
        f"{name}={list(value.shape) if value.size > 8 else np.array2string(value, precision=5, separator=', ')}"
        if isinstance(value, np.ndarray)
        else f"{name}={value}"
        for name, value in node.attrs.items()
    ]
    return f" {{{'; '.join(found)}}}".replace("\n", "") if found else ""


def _calibrated(c: Compilation) -> Iterator[str]:
    ranges = Compilation.require(c.ranges, "text", "calibrate")
    for node in c.graph.nodes():
        r = ranges.of(node)
        yield f"{node.origin} ({node.op}): [{r.low:.6g}, {r.high:.6g}] mean {r.mean:.6g} std {r.std:.6g}"


def _chosen(c: Compilation) -> Iterator[str]:
    for levels, error, price in c.frontier:
        yield f"# choice: {levels} levels, error {error:.4g}, price {price:.4g}"
    for layer, chosen in (c.chosen or {}).items():
        per = ", per channel" if chosen.per_channel else ""
        yield f"{layer}: {chosen.fit.method}, error {chosen.fit.certificate.max_error:.4g}{per}"


def _approximated(c: Compilation) -> Iterator[str]:
    for r in c.fits or ():
        cert = r.fit.certificate
        low, high = cert.domain
        yield (
            f"# {r.origin} ({r.op}): {r.fit.method} on [{low:.6g}, {high:.6g}], error {cert.max_error:.4g} "
            f"at {cert.at:.6g}, outside {cert.exceedance:.4g}"
        )
    yield from graph_text(Compilation.require(c.replaced, "text", "approximate"))


def _folded(c: Compilation) -> Iterator[str]:
    stages = Compilation.require(c.stages, "text", "fold")
    for number, stage in enumerate(stages.stages):
        yield f"%{number} = {_stage(stage)}"
    for name, (number, gain) in stages.outputs.items():
        yield f"output {name} = {gain:g} * %{number}"


def _stage(stage: Stage) -> str:
    operands = ", ".join(f"%{s}" for s in sources_of(stage))
    detail = ""
    if isinstance(stage, InputStage):
        detail = f" {stage.name} / {stage.gain:g}"
    elif isinstance(stage, Affine):
        sizes = " + ".join(f"{m.shape[0]}x{m.shape[1]} with {m.nnz} nonzeros" for m in stage.matrices)
        detail = f" {sizes}{', bias' if stage.bias.any() else ''}"
    elif isinstance(stage, Polynomial):
        detail = f" {stage.poly.basis} {[float(f'{v:.6g}') for v in stage.poly.coef]}"
    return f"{kind_of(stage)}({operands}) {list(stage.shape)}{detail}  # {stage.origin}"


def _scheduled(c: Compilation) -> Iterator[str]:
    params = Compilation.require(c.params, "text", "schedule")
    circuit = Compilation.require(c.circuit, "text", "schedule")
    levels = Compilation.require(c.levels, "text", "schedule")
    yield f"# ring 2^{params.log_n}, log QP {params.log_qp:.1f}, scale 2^{params.log_scale:.3f}"
    if (batch := circuit.batch(params)) > 1:
        yield f"# batch {batch}, {circuit.slots} slots each"
    yield f"# q {list(params.primes)}"
    yield f"# p {list(params.special)}"
    for number, (stage, layout) in enumerate(zip(circuit.stages.stages, circuit.layouts, strict=True)):
        yield f"%{number} = {_stage(stage)}"
        yield (
            f"    level {levels[number]}, layout {layout.name}: {layout.ciphertexts} ciphertexts, "
            f"period {layout.period}, {'zero' if layout.zero else 'junk'} elsewhere"
        )
        if number in circuit.plans:
            plan = circuit.plans[number]
            baby, giant = np.unique(plan.terms[:, 3]).tolist(), np.unique(plan.terms[:, 4]).tolist()
            steps = f"baby steps {baby}, giant steps {giant}, folds {list(plan.folds)}"
            yield f"    {plan.plain_products} products, {steps}"


def program_text(program: Program) -> Iterator[str]:
    """One line per instruction, with level and scale of its value."""
    for name, values in program.inputs.items():
        for v in values:
            yield f"%{v} = input {name}  # {_type(program, v)}"
    layer = -1
    for i in program:
        if i.origin != layer:
            layer = i.origin
            yield f"# {program.origins[layer]}"
        operands = [f"%{i.a}", *([f"%{i.b}"] if i.b >= 0 else [])]
        if i.const >= 0:
            operands.append(f"const {i.const}")
        if i.op in (Opcode.ROTATE, Opcode.DROP_LEVEL):
            operands.append(str(i.imm))
        yield f"%{i.out} = {i.op.name.lower()} {', '.join(operands)}  # {_type(program, i.out)}"
    for name, values in program.outputs.items():
        yield f"output {name} = {', '.join(f'%{v}' for v in values)}"


def _type(program: Program, value: int) -> str:
    t = program.type(value)
    return f"level {t.level}, scale 2^{t.log_scale:.3f}{', dimension 3' if t.dimension == 3 else ''}"
