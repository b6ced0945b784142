"""What the compiler decided and predicts, as JSON with stable names (ARCHITECTURE.md, section 5)."""

from __future__ import annotations

import math

import pi_compiler
from pi_compiler.approx.plan import make_plan
from pi_compiler.approx.poly import Fit, Poly
from pi_compiler.cost import Prices
from pi_compiler.ir.circuit import Circuit
from pi_compiler.ir.program import DEFAULT_PLAINTEXT_MEMORY, Opcode
from pi_compiler.ir.stages import (
    Affine,
    Contract,
    InputStage,
    Iterated,
    Polynomial,
    Reduce,
    Refresh,
    Square,
    Stage,
    Stages,
    sources_of,
)
from pi_compiler.kernels.circuit import depth_of
from pi_compiler.passes.compilation import Compilation, Range
from pi_compiler.passes.lower import outline
from pi_compiler.passes.schedule import constant_bytes, prices_of
from pi_compiler.report import memory
from pi_compiler.report.blocks import schedule_report
from pi_compiler.report.bootstrap import Bootstraps, bootstraps

Json = dict[str, object]


def plan_report(c: Compilation) -> Json:
    """The report of a compilation that ran at least up to ``schedule``.

    Keys: see ARCHITECTURE.md section 4. ``key_bytes`` and ``peak_memory_bytes`` hold what is estimated for bootstraps.
    """
    circuit = Compilation.require(c.circuit, "report", "schedule")
    params = Compilation.require(c.params, "report", "schedule")
    levels = Compilation.require(c.levels, "report", "schedule")
    cost = Compilation.require(c.cost, "report", "schedule")
    totals = {op: sum(counts.get(op, 0) for counts in cost.counts.values()) for op in Opcode}
    prices = prices_of(circuit, levels, params, c.costs)
    relinearize = bool(totals[Opcode.RELINEARIZE])
    encrypt, decrypt = transfer_seconds(circuit, levels, prices)
    batch, evaluate = circuit.batch(params), sum(cost.seconds.values())
    plain_bytes, encode_seconds = plaintexts(c, circuit, levels, prices)
    footprint = memory.FOOTPRINTS[c.limits.fused]
    refreshing = Bootstraps()
    if totals[Opcode.BOOTSTRAP]:
        refreshing = bootstraps(params, footprint, cost.rotation_keys, relinearize=relinearize)
    key_bytes = footprint.keys(params, cost.rotation_keys, relinearize=relinearize)
    program = outline(circuit, levels, params) if c.program is None else c.program
    peak_ct = footprint.ciphertexts(program, params)
    resident = key_bytes + min(plain_bytes, DEFAULT_PLAINTEXT_MEMORY) + footprint.process(params)
    inputs = [circuit.layouts[n].ciphertexts for n in input_stages(circuit)]
    fresh = params.ciphertext_bytes(max(levels))
    return {
        "version": pi_compiler.__version__,
        "model": c.graph.name,
        "target": "ckks",
        "backend": c.options.backend,
        "levels": max(levels),
        "depth": depth_through(circuit.stages),
        "rotations": totals[Opcode.ROTATE],
        "distinct_rotations": len(cost.rotation_keys),
        "plain_products": totals[Opcode.MUL_PLAIN],
        "products": totals[Opcode.MUL],
        "relinearizations": totals[Opcode.RELINEARIZE],
        "rescalings": totals[Opcode.RESCALE],
        "instructions": sum(totals.values()),
        "bootstraps": totals[Opcode.BOOTSTRAP],
        "estimated_bootstrap_seconds": sum(cost.estimated.values()) / batch,
        "batch": batch,
        "log_n": params.log_n,
        "log_qp": params.log_qp,
        "log_scale": params.log_scale,
        "security_bits": params.security,
        "insecure": c.options.insecure,
        "keys": len(cost.rotation_keys) + relinearize + refreshing.keys,
        "key_bytes": key_bytes + refreshing.key_bytes,
        "estimated_bootstrap_keys": refreshing.keys,
        "estimated_bootstrap_key_bytes": refreshing.key_bytes,
        "estimated_bootstrap_memory_bytes": refreshing.memory_bytes,
        "ciphertext_bytes": fresh,
        "input_ciphertexts": sum(inputs),
        "bytes_sent": sum(inputs) * fresh,
        "plaintext_bytes": plain_bytes,
        "peak_ciphertext_bytes": peak_ct,
        "peak_memory_bytes": resident + peak_ct + refreshing.memory_bytes,
        "predicted_seconds": (encrypt + evaluate + decrypt) / batch,
        "predicted_batch_seconds": encrypt + evaluate + decrypt,
        "predicted_encrypt_seconds": encrypt / batch,
        "predicted_evaluate_seconds": evaluate / batch,
        "predicted_decrypt_seconds": decrypt / batch,
        "predicted_setup_seconds": encode_seconds,
        "precision_bits_wanted": c.options.precision_bits,
        "precision_bits_simulated": None if c.simulated_bits is None else number(c.simulated_bits),
        "costs_measured_here": c.costs.measured_here,
        "costs_machine": c.costs.machine,
        "rounds": 1,
        "offline_bytes": 0,
        "layers": layers(c, circuit, levels, prices, batch),
        "blocks": schedule_report(circuit, levels, cost, c.blocks, batch),
        "activations": activations(c),
        "pareto": [{"levels": d, "error": e, "price": p} for d, e, p in c.frontier],
        "client_ops": {
            name: [op for op, _ in ops]
            for name, ops in zip(c.graph.output_names, c.graph.client_ops, strict=False)
            if ops
        },
        "notes": list(c.notes),
    }


