"""The command line; see ARCHITECTURE.md, section 5.

Exit codes: 0 done, 1 did not succeed, 2 bad use, 130 interrupted. Everything that a command writes is
checked before its work begins and appears whole or not at all. Modules that take time to import are
imported by the command that needs them.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, ParamSpec

import typer

from pi_compiler import __version__, files
from pi_compiler.errors import ParameterError, PiError
from pi_compiler.options import Activation, Options
from pi_compiler.terminal import complain, progress, show

if TYPE_CHECKING:
    from pi_compiler.api import CompiledModel
    from pi_compiler.arrays import Labels, Samples
    from pi_compiler.pipelines import Observer

P = ParamSpec("P")
Json = dict[str, object]

DEFAULTS = Options()

app = typer.Typer(
    name="pi-compiler",
    help="Compile an ONNX model and run it on data nobody but its owner can read.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="An .onnx file.")]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that compile wrote.")]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write the report for machines.")]
Shapes = Annotated[
    list[str] | None,
    typer.Option("--input-shape", metavar="NAME=1,3,32,32", help="Shape of an input with open dimensions."),
]
MaxPool = Annotated[
    Literal["refuse", "average"],
    typer.Option("--maxpool", help="Refuse MaxPool, or put average pooling in its place."),
]
Backend = Annotated[
    str,
    typer.Option("--backend", help="native, tenseal, clear or sim; auto is native where it can be had, else tenseal."),
]
Insecure = Annotated[bool, typer.Option("--insecure", help="Allow parameters below 128-bit security.")]
Limit = Annotated[int | None, typer.Option("--limit", min=1, metavar="N", help="Only the first N samples.")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments without the program's name; default is the process's own.

    Returns:
        The exit code.
    """
    try:
        app(args=None if argv is None else list(argv), prog_name="pi-compiler")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def guarded(command: Callable[P, None]) -> Callable[P, None]:
    """A command whose errors are printed for people and become exit codes."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort):
            raise
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:
            # Whoever reads our output has seen enough; Python must not try to flush the rest.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(1) from None
        except Exception as error:
            raise fail(error, 1) from error

    return run


def fail(error: Exception, code: int) -> typer.Exit:
    """Print an error; returns the exit to raise."""
    if os.environ.get("PI_DEBUG") == "1":
        complain("".join(traceback.format_exception(error)))
    complain(f"{type(error).__name__}: {error}")
    if not isinstance(error, PiError):
        complain("  this is a fault of pi-compiler; PI_DEBUG=1 shows where it happened")
    return typer.Exit(code)


def bad_use(error: PiError) -> typer.Exit:
    """An argument makes no sense: print why; returns the exit to raise."""
    return fail(error, 2)


def version(wanted: bool) -> None:
    """Print the version and leave."""
    if wanted:
        show(f"pi-compiler {__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Compile an ONNX model and run it on data nobody but its owner can read."""


# --- inspect, compile, explain -------------------------------------------------------------------


@app.command()
@guarded
def inspect(model: Model, input_shape: Shapes = None, maxpool: MaxPool = "refuse", json: JsonFile = None) -> None:
    """List operators, shapes, nonlinearities and everything that cannot run encrypted."""
    from pi_compiler.importer import inspect_model
    from pi_compiler.report.inspection import inspection_report
    from pi_compiler.report.text import inspect_view

    shapes = parse_shapes(input_shape)
    check_outputs(json)
    report = inspection_report(model.name, inspect_model(model, input_shapes=shapes, maxpool=maxpool))
    write_report(json, report)
    show(inspect_view(report))


