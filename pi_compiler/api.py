"""The compiler as a function: a model and calibration data in, a compiled model out."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from pi_compiler import artifact
from pi_compiler.artifact import Artifact, Json
from pi_compiler.cost import CostTable, load_costs
from pi_compiler.cost_mpc import load_mpc_prices, network_of
from pi_compiler.errors import BudgetError, ModelError, ParameterError, ShapeMismatch
from pi_compiler.ir.graph import FloatArray, Graph
from pi_compiler.ir.params import Params
from pi_compiler.ir.program import DEFAULT_PLAINTEXT_MEMORY, Program, Signature
from pi_compiler.ir.protocols import protocol_of
from pi_compiler.mpc import CompiledMpc, compile_mpc
from pi_compiler.ops.front import joined
from pi_compiler.options import Options
from pi_compiler.passes.calibrate import check_samples
from pi_compiler.passes.compilation import Compilation, Limits
from pi_compiler.pipelines import CKKS, Observer, run
from pi_compiler.report.plan import plan_report
from pi_compiler.report.precision import simulated_bits
from pi_compiler.runtime.backend import AUTO, available_backends, best_for, get_backend
from pi_compiler.runtime.executor import Progress
from pi_compiler.runtime.flooding import Flood
from pi_compiler.runtime.session import Result, Session

if TYPE_CHECKING:
    import onnx
    import torch

    Source: TypeAlias = str | os.PathLike[str] | bytes | onnx.ModelProto | torch.nn.Module
_ATTEMPTS = 3
_COMPARED = 256
_UNNAMED = ("", "main_graph", "torch_jit", "graph")
"""Graph names that exporters give to every model; the file's name says more."""
_NO_RING = CostTable("mpc", "", {}, 0.0, False)
"""MPC has no ring degrees to price."""
_PLANNING = tuple(p for p in CKKS if p[0] in ("schedule", "lower"))

Planned = TypeVar("Planned")
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Samples: TypeAlias = ArrayLike | Mapping[str, ArrayLike]


@dataclass(frozen=True, slots=True, eq=False)
class CompiledModel:
    """A program with everything needed to run it, except keys: those are made when it runs.

    Attributes:
        program: instructions.
        params: CKKS parameters.
        signature: inputs and outputs as the client sees them.
        report: what ``explain`` prints, as JSON (see ``pi_compiler.report.plan``).
        models: ``model.onnx`` as it came and ``polynomial.onnx`` in its HE-friendly form.
    """

    program: Program
    params: Params
    signature: Signature
    report: Json
    models: Mapping[str, bytes]

    def save(self, folder: str | os.PathLike[str]) -> int:
        """Write to a folder; returns its size in bytes.

        Raises:
            ParameterError: it cannot be written.
        """
        return artifact.save(
            Artifact(self.program, self.params, self.signature, self.report, self.models), Path(folder)
        )

    @staticmethod
    def load(folder: str | os.PathLike[str]) -> CompiledModel:
        """Read a folder that ``save`` wrote.

        Raises:
            ArtifactError: it is missing, damaged, or from a newer version.
        """
        a = artifact.load(Path(folder))
        return CompiledModel(a.program, a.params, a.signature, a.report, a.models)

    def explain(self) -> str:
        """The plan as text: choices, levels, rotations, keys, memory, seconds per layer."""
        from pi_compiler.report.text import explain

        return explain(self.report)

    def session(
        self,
        backend: str = "auto",
        *,
        plaintext_memory: int = DEFAULT_PLAINTEXT_MEMORY,
        insecure: bool = False,
        flood: Flood | None = None,
        keys: str | os.PathLike[str] | None = None,
    ) -> Session:
        """Keys on a backend; the returned session answers as many inputs as wanted.

        With ``flood``, its outputs carry the noise that lets them leave the owner of the key. Keys are fresh, or
        with ``keys`` those of that folder, where they are made first if it does not exist; it holds the secret key.
        """
        name = best_for(self.params, str(self.report["backend"])) if backend == AUTO else backend
        return Session(
            self.program,
            self.params,
            self.signature,
            name,
            plaintext_memory=plaintext_memory,
            insecure=insecure,
            flood=flood,
            keys=None if keys is None else Path(keys),
        )

    def run(self, x: Samples, *, backend: str = "auto", progress: Progress | None = None) -> Result:
        """Encrypt one sample, or as many as the program answers at once, evaluate, decrypt.

        Backends that encrypt nothing (``clear``, ``sim``) take any number of samples.
        """
        return self.session(backend).run(self.sample(x), progress=progress)

    def sample(self, x: Samples) -> dict[str, FloatArray]:
        """Input arrays by name, each with the model's shape; a missing batch dimension of 1 is added.

        Raises:
            ShapeMismatch: a shape or name does not fit.
        """
        shapes = self.signature.shapes
        given = by_name(x, list(shapes))
        shaped: dict[str, FloatArray] = {}
        for name, values in given.items():
            shape = shapes.get(name)
            if shape is None:
                raise ShapeMismatch(f"there is no input {name!r}", f"the model's inputs: {', '.join(shapes)}")
            if values.shape[-len(shape) :] != shape and shape[0] == 1 and values.shape[-len(shape) + 1 :] == shape[1:]:
                values = values.reshape(*values.shape[: values.ndim - len(shape) + 1], *shape)
            shaped[name] = values
        return shaped


