"""What the commands do with models for secure multi-party computation; arguments are ``cli``'s."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from pi_compiler import files
from pi_compiler.errors import ParameterError
from pi_compiler.options import Options
from pi_compiler.terminal import complain, progress, show

if TYPE_CHECKING:
    from pi_compiler.mpc import CompiledMpc
    from pi_compiler.pipelines import Observer


def compile_secure(
    model: Path,
    calibration: str,
    output: Path,
    options: Options,
    shapes: dict[str, tuple[int, ...]] | None,
    printer: Observer,
    dump_dir: Path | None,
    json: Path | None,
) -> None:
    """``compile --target mpc``."""
    from pi_compiler import api, arrays
    from pi_compiler.observe import Dumper, Ticker
    from pi_compiler.pipelines import MPC
    from pi_compiler.report.text import size
    from pi_compiler.report.text_mpc import explain_mpc_view

    check_names(options.network, options.protocol)
    samples, _ = arrays.read(calibration)
    dumper = Dumper(dump_dir) if dump_dir is not None else None
    with progress() as report:
        observers: list[Observer] = [Ticker(report, MPC), printer, *([dumper] if dumper is not None else [])]
        compiled = api.compile_secure(
            model, calibration=samples, options=options, input_shapes=shapes, observers=observers
        )
        written = compiled.save(output)
    if json is not None:
        files.write_json(json, compiled.report)
    show(explain_mpc_view(compiled.report))
    show(f"{output}: {size(written)}")


def check_names(network: str | None, protocol: str | None) -> None:
    """Refuse networks and protocols that do not exist; bad use."""
    from pi_compiler.cost_mpc import network_of
    from pi_compiler.ir.protocols import protocol_of

    try:
        if network is not None:
            network_of(network)
        if protocol is not None:
            protocol_of(protocol)
    except ParameterError as e:
        complain(f"{type(e).__name__}: {e}")
        raise typer.Exit(2) from e


def explain(folder: Path, network: str | None, protocol: str | None, json: Path | None) -> None:
    """``explain`` of a folder for MPC."""
    from pi_compiler.report.text_mpc import explain_mpc_view

    check_names(network, protocol)
    report = load(folder).on(network, protocol)
    if json is not None:
        files.write_json(json, report)
    show(explain_mpc_view(report))


def run(
    folder: Path,
    spec: str,
    output: Path | None,
    backend: str,
    limit: int | None,
    profile: Path | None,
    json: Path | None,
) -> None:
    """``run`` of a folder for MPC."""
    from pi_compiler import arrays
    from pi_compiler.accuracy_mpc import timed_mpc_run
    from pi_compiler.report.text_mpc import run_mpc_view

    known_mpc_backend(backend)
    for path in (json, output, profile):
        if path is not None:
            files.check_file(path)
    compiled = load(folder)
    if output is not None:
        arrays.check_format(output, list(compiled.program.outputs))
    samples, _ = arrays.read(spec, single=True)
    inputs = {name: x[:limit] for name, x in compiled.stacked(samples).items()}
    with progress() as report:
        measured, found = timed_mpc_run(compiled, inputs, backend, progress=report)
    if output is not None:
        arrays.write(output, found.outputs)
    if profile is not None:
        files.write_json(profile, measured["layers"])
    if json is not None:
        files.write_json(json, measured)
    show(run_mpc_view(measured))


def evaluate(folder: Path, data: str, backend: str, limit: int, json: Path | None) -> None:
    """``evaluate`` of a folder for MPC."""
    from pi_compiler import arrays
    from pi_compiler.accuracy_mpc import evaluate_mpc
    from pi_compiler.report.text_mpc import evaluation_mpc_view

    known_mpc_backend(backend)
    if json is not None:
        files.check_file(json)
    compiled = load(folder)
    samples, labels = arrays.labeled(data)
    with progress() as report:
        found = evaluate_mpc(compiled, compiled.stacked(samples), labels, backend, limit, report)
    if json is not None:
        files.write_json(json, found)
    show(evaluation_mpc_view(found))


def compare(folder: Path, calibration: str | None, data: str | None, json: Path | None) -> None:
    """``explain --compare``: one table of every scheme."""
    from pi_compiler import arrays
    from pi_compiler.api import CompiledModel
    from pi_compiler.artifact import target_of, verified
    from pi_compiler.compare import Given, limited
    from pi_compiler.compare import compare as compared
    from pi_compiler.report.text_mpc import compare_view

    secure = load(folder) if target_of(verified(folder)) == "mpc" else None
    plain = CompiledModel.load(folder) if secure is None else None
    found: CompiledMpc | CompiledModel | None = secure or plain
    if found is None:
        raise ParameterError(f"{folder} holds no compiled model")
    if secure is not None:
        shapes = {n: p.shape for n, p in secure.program.inputs.items()}
    else:
        shapes = {n: p.layout.shape for n, p in plain.signature.inputs.items()} if plain is not None else {}
    with progress() as report:
        report("read", 0, 1)
        samples = arrays.read(calibration)[0] if calibration is not None else None
        labeled = None
        if data is not None:
            x, labels = arrays.labeled(data)
            by_name = x if isinstance(x, Mapping) else {next(iter(shapes)): x}
            shaped = {n: np.asarray(v, np.float64).reshape(-1, *shapes[n]) for n, v in by_name.items() if n in shapes}
            labeled = limited(shaped, labels)
        report("plan", 0, 1)
        made = compared(Given(found.models["model.onnx"], samples, labeled, shapes), secure)
    if json is not None:
        files.write_json(json, made)
    show(compare_view(made))


def known_mpc_backend(name: str) -> None:
    """Refuse backends that do not exist; bad use."""
    from pi_compiler.runtime.mpc.backend import MPC_BACKENDS

    if name != "auto" and name not in MPC_BACKENDS:
        complain(f"ParameterError: there is no MPC backend {name!r}\n  known: {', '.join(MPC_BACKENDS)}")
        raise typer.Exit(2)


def load(folder: Path) -> CompiledMpc:
    """A model compiled for MPC."""
    from pi_compiler.mpc import CompiledMpc

    return CompiledMpc.load(folder)