@app.command()
@guarded
def compile(
    model: Model,
    calibration: Annotated[
        str, typer.Option("--calibration", metavar="DATA", help=".npz with x, .npy, or NAME:SPLIT of a known data set.")
    ],
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for the compiled model.")],
    activation: Annotated[
        list[str] | None,
        typer.Option(
            "--activation",
            metavar="[LAYER=]METHOD",
            help="auto, quadratic, chebyshev:D, relu-composite ...; everywhere or in a layer; may be repeated.",
        ),
    ] = None,
    activation_error: Annotated[
        str, typer.Option("--activation-error", metavar="E", help="Largest error of an automatic one: 0.01, 2^-7.")
    ] = str(DEFAULTS.activation_error),
    margin: Annotated[
        float, typer.Option("--margin", help="Interval width relative to the calibrated range.")
    ] = DEFAULTS.margin,
    max_latency: Annotated[
        float | None, typer.Option("--max-latency", metavar="SECONDS", help="Choose fits that stay below.")
    ] = None,
    max_accuracy_drop: Annotated[
        float | None,
        typer.Option("--max-accuracy-drop", metavar="FRACTION", help="Choose the cheapest fits that lose no more."),
    ] = None,
    precision_bits: Annotated[
        float, typer.Option("--precision-bits", help="Bits of the outputs that noise leaves intact.")
    ] = DEFAULTS.precision_bits,
    maxpool: MaxPool = DEFAULTS.maxpool,
    log_n: Annotated[int | None, typer.Option("--log-n", help="log2 of the ring degree, instead of the best.")] = None,
    log_scale: Annotated[float | None, typer.Option("--log-scale", help="log2 of the scale.")] = None,
    max_input_ciphertexts: Annotated[
        int, typer.Option("--max-input-ciphertexts", help="Most ciphertexts that the client sends per input.")
    ] = DEFAULTS.max_input_ciphertexts,
    backend: Annotated[
        str, typer.Option("--backend", help="Whose limits and costs to plan for; auto is what run takes by itself.")
    ] = DEFAULTS.backend,
    insecure: Insecure = False,
    input_shape: Shapes = None,
    emit_onnx: Annotated[
        Path | None, typer.Option("--emit-onnx", metavar="FILE", help="Also write the HE-friendly model as ONNX.")
    ] = None,
    print_after: Annotated[
        list[str] | None, typer.Option("--print-after", metavar="PASS", help="Print the stage after a pass.")
    ] = None,
    dump_dir: Annotated[
        Path | None, typer.Option("--dump-dir", metavar="DIR", help="Write every stage as text.")
    ] = None,
    costs: Annotated[Path | None, typer.Option("--costs", metavar="FILE", help="Cost table to predict with.")] = None,
    json: JsonFile = None,
) -> None:
    """Compile a model into a folder that runs on encrypted data."""
    from pi_compiler import api
    from pi_compiler.artifact import check_place
    from pi_compiler.cost import load_costs
    from pi_compiler.observe import Dumper, Printer, Ticker
    from pi_compiler.report.text import explain_view, size

    shapes = parse_shapes(input_shape)
    options = parse_options(
        activation,
        activation_error,
        margin=margin,
        max_latency=max_latency,
        max_accuracy_drop=max_accuracy_drop,
        precision_bits=precision_bits,
        maxpool=maxpool,
        log_n=log_n,
        log_scale=log_scale,
        max_input_ciphertexts=max_input_ciphertexts,
        backend=known_backend(backend),
        insecure=insecure,
    )
    first_choice = chosen_backend(backend)
    printer = Printer(known_passes(print_after), typer.echo)
    refuse_test_split(calibration)
    check_outputs(json, emit_onnx)
    check_place(output)
    table = load_costs(first_choice, costs) if costs is not None else None
    samples, _ = read_samples(calibration)
    dumper = Dumper(dump_dir) if dump_dir is not None else None
    with progress() as report:
        observers: list[Observer] = [Ticker(report), printer, *([dumper] if dumper is not None else [])]
        compiled = api.compile(
            model, calibration=samples, options=options, input_shapes=shapes, costs=table, observers=observers
        )
        written = compiled.save(output)
    if emit_onnx is not None:
        files.write(emit_onnx, compiled.models["polynomial.onnx"])
    write_report(json, compiled.report)
    show(explain_view(compiled.report))
    show(f"{output}: {size(written)}")


@app.command()
@guarded
def explain(folder: Folder, json: JsonFile = None) -> None:
    """Print every choice of a plan, and what it will cost."""
    from pi_compiler.report.text import explain_view

    check_outputs(json)
    report = load(folder).report
    write_report(json, report)
    show(explain_view(report))


# --- run, evaluate -------------------------------------------------------------------------------