def compile(
    model: Source,
    *,
    calibration: Samples,
    options: Options | None = None,
    example_input: object | None = None,
    input_shapes: Shapes | None = None,
    costs: CostTable | None = None,
    observers: Sequence[Observer] = (),
) -> CompiledModel:
    """Compile a model for encrypted evaluation (CKKS); ``compile_secure`` is for MPC.

    Args:
        model: path of an ONNX file, its bytes, an ``onnx.ModelProto``, or a ``torch.nn.Module``.
        calibration: samples (B, *shape) of the input, or one such array per input name. Never the test set.
        options: what is wanted; defaults are meant to work.
        example_input: for a torch module: one input batch, to trace it with.
        input_shapes: sizes of dynamic dimensions.
        costs: price table; default is this machine's, or the shipped one.
        observers: called after every pass.

    Raises:
        ModelError: the model cannot be read or holds what is not supported.
        CalibrationError: the data cannot be used, or a range is too wide.
        BudgetError: nothing fits.
    """
    options = options or Options()
    if options.target != "ckks":
        raise ParameterError(f"options are for target {options.target!r}", hint="pi_compiler.compile_secure")

    def attempt(options: Options, costs: CostTable | None) -> CompiledModel:
        c, models = prepare(model, calibration, options, example_input, input_shapes, costs)
        return finish(precise(run(c, CKKS, observers), observers), models)

    return first_that_fits(options, costs, attempt)


def first_that_fits(
    options: Options, costs: CostTable | None, attempt: Callable[[Options, CostTable | None], Planned]
) -> Planned:
    """What an attempt gives for the wanted backend; for ``"auto"``, for the first one that has parameters.

    The native backend's fast primes are smaller than SEAL's, so a plan of very high precision may fit
    the latter only.

    Raises:
        BudgetError: nothing fits the first backend, nor any other.
    """
    if options.backend != AUTO:
        return attempt(options, costs)
    names = available_backends()
    try:
        return attempt(replace(options, backend=names[0]), costs)
    except BudgetError as error:
        for name in names[1:]:
            with contextlib.suppress(BudgetError):
                return attempt(replace(options, backend=name), None)
        raise error


def compile_secure(
    model: Source,
    *,
    calibration: Samples,
    options: Options | None = None,
    example_input: object | None = None,
    input_shapes: Shapes | None = None,
    observers: Sequence[Observer] = (),
) -> CompiledMpc:
    """Compile a model for secure multi-party computation.

    Args:
        model: as for ``compile``.
        calibration: as for ``compile``.
        options: what is wanted; ``target`` must be ``"mpc"``.
        example_input: as for ``compile``.
        input_shapes: as for ``compile``.
        observers: called after every pass.

    Raises:
        ModelError: the model cannot be read or holds what is not supported.
        CalibrationError: the data cannot be used, or a nonlinearity cannot be replaced as asked.
        BudgetError: values leave the ring, or too many truncations would wrap around.
        ParameterError: there is no such protocol or network.
    """
    options = options or Options(target="mpc")
    if options.target != "mpc":
        raise ParameterError(f"options are for target {options.target!r}", hint="Options(target='mpc')")
    protocol_of(options.protocol)
    network_of(options.network)
    c, models = prepare(model, calibration, options, example_input, input_shapes)
    return compile_mpc(c, models, observers)


