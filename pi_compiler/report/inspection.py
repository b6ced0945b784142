"""What a model holds, as JSON with stable names (ARCHITECTURE.md, section 5)."""

from __future__ import annotations

from pi_compiler.importer import Inspection

Json = dict[str, object]


def inspection_report(name: str, found: Inspection) -> Json:
    """The report of ``inspect``."""
    return {
        "model": name,
        "opset": found.opset,
        "inputs": {n: list(s) for n, s in found.inputs.items()},
        "outputs": {n: list(s) for n, s in found.outputs.items()},
        "operators": dict(found.operators),
        "unsupported": [
            {"node": u.node, "op": u.op, "reason": u.reason, "advice": u.advice} for u in found.unsupported
        ],
        "relu_count": found.relu_count,
        "nonlinearities": [{"name": a.origin, "op": a.op, "elements": a.elements} for a in found.nonlinearities],
        "notes": list(found.notes),
    }