@app.command()
@guarded
def run(
    folder: Folder,
    input: Annotated[
        str, typer.Option("--input", metavar="X", help=".npy or .npz with one sample or several, or NAME:SPLIT.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="Y.npy", help="Write the answers, .npy or .npz.")
    ] = None,
    backend: Backend = "auto",
    limit: Limit = None,
    profile: Annotated[
        Path | None,
        typer.Option("--profile", metavar="TRACE.json", help="Write what took how long (Perfetto opens it)."),
    ] = None,
    flood_bits: Annotated[
        int | None,
        typer.Option(
            "--flood-bits",
            min=1,
            max=64,
            metavar="K",
            help="Put noise over the answers, so that handing them to others leaves K bits of security.",
        ),
    ] = None,
    insecure: Insecure = False,
    json: JsonFile = None,
) -> None:
    """Encrypt samples, evaluate, decrypt; compare with what was predicted."""
    from pi_compiler import arrays
    from pi_compiler.answers import stacked, timed_run
    from pi_compiler.report.text import run_view

    known_backend(backend)
    check_outputs(json, output, profile)
    compiled = load(folder)
    if output is not None:
        arrays.check_format(output, list(compiled.signature.outputs))
    samples, _ = read_samples(input, single=True)
    inputs = {name: x[:limit] for name, x in stacked(compiled, samples).items()}
    with progress() as report:
        measured, found, _ = timed_run(
            compiled, inputs, backend, insecure=insecure, flood_bits=flood_bits, progress=report
        )
    if output is not None:
        arrays.write(output, found.outputs)
    if profile is not None:
        files.write_json(profile, found.trace.to_json())
    write_report(json, measured)
    show(run_view(measured))


@app.command()
@guarded
def evaluate(
    folder: Folder,
    data: Annotated[str, typer.Option("--data", metavar="DATA", help=".npz with x and y, or NAME:SPLIT.")],
    limit: Annotated[int, typer.Option("--limit", min=1, metavar="N", help="Samples that run encrypted.")] = 20,
    backend: Backend = "auto",
    insecure: Insecure = False,
    json: JsonFile = None,
) -> None:
    """Accuracy of the original, polynomial, simulated and encrypted network on the same samples."""
    from pi_compiler.accuracy import evaluate_model
    from pi_compiler.answers import answer, stacked
    from pi_compiler.errors import CalibrationError
    from pi_compiler.report.text import evaluation_view

    known_backend(backend)
    check_outputs(json)
    compiled = load(folder)
    samples, labels = read_samples(data)
    if labels is None:
        raise CalibrationError(
            f"data {data} have no labels, and accuracy needs them", hint="numpy.savez(file, x=inputs, y=labels)"
        )
    inputs = stacked(compiled, samples)
    few = {name: x[:limit] for name, x in inputs.items()}
    with progress() as report:
        encrypted = answer(compiled.session(backend, insecure=insecure), few, report, "encrypted")
        found = evaluate_model(compiled, inputs, labels, encrypted.logits, report)
    write_report(json, found)
    show(evaluation_view(found))


# --- calibrate-cost, demo ------------------------------------------------------------------------


@app.command("calibrate-cost")
@guarded
def calibrate_cost(
    backend: Annotated[str, typer.Option("--backend", help="What to measure.")] = DEFAULTS.backend,
    log_n: Annotated[
        list[int] | None, typer.Option("--log-n", help="log2 of a ring degree; may be repeated. Default 12 to 15.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=3600, help="About how long to measure.")] = 25.0,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Default: where predictions look for it.")
    ] = None,
    json: JsonFile = None,
) -> None:
    """Measure this machine once, so that predictions fit it."""
    from pi_compiler.cost import table_path
    from pi_compiler.report.text import costs_view
    from pi_compiler.runtime.measure import measure

    backend = chosen_backend(backend)
    path = output if output is not None else table_path(backend)
    if output is None:
        files.make_folder(path.parent)
    check_outputs(json, path)
    with progress() as report:
        report(f"measuring {backend}", 0, 1)
        table = measure(backend, tuple(log_n) if log_n else (12, 13, 14, 15), seconds=seconds)
    files.write_json(path, table)
    write_report(json, table)
    show(costs_view(table))
    show(f"{path}: predictions for backend {backend} use it from now on" if output is None else f"{path}")


@app.command()
@guarded
def demo(
    images: Annotated[int, typer.Option("--images", min=1, max=350, help="Test images to run encrypted.")] = 10,
    output: Annotated[Path | None, typer.Option("--output", metavar="DIR", help="Keep the compiled model.")] = None,
    backend: Backend = DEFAULTS.backend,
    json: JsonFile = None,
) -> None:
    """Recognize handwritten digits that only their owner can see, from ONNX file to decrypted answer."""
    from pi_compiler.artifact import check_place
    from pi_compiler.demo import digits

    chosen_backend(backend)
    check_outputs(json)
    if output is not None:
        check_place(output)
    with progress() as report:
        found = digits(images, backend, output, report)
    write_report(json, found.report)
    for view in found.views:
        show(view)


# --- arguments -----------------------------------------------------------------------------------


def parse_options(activation: list[str] | None, activation_error: str, **others: object) -> Options:
    """Options from the command line; anything out of range is bad use."""
    try:
        everywhere, layers = Activation(), dict[str, Activation]()
        for text in activation or ():
            layer, equals, method = text.rpartition("=")
            if equals:
                layers[layer] = Activation.parse(method)
            else:
                everywhere = Activation.parse(method)
        error = parse_number(activation_error)
        return Options(activation=everywhere, activations=layers, activation_error=error, **others)  # type: ignore[arg-type]
    except ParameterError as e:
        raise bad_use(e) from e


def parse_number(text: str) -> float:
    """A decimal number, or a power such as ``2^-5.5``, the form that error messages use.

    Raises:
        ParameterError: it is neither.
    """
    base, power, exponent = text.partition("^")
    try:
        return float(base) ** float(exponent) if power else float(base)
    except (ValueError, ArithmeticError) as e:
        raise ParameterError(f"{text!r} is no number", hint="0.01, 1e-2 or 2^-7") from e


def parse_shapes(texts: list[str] | None) -> dict[str, tuple[int, ...]] | None:
    """``NAME=1,3,32,32`` per input."""
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts or ():
        name, _, sizes = text.rpartition("=")
        numbers = sizes.replace("x", ",").split(",")
        if not name or not all(n.strip().isdigit() and int(n) > 0 for n in numbers):
            raise bad_use(ParameterError(f"--input-shape {text!r} is not NAME=SIZE,SIZE,...", hint="x=1,3,32,32"))
        shapes[name] = tuple(int(n) for n in numbers)
    return shapes or None


def known_backend(name: str) -> str:
    """A backend's name, checked; ``auto`` is one."""
    from pi_compiler.runtime.backend import AUTO, BACKENDS

    if name not in (AUTO, *BACKENDS):
        raise bad_use(ParameterError(f"there is no backend {name!r}", f"known: {AUTO}, {', '.join(BACKENDS)}"))
    return name


def chosen_backend(name: str) -> str:
    """A backend's name, checked to be available; ``auto`` becomes the one that it stands for."""
    from pi_compiler.runtime.backend import get_backend

    return get_backend(known_backend(name)).name


def known_passes(names: list[str] | None) -> list[str]:
    """Names of passes, checked."""
    from pi_compiler.pipelines import CKKS

    known = [name for name, _ in CKKS]
    if unknown := [n for n in names or () if n not in known]:
        raise bad_use(ParameterError(f"there is no pass {', '.join(map(repr, unknown))}", f"known: {', '.join(known)}"))
    return names or []


def refuse_test_split(spec: str) -> None:
    """Whatever is chosen by looking at test data is not measured by them afterwards."""
    name, colon, split = spec.partition(":")
    if colon and split == "test" and Path(spec).suffix not in (".npz", ".npy"):
        raise bad_use(
            ParameterError(
                f"{spec} would calibrate on test data, which are for measuring only", hint=f"{name}:calibration"
            )
        )


def check_outputs(*paths: Path | None) -> None:
    """Fail before the work if a file could not be written after it."""
    for path in paths:
        if path is not None:
            files.check_file(path)


def write_report(path: Path | None, report: object) -> None:
    """The report for machines, if one is wanted."""
    if path is not None:
        files.write_json(path, report)


def read_samples(spec: str, single: bool = False) -> tuple[Samples, Labels | None]:
    """Samples and, where there are any, labels."""
    from pi_compiler import arrays

    return arrays.read(spec, single=single)


def load(folder: Path) -> CompiledModel:
    """A compiled model."""
    from pi_compiler.api import CompiledModel

    return CompiledModel.load(folder)


if __name__ == "__main__":
    raise SystemExit(main())