def precise(c: Compilation, observers: Sequence[Observer]) -> Compilation:
    """The compilation with its precision simulated; planned anew with more bits to spare if they are missing.

    Parameters come from a rule that does not know how a network amplifies noise; the simulation does.
    """
    wanted = c.options.precision_bits
    for attempt in range(_ATTEMPTS):
        program = Compilation.require(c.program, "precise", "lower")
        params = Compilation.require(c.params, "precise", "schedule")
        signature = Compilation.require(c.signature, "precise", "lower")
        bits = simulated_bits(program, params, signature, c.calibration, c.options.insecure)
        c = replace(c, simulated_bits=bits)
        fixed = c.options.log_scale is not None
        if bits is None or bits >= wanted or fixed or attempt == _ATTEMPTS - 1:
            break
        missing = wanted - bits if math.isfinite(bits) else wanted
        try:
            again = run(replace(c, spare_bits=c.spare_bits + missing + 0.5), _PLANNING, observers)
        except BudgetError:
            break
        c = again
    if c.simulated_bits is not None and c.simulated_bits < wanted:
        note = f"simulated precision is {c.simulated_bits:.1f} bits, {wanted:g} were asked for"
        c = replace(c, notes=(*c.notes, note))
    return c


def prepare(
    model: Source,
    calibration: Samples,
    options: Options,
    example_input: object | None = None,
    input_shapes: Shapes | None = None,
    costs: CostTable | None = None,
) -> tuple[Compilation, dict[str, bytes]]:
    """The record that passes begin with, and the model's own bytes."""
    from pi_compiler.importer import import_model

    limits, prices = Limits(0, 0, 0), None
    if options.target == "mpc":
        costs, prices = costs or _NO_RING, load_mpc_prices(options.protocol)
    else:
        backend = get_backend(options.backend)
        options = replace(options, backend=backend.name)
        can = backend.capabilities
        bits = can.fast_prime_bits or can.max_prime_bits
        limits = Limits(can.max_log_n, bits, can.specials, can.any_specials, can.fused)
    imported = import_model(
        onnx_source(model, example_input), input_shapes=input_shapes, maxpool=options.maxpool, target=options.target
    )
    graph = named(imported.graph, model)
    samples = samples_for(graph, calibration)
    check_samples(graph, samples)
    notes = imported.notes
    if options.maxpool == "average" and any("was replaced by average pooling" in note for note in notes):
        notes = (*notes, replacement_cost(imported.model, graph, samples))
    costs = costs or load_costs(options.backend)
    c = Compilation(options, graph, costs, limits, samples, notes=notes, mpc_prices=prices)
    return c, {"model.onnx": imported.model}


def named(graph: Graph, model: Source) -> Graph:
    """The graph under the file's name, if its own says nothing."""
    if isinstance(model, str | os.PathLike) and graph.name in _UNNAMED:
        return replace(graph, name=Path(model).stem)
    return graph


def replacement_cost(model: bytes, graph: Graph, samples: Mapping[str, FloatArray]) -> str:
    """What replacing MaxPool costs: how many of the original's answers change on calibration samples."""
    from pi_compiler.importer.reference import reference
    from pi_compiler.ops.evaluate import evaluate

    few = {name: x[:_COMPARED] for name, x in samples.items()}
    before, after = reference(model, few), evaluate(graph, few, client=True)
    name = graph.output_names[0]
    count = len(after[name])
    changed = before[name].reshape(count, -1).argmax(axis=1) != after[name].reshape(count, -1).argmax(axis=1)
    return (
        f"replacing MaxPool by average pooling changes {changed.mean():.1%} of the answers "
        f"on {count} calibration samples; retraining with average pooling wins most of that back"
    )


