"""What the compiler decided and predicts, as JSON with stable names (ARCHITECTURE.md, section 5)."""

from __future__ import annotations

import math

import pi_compiler
from pi_compiler.approx.plan import make_plan
from pi_compiler.approx.poly import Fit, Poly
from pi_compiler.cost import Prices
from pi_compiler.ir.circuit import Circuit
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import Opcode, Program
from pi_compiler.ir.stages import Affine, InputStage, Polynomial, Square, Stage
from pi_compiler.kernels.circuit import depth_of
from pi_compiler.passes.compilation import Compilation, Range
from pi_compiler.runtime.session import DEFAULT_PLAINTEXT_MEMORY

Json = dict[str, object]

PROCESS_BYTES = 104 << 20
"""Resident memory of an interpreter with the runtime and SEAL loaded, before any key (measured)."""


def plan_report(c: Compilation) -> Json:
    """The report of a compilation that ran at least up to ``schedule``.

    Keys: see ARCHITECTURE.md section 5. Before ``lower`` ran, ``peak_ciphertext_bytes`` and
    ``peak_memory_bytes`` are null.
    """
    circuit = Compilation.require(c.circuit, "report", "schedule")
    params = Compilation.require(c.params, "report", "schedule")
    levels = Compilation.require(c.levels, "report", "schedule")
    cost = Compilation.require(c.cost, "report", "schedule")
    totals = {op: sum(counts.get(op, 0) for counts in cost.counts.values()) for op in Opcode}
    prices = c.costs.prices(params.log_n)
    keys = len(cost.rotation_keys) + (1 if totals[Opcode.RELINEARIZE] else 0)
    encrypt, decrypt = transfer_seconds(circuit, levels, prices)
    evaluate = sum(cost.seconds.values())
    key_bytes = keys * params.key_bytes(params.max_level)
    plain_bytes, encode_seconds = plaintexts(circuit, levels, params, prices)
    peak_ct = peak_ciphertext_bytes(c.program, params) if c.program is not None else None
    inputs = [circuit.layouts[n].ciphertexts for n in input_stages(circuit)]
    fresh = params.ciphertext_bytes(max(levels))
    return {
        "version": pi_compiler.__version__,
        "model": c.graph.name,
        "target": "ckks",
        "backend": c.options.backend,
        "levels": max(levels),
        "depth": max(levels),
        "rotations": totals[Opcode.ROTATE],
        "distinct_rotations": len(cost.rotation_keys),
        "plain_products": totals[Opcode.MUL_PLAIN],
        "products": totals[Opcode.MUL],
        "relinearizations": totals[Opcode.RELINEARIZE],
        "rescalings": totals[Opcode.RESCALE],
        "instructions": sum(totals.values()),
        "bootstraps": 0,
        "log_n": params.log_n,
        "log_qp": params.log_qp,
        "log_scale": params.log_scale,
        "security_bits": params.security,
        "insecure": c.options.insecure,
        "keys": keys,
        "key_bytes": key_bytes,
        "ciphertext_bytes": fresh,
        "input_ciphertexts": sum(inputs),
        "bytes_sent": sum(inputs) * fresh,
        "plaintext_bytes": plain_bytes,
        "peak_ciphertext_bytes": peak_ct,
        "peak_memory_bytes": None if peak_ct is None else memory(params, key_bytes, plain_bytes, peak_ct),
        "predicted_seconds": encrypt + evaluate + decrypt,
        "predicted_encrypt_seconds": encrypt,
        "predicted_evaluate_seconds": evaluate,
        "predicted_decrypt_seconds": decrypt,
        "predicted_setup_seconds": encode_seconds,
        "precision_bits_wanted": c.options.precision_bits,
        "precision_bits_simulated": None if c.simulated_bits is None else number(c.simulated_bits),
        "costs_measured_here": c.costs.measured_here,
        "costs_machine": c.costs.machine,
        "rounds": 1,
        "offline_bytes": 0,
        "layers": layers(c, circuit, levels, prices),
        "activations": activations(c),
        "pareto": [{"levels": d, "error": e, "price": p} for d, e, p in c.frontier],
        "client_ops": {
            name: [op for op, _ in ops]
            for name, ops in zip(c.graph.output_names, c.graph.client_ops, strict=False)
            if ops
        },
        "notes": list(c.notes),
    }


