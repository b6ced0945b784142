"""What a reduced model costs to run privately, for its record: the plan of a compilation, without a key."""

from __future__ import annotations

from pathlib import Path

from pi_compiler.api import compile_secure, plan
from pi_compiler.cost_mpc import NETWORKS
from pi_compiler.errors import PiError
from pi_compiler.models.data import Dataset
from pi_compiler.options import Options

__all__ = ["ckks_cost", "mpc_cost"]

Json = dict[str, object]
_KEYS = (
    "backend", "levels", "depth", "rotations", "products", "bootstraps", "log_n", "log_qp", "security_bits",
    "key_bytes", "bytes_sent", "predicted_seconds", "costs_machine", "costs_measured_here",
)  # fmt: skip
_SAMPLES = 256
"""Calibration samples of a plan: costs need ranges, not their tails."""


def ckks_cost(model: Path, calibration: Dataset, options: Options) -> Json:
    """The plan's figures for one encrypted input, or ``{"refused": why}`` where no parameters fit.

    Args:
        model: an ONNX file; ReLUs that it still has become composite polynomials.
        calibration: its calibration split, for the ranges.
        options: of the compilation.
    """
    try:
        planned = plan(model, calibration=calibration.take(_SAMPLES).x, options=options)
    except PiError as error:
        return {"refused": error.what, "details": list(error.details)}
    return {key: planned[key] for key in _KEYS}


def mpc_cost(model: Path, calibration: Dataset, protocols: tuple[str, ...] = ("crypten-ttp", "cheetah")) -> Json:
    """Bytes, rounds and seconds of one inference between two parties, by protocol and network.

    A protocol under which the model does not run is left out.

    Args:
        model: an ONNX file; ReLUs that it still has are compared exactly.
        calibration: its calibration split, for the ranges.
        protocols: two parties with a dealer, and two without.
    """
    found: Json = {}
    for protocol in protocols:
        options = Options(target="mpc", protocol=protocol)
        try:
            report = compile_secure(model, calibration=calibration.take(_SAMPLES).x, options=options).report
        except PiError:
            continue
        seconds = report["seconds_by_network"]
        if isinstance(seconds, dict):
            found[protocol] = {
                network: {"bytes": report["bytes_sent"], "rounds": report["rounds"], "seconds": seconds[network]}
                for network in NETWORKS
                if network in ("lan", "wan")
            }
    return found