def depth_through(stages: Stages) -> int:
    """Levels of the longest way through a network, bootstraps or not."""
    spent: list[int] = []
    for stage in stages.stages:
        spent.append(depth_of(stage) + max((spent[s] for s in sources_of(stage)), default=0))
    return max(spent[n] for n, _ in stages.outputs.values())


def input_stages(circuit: Circuit) -> list[int]:
    """Numbers of the input stages."""
    return [n for n, s in enumerate(circuit.stages.stages) if isinstance(s, InputStage)]


def transfer_seconds(circuit: Circuit, levels: tuple[int, ...], prices: Prices) -> tuple[float, float]:
    """Predicted seconds of encrypting all inputs and decrypting all outputs."""
    encrypt = sum(circuit.layouts[n].ciphertexts * prices.named("encrypt", levels[n]) for n in input_stages(circuit))
    outputs = [n for n, _ in circuit.stages.outputs.values()]
    decrypt = sum(circuit.layouts[n].ciphertexts * prices.named("decrypt", levels[n]) for n in outputs)
    return encrypt, decrypt


def plaintexts(c: Compilation, circuit: Circuit, levels: tuple[int, ...], prices: Prices) -> tuple[int, float]:
    """Bytes of all encoded plaintext vectors, and predicted seconds to encode those that memory holds."""
    params = Compilation.require(c.params, "report", "schedule")
    size, seconds = 0, 0.0
    for n, stage in enumerate(circuit.stages.stages):
        if isinstance(stage, Affine):
            level = levels[n] + 1
            count = circuit.plans[n].plain_products
            bias = int(circuit.plans[n].bias.any(axis=-1).sum())
            size += (0 if prices.fused else count * (8 * (level + 1) << params.log_n)) + bias * (
                8 * level << params.log_n
            )
            numbers = int(circuit.plans[n].numbers.sum())
            seconds += (1 - prices.unheld) * (count - numbers) * prices.named("encode", 0 if prices.late else level)
            seconds += numbers * prices.named("encode_scalar", level)
            seconds += bias * prices.named("encode", level - 1)
    if prices.fused:
        size += constant_bytes(circuit, levels, params, late=prices.late)
    return size, seconds


