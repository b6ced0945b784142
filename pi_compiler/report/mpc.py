"""What an MPC plan decided and predicts, as JSON with stable names (ARCHITECTURE.md, section 4)."""

from __future__ import annotations

import math
from functools import reduce
from operator import add

import pi_compiler
from pi_compiler.cost_mpc import NETWORKS, MpcCost, MpcPrices, Network, layer_costs, network_of
from pi_compiler.ir.mpc_program import MpcOp, MpcProgram
from pi_compiler.ir.protocols import threat_model
from pi_compiler.passes.compilation import Compilation
from pi_compiler.report.plan import fit_report, number

Json = dict[str, object]

_SILENT = (MpcOp.TRUNCATE, MpcOp.GATHER, MpcOp.SUM, MpcOp.ADD, MpcOp.SUB)
_CKKS_ONLY = (
    "levels", "depth", "rotations", "distinct_rotations", "plain_products", "products", "bootstraps", "log_n", "log_qp",
    "security_bits", "key_bytes", "ciphertext_bytes", "peak_memory_bytes",
)  # fmt: skip


def mpc_report(c: Compilation) -> Json:
    """The report of a finished MPC compilation."""
    program = Compilation.require(c.mpc_program, "report", "encode")
    precision = Compilation.require(c.mpc_precision, "report", "encode")
    ranges = Compilation.require(c.mpc_ranges, "report", "encode")
    prices = Compilation.require(c.mpc_prices, "report", "prepare")
    return {
        "version": pi_compiler.__version__,
        "model": c.graph.name,
        "target": "mpc",
        "backend": "mpc-sim",
        **dict.fromkeys(_CKKS_ONLY),
        "frac_bits": precision.frac,
        "weight_frac_bits": precision.weight_frac,
        "private_weights": not c.options.public_weights,
        "stochastic_bits": c.options.stochastic_bits,
        "expected_wraps": ranges.expected_wraps,
        "wrap_budget": c.options.wrap_budget,
        "largest": dict(ranges.largest),
        "instructions": len(program),
        **costs_report(program, prices, network_of(c.options.network), private=not c.options.public_weights),
        "activations": [
            {"name": r.origin, "op": r.op, "elements": r.elements, **fit_report(r.fit)} for r in c.fits or ()
        ],
        "exact": [{"name": k.origin, "op": k.op, "elements": k.elements, "comparisons": k.comparisons} for k in c.kept],
        "client_ops": {name: [op for op, _ in ops] for name, ops in program.client_ops.items() if ops},
        "notes": list(c.notes),
    }


def costs_report(program: MpcProgram, prices: MpcPrices, network: Network, *, private: bool) -> Json:
    """What depends on protocol and network."""
    layers = layer_costs(program, prices)
    total = reduce(add, layers.values(), MpcCost())
    return {
        "protocol": prices.protocol,
        "network": {"name": network.name, "rtt_seconds": network.rtt, "bits_per_second": network.bandwidth},
        "threat_model": list(threat_model(prices.protocol, private_weights=private)),
        "rounds": total.rounds,
        "bytes_sent": total.bytes,
        "bytes_to_model": total.to_model,
        "bytes_to_data": total.to_data,
        "offline_bytes": number(total.dealt),
        "setup_bytes": total.setup,
        "predicted_seconds": network.seconds(total),
        "predicted_compute_seconds": total.compute,
        "predicted_offline_seconds": number(network.offline_seconds(total)),
        "seconds_by_network": {n.name: n.seconds(total) for n in NETWORKS.values()},
        "comparisons": sum(i.size for i in program.instrs if i.op is MpcOp.LTZ),
        "costs_measured_here": prices.measured_here,
        "costs_machine": prices.machine,
        "layers": _layers(program, layers, network),
    }


def _layers(program: MpcProgram, costs: dict[str, MpcCost], network: Network) -> list[Json]:
    """One entry per layer in program order."""
    entries: dict[str, Json] = {}
    for instr in program.instrs:
        name = program.origins[instr.origin]
        cost = costs[name]
        entry = entries.setdefault(
            name,
            {
                "name": name,
                "kinds": [],
                "shape": [],
                "comparisons": 0,
                "rounds": cost.rounds,
                "bytes_to_model": cost.to_model,
                "bytes_to_data": cost.to_data,
                "offline_bytes": cost.dealt if math.isfinite(cost.dealt) else None,
                "predicted_compute_seconds": cost.compute,
                "predicted_seconds": network.seconds(cost),
            },
        )
        entry["shape"] = list(instr.shape)
        kinds = entry["kinds"]
        if instr.op not in _SILENT and isinstance(kinds, list) and str(instr.op) not in kinds:
            kinds.append(str(instr.op))
        if instr.op is MpcOp.LTZ:
            entry["comparisons"] = int(str(entry["comparisons"])) + instr.size
    return list(entries.values())