def finish(c: Compilation, models: dict[str, bytes]) -> CompiledModel:
    """The compiled model from a finished record."""
    from pi_compiler.exporter import export

    program = Compilation.require(c.program, "finish", "lower")
    params = Compilation.require(c.params, "finish", "schedule")
    signature = Compilation.require(c.signature, "finish", "lower")
    replaced = Compilation.require(c.replaced, "finish", "approximate")
    models = {**models, "polynomial.onnx": export(joined(c.front, replaced), None).SerializeToString()}
    return CompiledModel(program, params, replace(signature, front=c.front), plan_report(c), models)


def plan(
    model: Source,
    *,
    calibration: Samples,
    options: Options | None = None,
    example_input: object | None = None,
    input_shapes: Shapes | None = None,
    costs: CostTable | None = None,
    observers: Sequence[Observer] = (),
) -> Json:
    """Like ``compile``, but stops before the program is written: the report only."""

    def attempt(options: Options, costs: CostTable | None) -> Json:
        c, _ = prepare(model, calibration, options, example_input, input_shapes, costs)
        return plan_report(run(c, CKKS, observers, stop_after="schedule"))

    return first_that_fits(options or Options(), costs, attempt)


def onnx_source(model: Source, example_input: object | None) -> str | bytes | onnx.ModelProto:
    """A torch module exported to ONNX; everything else as it is.

    Raises:
        ParameterError: a torch module without an example input.
    """
    if isinstance(model, str | bytes | os.PathLike):
        return model if isinstance(model, bytes) else os.fspath(model)
    if type(model).__name__ == "ModelProto":
        return model  # type: ignore[return-value]
    if not hasattr(model, "state_dict"):
        raise ModelError(
            f"cannot compile a {type(model).__name__}", hint="an ONNX path, bytes, onnx.ModelProto, or torch.nn.Module"
        )
    if example_input is None:
        raise ParameterError("a torch module needs example_input, one input batch to trace it with")
    from pi_compiler.torch_export import to_onnx

    return to_onnx(model, example_input)


def by_name(x: Samples, names: Sequence[str]) -> dict[str, FloatArray]:
    """Arrays by input name; a lone array belongs to the only input.

    Raises:
        ShapeMismatch: a lone array for a model with several inputs, or values that are not numbers.
    """
    if isinstance(x, Mapping):
        return {str(n): _array(v, str(n)) for n, v in x.items()}
    if len(names) != 1:
        raise ShapeMismatch(f"the model has {len(names)} inputs: {', '.join(names)}; give one array per name")
    return {names[0]: _array(x, names[0])}


def _array(x: ArrayLike, name: str) -> FloatArray:
    values = np.asarray(x)
    if values.dtype.kind not in "fiub":
        raise ShapeMismatch(f"input {name!r} has type {values.dtype}, needed are real numbers")
    return values


def samples_for(graph: Graph, calibration: Samples) -> dict[str, FloatArray]:
    """Calibration samples (B, *shape) by input name.

    Raises:
        ShapeMismatch: a shape does not fit.
    """
    found = by_name(calibration, [n.origin for n in graph.inputs])
    faults = []
    for node in graph.inputs:
        x = found.get(node.origin)
        if x is None:
            continue
        shape = node.shape
        if x.shape[1:] == shape:
            continue
        if shape[0] == 1 and x.ndim >= 1 and x.shape[1:] == shape[1:]:
            found[node.origin] = x.reshape(x.shape[0], *shape)
        else:
            faults.append(f"samples of input {node.origin!r} have shape {x.shape[1:]}, needed is {shape[1:]}")
    if faults:
        raise ShapeMismatch("the calibration data do not fit the model", *faults)
    return found


def batches(x: Mapping[str, FloatArray], size: int) -> Iterator[dict[str, FloatArray]]:
    """Consecutive slices of a batch."""
    count = min((len(v) for v in x.values()), default=0)
    for start in range(0, count, size):
        yield {n: v[start : start + size] for n, v in x.items()}