def kind_of(stage: Stage) -> str:
    """What a stage is, for people."""
    match stage:
        case InputStage():
            return "input"
        case Affine():
            return "linear"
        case Square():
            return "square"
        case Polynomial():
            return f"polynomial of degree {stage.poly.degree}"
        case Contract():
            summed = "".join(a for a in dict.fromkeys("".join(stage.axes[:2])) if a not in stage.axes[2])
            return "product of matrices" if summed else "product"
        case Reduce():
            return "sum over an axis"
        case Iterated():
            return "iteration"
        case Refresh():
            return "bootstrap"
        case _:
            return "product"


def layers(c: Compilation, circuit: Circuit, levels: tuple[int, ...], prices: Prices, batch: int) -> list[Json]:
    """One entry per layer in program order: what runs under its name, where, and for how long per input."""
    cost = Compilation.require(c.cost, "report", "schedule")
    entries: dict[str, Json] = {}
    for n, stage in enumerate(circuit.stages.stages):
        layout = circuit.layouts[n]
        entry = entries.setdefault(
            stage.origin,
            {"name": stage.origin, "kinds": [], "shape": list(stage.shape), "layout": "", "ciphertexts": 0, "depth": 0},
        )
        kinds = entry["kinds"]
        if isinstance(kinds, list):
            kinds.append(kind_of(stage))
        entry["layout"] = f"{layout.name}, period {layout.period}"
        entry["ciphertexts"] = layout.ciphertexts
        entry["depth"] = int(str(entry["depth"])) + depth_of(stage)
        entry["level_out"] = levels[n]
        if isinstance(stage, InputStage):
            entry["predicted_encrypt_seconds"] = layout.ciphertexts * prices.named("encrypt", levels[n]) / batch
    for name, entry in entries.items():
        counts = cost.counts.get(name, {})
        entry["rotations"] = counts.get(Opcode.ROTATE, 0)
        entry["plain_products"] = counts.get(Opcode.MUL_PLAIN, 0)
        entry["products"] = counts.get(Opcode.MUL, 0)
        entry["predicted_seconds"] = cost.seconds.get(name, 0.0) / batch
    return list(entries.values())


def activations(c: Compilation) -> list[Json]:
    """One entry per replaced nonlinearity, with its certificate."""
    ranges = {} if c.ranges is None else {n.origin: c.ranges.of(n.inputs[0]) for n in c.graph.nodes() if n.inputs}
    return [
        {
            "name": r.origin,
            "op": r.op,
            "elements": r.elements,
            "range": _range(ranges[r.origin]),
            **fit_report(r.fit),
        }
        for r in c.fits or ()
    ]


def _range(r: Range) -> Json:
    return {
        "low": r.low,
        "high": r.high,
        "mean": r.mean,
        "std": r.std,
        "quantiles": {str(p): v for p, v in r.quantiles.items()},
        "channel_low": r.channel_low.tolist(),
        "channel_high": r.channel_high.tolist(),
        "channel_mean": r.channel_mean.tolist(),
        "channel_std": r.channel_std.tolist(),
    }


def fit_report(fit: Fit) -> Json:
    """A fit and its certificate."""
    cert = fit.certificate
    degree = fit.approx.degree if isinstance(fit.approx, Poly) else None
    depth = (1 if degree == 2 else make_plan(fit.approx).depth) if isinstance(fit.approx, Poly) else cert.depth
    return {
        "target": fit.target,
        "method": fit.method,
        "degree": degree,
        "coef": list(fit.approx.coef) if isinstance(fit.approx, Poly) else None,
        "basis": fit.approx.basis if isinstance(fit.approx, Poly) else None,
        "domain": list(cert.domain),
        "max_error": number(cert.max_error),
        "at": number(cert.at),
        "weighted_error": number(cert.weighted_error),
        "exceedance": number(cert.exceedance),
        "exceedance_bound": number(cert.exceedance_bound),
        "growth": number(cert.growth),
        "depth": depth,
        "notes": list(fit.notes),
    }


def number(value: float) -> float | None:
    """A number that JSON has, else null."""
    return value if math.isfinite(value) else None
