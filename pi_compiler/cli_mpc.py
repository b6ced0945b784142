"""What the commands do with models for secure multi-party computation; arguments are ``cli``'s."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from pi_compiler import files
from pi_compiler.errors import ParameterError
from pi_compiler.ir.mpc_program import DATA_PARTY
from pi_compiler.options import Options
from pi_compiler.terminal import complain, progress, show

if TYPE_CHECKING:
    from pi_compiler.mpc import CompiledMpc
    from pi_compiler.parties import Meeting
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
    meeting: tuple[int | None, str | None, float, bool, str | None],
) -> None:
    """``run`` of a folder for MPC."""
    from pi_compiler import arrays
    from pi_compiler.accuracy_mpc import timed_mpc_run
    from pi_compiler.report.text_mpc import run_mpc_view

    known_mpc_backend(backend)
    parties = _meeting(backend, meeting)
    for path in (json, output, profile):
        if path is not None:
            files.check_file(path)
    compiled = load(folder)
    if output is not None:
        arrays.check_format(output, list(compiled.program.outputs))
    samples, _ = arrays.read(spec, single=True)
    inputs = {name: x[:limit] for name, x in compiled.stacked(samples).items()}
    with progress() as report:
        if parties is not None:
            from pi_compiler.parties import run_between

            measured, found = run_between(compiled, inputs, parties, report)
        else:
            measured, found = timed_mpc_run(compiled, inputs, backend, progress=report)
    if output is not None:
        arrays.write(output, found.outputs)
    if profile is not None:
        files.write_json(profile, measured["layers"])
    if json is not None:
        files.write_json(json, measured)
    show(run_mpc_view(measured))


def _meeting(backend: str, given: tuple[int | None, str | None, float, bool, str | None]) -> Meeting | None:
    """How parties meet, for the backend that has any; bad use otherwise."""
    from pi_compiler.cost_mpc import network_of
    from pi_compiler.ir.protocols import protocol_of

    parties, network, timeout, dealer, protocol = given
    try:
        if backend not in ("crypten", "spu"):
            if parties is not None or network is not None or not dealer or protocol is not None:
                raise ParameterError(f"backend {backend!r} has no parties", hint="--backend crypten or spu")
            return None
        from pi_compiler.parties import Meeting

        where = None if network is None else network_of(network)
        spu = protocol_on(backend, protocol)
        found = Meeting(
            parties if parties is not None else (protocol_of(spu).parties if spu else 2), where, dealer, timeout, spu
        )
        found.plan()
        return found
    except ParameterError as e:
        complain(f"{type(e).__name__}: {e}")
        raise typer.Exit(2) from e


def party(
    folder: Path,
    seat: tuple[int, str, bool, float, str],
    weights: Path | None,
    spec: str | None,
    output: Path | None,
    json: Path | None,
) -> None:
    """``party``: one of a run, on this machine."""
    from pi_compiler import arrays
    from pi_compiler.party import Seat, checked, take_part, threats
    from pi_compiler.report.text_mpc import party_view, threat_view

    taken = Seat(*seat)
    try:
        checked(taken)
        owner = taken.rank == DATA_PARTY
        if not owner and (spec is not None or output is not None):
            raise ParameterError("only the data's owner has inputs and gets answers", hint="--rank 1")
        if owner and spec is None:
            raise ParameterError("the data's owner needs an input", hint="--input X.npy")
    except ParameterError as e:
        complain(f"{type(e).__name__}: {e}")
        raise typer.Exit(2) from e
    for path in (json, output):
        if path is not None:
            files.check_file(path)
    told = list(threats(folder, taken))
    samples = arrays.read(spec, single=True)[0] if spec is not None else None
    show(threat_view({"threat_model": told}))
    with progress() as report:
        report("run", 0, 1)
        measured, answers = take_part(folder, taken, weights, samples)
    found = {**measured, "threat_model": told}
    if output is not None:
        arrays.write(output, answers)
    if json is not None:
        files.write_json(json, found)
    show(party_view(found))


def handout(folder: Path, output: Path) -> None:
    """``handout``: a model without its weights."""
    from pi_compiler.artifact import check_place
    from pi_compiler.artifact_mpc import save_handout
    from pi_compiler.report.text import size

    check_place(output)
    show(f"{output}: {size(save_handout(folder, output))}, no weights")


def with_parties(backend: str) -> str:
    """Refuse backends without parties; bad use."""
    if backend not in ("crypten", "spu"):
        complain(f"ParameterError: backend {backend!r} has no parties\n  hint: --backend crypten or spu")
        raise typer.Exit(2)
    return backend


def protocol_on(backend: str, protocol: str | None) -> str:
    """The protocol that a backend runs, ``""`` on CrypTen; bad use if it does not run the one that was asked for."""
    from pi_compiler.runtime.mpc.spu.library import PROTOCOLS

    try:
        if backend != "spu":
            if protocol is not None:
                raise ParameterError("--protocol chooses among those of SPU", hint="--backend spu")
            return ""
        if (protocol or PROTOCOLS[0]) not in PROTOCOLS:
            raise ParameterError(f"backend 'spu' does not run protocol {protocol!r}", f"it runs {', '.join(PROTOCOLS)}")
        return protocol or PROTOCOLS[0]
    except ParameterError as e:
        complain(f"{type(e).__name__}: {e}")
        raise typer.Exit(2) from e


def calibrate(spu: str, output: Path | None, json: Path | None) -> None:
    """``calibrate-cost`` of CrypTen, or of one of SPU's protocols."""
    from pi_compiler.cost_mpc import mpc_table_path
    from pi_compiler.report.text_mpc import seconds_view
    from pi_compiler.runtime.mpc.measure import measure
    from pi_compiler.runtime.mpc.spu.measure import measure as measure_spu

    path = output if output is not None else mpc_table_path(spu or "crypten-ttp")
    if output is None:
        files.make_folder(path.parent)
    for place in (json, path):
        if place is not None:
            files.check_file(place)
    with progress() as report:
        report(f"measuring {f'spu, {spu}' if spu else 'crypten'}", 0, 1)
        table = measure_spu(spu) if spu else measure()
    files.write_json(path, table)
    if json is not None:
        files.write_json(json, table)
    show(seconds_view(table))
    who = f"SPU's {spu}" if spu else "CrypTen"
    show(f"{path}: predictions for {who} use it from now on" if output is None else f"{path}")


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
    shapes = found.signature.shapes if isinstance(found, CompiledModel) else found.program.shapes
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