def input_stages(circuit: Circuit) -> list[int]:
    """Numbers of the input stages."""
    return [n for n, s in enumerate(circuit.stages.stages) if isinstance(s, InputStage)]


def transfer_seconds(circuit: Circuit, levels: tuple[int, ...], prices: Prices) -> tuple[float, float]:
    """Predicted seconds of encrypting all inputs and decrypting all outputs."""
    encrypt = sum(circuit.layouts[n].ciphertexts * prices.named("encrypt", levels[n]) for n in input_stages(circuit))
    outputs = [n for n, _ in circuit.stages.outputs.values()]
    decrypt = sum(circuit.layouts[n].ciphertexts * prices.named("decrypt", levels[n]) for n in outputs)
    return encrypt, decrypt


def plaintexts(circuit: Circuit, levels: tuple[int, ...], params: Params, prices: Prices) -> tuple[int, float]:
    """Bytes of all encoded plaintext vectors, and predicted seconds to encode them."""
    size, seconds = 0, 0.0
    for n, stage in enumerate(circuit.stages.stages):
        if isinstance(stage, Affine):
            level = levels[n] + 1
            count = circuit.plans[n].plain_products
            bias = int(circuit.plans[n].bias.any(axis=-1).sum())
            size += count * (8 * (level + 1) << params.log_n) + bias * (8 * level << params.log_n)
            seconds += count * prices.named("encode", level) + bias * prices.named("encode", level - 1)
    return size, seconds


def memory(params: Params, key_bytes: int, plain_bytes: int, ciphertext_bytes: int) -> int:
    """Predicted resident memory of a process that makes keys, encrypts, evaluates and decrypts.

    SEAL's context keeps transform tables for every prime at every level: 64 N (k + 1) bytes for
    each k up to the number of primes.
    """
    primes = len(params.primes) + len(params.special)
    tables = (64 << params.log_n) * sum(k + 1 for k in range(1, primes + 1))
    plain = min(plain_bytes, DEFAULT_PLAINTEXT_MEMORY)
    return PROCESS_BYTES + tables + key_bytes + plain + ciphertext_bytes


def peak_ciphertext_bytes(program: Program, params: Params) -> int:
    """Bytes that ciphertexts take when each is freed at its last use.

    Freed memory serves only ciphertexts of the same size (SEAL's pool is split by size), so the
    peaks of the sizes add up.
    """
    held_polynomials = program.dimension.astype(int)
    # Relinearization keeps the memory of the third polynomial.
    held_polynomials[program.arity :][program.op == Opcode.RELINEARIZE] = 3
    size = ((program.level.astype(int) + 1) * held_polynomials * (8 << params.log_n)).tolist()
    freed: list[list[int]] = [[] for _ in range(len(program) + 1)]
    last = program.last_uses().tolist()
    for value, end in enumerate(last):
        if 0 <= end < len(program):
            freed[end].append(value)
    held: dict[int, int] = {}
    peak: dict[int, int] = {}
    for step in range(-1, len(program)):
        born = range(program.arity) if step < 0 else (program.arity + step,)
        for value in born:
            held[size[value]] = held.get(size[value], 0) + size[value]
            peak[size[value]] = max(peak.get(size[value], 0), held[size[value]])
        for value in freed[step] if step >= 0 else ():
            held[size[value]] -= size[value]
    return sum(peak.values())


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
        case _:
            return "product"


def layers(c: Compilation, circuit: Circuit, levels: tuple[int, ...], prices: Prices) -> list[Json]:
    """One entry per layer in program order: what runs under its name, where, and for how long."""
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
            entry["predicted_encrypt_seconds"] = layout.ciphertexts * prices.named("encrypt", levels[n])
    for name, entry in entries.items():
        counts = cost.counts.get(name, {})
        entry["rotations"] = counts.get(Opcode.ROTATE, 0)
        entry["plain_products"] = counts.get(Opcode.MUL_PLAIN, 0)
        entry["products"] = counts.get(Opcode.MUL, 0)
        entry["predicted_seconds"] = cost.seconds.get(name, 0.0)
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
