"""The command line; see ARCHITECTURE.md, section 5.

Exit codes: 0 done, 1 did not succeed, 2 bad use, 130 interrupted. Everything that a command writes is
checked before its work begins and appears whole or not at all. Modules that take time to import are
imported by the command that needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from pi_compiler import __version__, files
from pi_compiler.commands.reducing import reduce, report
from pi_compiler.commands.shell import (
    JsonFile,
    MaxPool,
    Model,
    Shapes,
    bad_use,
    check_outputs,
    chosen_backend,
    guarded,
    known_backend,
    parse_shapes,
    write_report,
)
from pi_compiler.errors import ParameterError
from pi_compiler.options import Activation, Options, Target
from pi_compiler.terminal import progress, show

if TYPE_CHECKING:
    from pi_compiler.api import CompiledModel
    from pi_compiler.arrays import Labels, Samples
    from pi_compiler.pipelines import Observer

DEFAULTS = Options()
T = TypeVar("T")

app = typer.Typer(
    name="pi-compiler",
    help="Compile an ONNX model and run it on data nobody but its owner can read.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="A folder that compile wrote.")]
Backend = Annotated[
    str,
    typer.Option("--backend", help="clear, sim, tenseal, native; for MPC mpc-sim; auto: what the plan was made for."),
]
NetworkName = Annotated[
    str | None, typer.Option("--network", metavar="lan|man|wan|wan-cheetah|RTT,MBIT", help="MPC: where parties meet.")
]
TargetName = Annotated[
    Literal["ckks", "mpc"], typer.Option("--target", help="Homomorphic encryption, or multi-party computation.")
]
Protocol = Annotated[
    str | None, typer.Option("--protocol", metavar="NAME", help="MPC: crypten-ttp, crypten-tfp, semi2k, cheetah, aby3.")
]
SpuProtocol = Annotated[
    str | None, typer.Option("--protocol", metavar="NAME", help="With --backend spu: semi2k, cheetah, aby3.")
]
Timeout = Annotated[
    float, typer.Option("--timeout", min=0.1, metavar="SECONDS", help="MPC: how long a party waits for another.")
]
FirstPartyDeals = Annotated[
    bool,
    typer.Option("--debug-first-party-dealer", help="MPC: the model's owner deals, and can compute every secret."),
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
def inspect(
    model: Model,
    input_shape: Shapes = None,
    maxpool: MaxPool = "refuse",
    target: TargetName = "ckks",
    json: JsonFile = None,
) -> None:
    """List operators, shapes, nonlinearities and everything that cannot run encrypted."""
    from pi_compiler.importer import inspect_model
    from pi_compiler.report.inspection import inspection_report
    from pi_compiler.report.text import inspect_view

    shapes = parse_shapes(input_shape)
    check_outputs(json)
    found = inspect_model(model, input_shapes=shapes, maxpool=maxpool, target=target)
    report = inspection_report(model.name, found)
    write_report(json, report)
    show(inspect_view(report))


@app.command()
@guarded
def compile(
    model: Model,
    calibration: Annotated[
        str, typer.Option("--calibration", metavar="DATA", help=".npz with x, .npy, or NAME:SPLIT of a known data set.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Folder for the compiled model.")
    ] = None,
    plan_only: Annotated[
        bool,
        typer.Option(
            "--plan-only", help="Print the plan and write nothing; bootstraps are counted where depth asks for them."
        ),
    ] = False,
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
    target: TargetName = DEFAULTS.target,
    protocol: Protocol = None,
    network: NetworkName = None,
    frac_bits: Annotated[
        int | None, typer.Option("--frac-bits", help="MPC: fractional bits, instead of as many as ranges allow.")
    ] = None,
    public_weights: Annotated[
        bool, typer.Option("--public-weights", help="MPC: the data's owner may know the weights.")
    ] = False,
    wrap_budget: Annotated[
        float, typer.Option("--wrap-budget", help="MPC: most truncations per inference expected to wrap around.")
    ] = DEFAULTS.wrap_budget,
    softmax: Annotated[
        list[str] | None,
        typer.Option(
            "--softmax",
            metavar="[LAYER=]FORM",
            help="max-exp, normalize-square, cgf, power:P, 2quad, relu, sigmoid, square or linear; 2relu for MPC. "
            "Repeatable.",
        ),
    ] = None,
    stochastic_bits: Annotated[
        int, typer.Option("--stochastic-bits", help="MPC: low bits that comparisons leave out (Circa).")
    ] = 0,
    embedding: Annotated[
        Literal["client", "secret"],
        typer.Option(
            "--embedding", help="Who looks tokens up: the client, or (MPC only) the parties in a secret table."
        ),
    ] = DEFAULTS.embedding,
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
        softmax,
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
        target=target,
        protocol=protocol or DEFAULTS.protocol,
        network=network or DEFAULTS.network,
        frac_bits=frac_bits,
        public_weights=public_weights,
        wrap_budget=wrap_budget,
        stochastic_bits=stochastic_bits,
        embedding=embedding,
        bootstraps=plan_only,
    )
    refuse_foreign(
        target,
        ckks={
            "--emit-onnx": emit_onnx,
            "--log-n": log_n,
            "--log-scale": log_scale,
            "--costs": costs,
            "--plan-only": plan_only,
        },
        mpc={
            "--protocol": protocol,
            "--network": network,
            "--frac-bits": frac_bits,
            "--public-weights": public_weights,
            "--stochastic-bits": stochastic_bits,
        },
    )
    printer = Printer(known_passes(print_after, target), typer.echo)
    refuse_test_split(calibration)
    check_outputs(json, emit_onnx)
    if plan_only and (output is not None or emit_onnx is not None):
        raise bad_use(ParameterError("--plan-only writes no model: it takes neither --output nor --emit-onnx"))
    table = load_costs(chosen_backend(backend), costs) if costs is not None else None
    if plan_only:
        samples, _ = read_samples(calibration)
        with progress() as ticking:
            watching: list[Observer] = [Ticker(ticking), printer]
            planned = api.plan(
                model, calibration=samples, options=options, input_shapes=shapes, costs=table, observers=watching
            )
        write_report(json, planned)
        show(explain_view(planned))
        return
    if output is None:
        raise bad_use(ParameterError("compile needs a place for the model", hint="--output DIR, or --plan-only"))
    check_place(output)
    if target == "mpc":
        from pi_compiler import cli_mpc

        cli_mpc.compile_secure(model, calibration, output, options, shapes, printer, dump_dir, json)
        return
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
def explain(
    folder: Folder,
    network: NetworkName = None,
    protocol: Protocol = None,
    compare: Annotated[
        bool, typer.Option("--compare", help="One table: the same model under CKKS and every MPC protocol.")
    ] = False,
    calibration: Annotated[
        str | None, typer.Option("--calibration", metavar="DATA", help="With --compare: to plan what DIR is not for.")
    ] = None,
    data: Annotated[
        str | None, typer.Option("--data", metavar="DATA", help="With --compare: labeled samples to measure accuracy.")
    ] = None,
    json: JsonFile = None,
) -> None:
    """Print every choice of a plan, and what it will cost."""
    from pi_compiler import cli_mpc
    from pi_compiler.report.text import explain_view

    check_outputs(json)
    if compare:
        cli_mpc.compare(folder, calibration, data, json)
        return
    if is_mpc(folder):
        cli_mpc.explain(folder, network, protocol, json)
        return
    if network or protocol:
        raise bad_use(ParameterError(f"{folder} was compiled for ckks, which has neither protocol nor network"))
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
    parties: Annotated[
        int | None, typer.Option("--parties", metavar="N", help="MPC: how many compute; with --backend crypten 2.")
    ] = None,
    network: NetworkName = None,
    protocol: SpuProtocol = None,
    timeout: Timeout = 60.0,
    first_party_deals: FirstPartyDeals = False,
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
    keys: Annotated[
        Path | None,
        typer.Option(
            "--keys",
            metavar="DIR2",
            help="Keep the keys, the secret one too: made there by the first run, used again by later ones.",
        ),
    ] = None,
    insecure: Insecure = False,
    json: JsonFile = None,
) -> None:
    """Encrypt samples, evaluate, decrypt; compare with what was predicted."""
    from pi_compiler import arrays
    from pi_compiler.answers import stacked, timed_run
    from pi_compiler.report.text import run_view
    from pi_compiler.runtime.keyring import check_folder

    if is_mpc(folder):
        from pi_compiler import cli_mpc

        if keys is not None:
            raise bad_use(ParameterError(f"{folder} was compiled for mpc, which has no keys to keep"))
        meeting = (parties, network, timeout, not first_party_deals, protocol)
        cli_mpc.run(folder, input, output, backend, limit, profile, json, meeting)
        return
    if parties is not None or network is not None or first_party_deals or protocol is not None:
        raise bad_use(ParameterError(f"{folder} was compiled for ckks, which has neither parties nor network"))
    known_backend(backend)
    check_outputs(json, output, profile)
    if keys is not None:
        if flood_bits is not None:
            raise bad_use(ParameterError("--flood-bits counts what leaves in one run: it takes fresh keys, no --keys"))
        check_folder(keys)
    compiled = load(folder)
    if output is not None:
        arrays.check_format(output, list(compiled.signature.outputs))
    samples, _ = read_samples(input, single=True)
    inputs = {name: x[:limit] for name, x in stacked(compiled, samples).items()}
    with progress() as report:
        measured, found, _ = timed_run(
            compiled, inputs, backend, insecure=insecure, flood_bits=flood_bits, keys=keys, progress=report
        )
    if output is not None:
        arrays.write(output, found.outputs)
    if profile is not None:
        files.write_json(profile, found.trace.to_json())
    write_report(json, measured)
    show(run_view(measured))


@app.command()
@guarded
def party(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A model compiled for MPC, or its handout.")],
    rank: Annotated[
        int, typer.Option("--rank", help="0 the model's owner, 1 the data's owner, 2 the dealer, or aby3's helper.")
    ],
    peers: Annotated[
        str,
        typer.Option(
            "--peers", metavar="HOST0:PORT,HOST1:PORT", help="Where parties 0 and 1 listen, under aby3 also party 2."
        ),
    ],
    weights: Annotated[
        Path | None, typer.Option("--weights", metavar="FILE", help="Party 0: weights.npz; default that in DIR.")
    ] = None,
    input: Annotated[str | None, typer.Option("--input", metavar="X", help="Party 1: .npy or .npz of samples.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="Y.npy", help="Party 1: write the answers, .npy or .npz.")
    ] = None,
    backend: Annotated[str, typer.Option("--backend", help="crypten or spu, the same for all parties.")] = "crypten",
    protocol: SpuProtocol = None,
    timeout: Timeout = 60.0,
    first_party_deals: FirstPartyDeals = False,
    json: JsonFile = None,
) -> None:
    """Be one party of a run under MPC; the others run on their own machines."""
    from pi_compiler import cli_mpc

    spu = cli_mpc.protocol_on(cli_mpc.with_parties(backend), protocol)
    cli_mpc.party(folder, (rank, peers, not first_party_deals, timeout, spu), weights, input, output, json)


@app.command()
@guarded
def handout(
    folder: Folder,
    output: Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for the handout.")],
) -> None:
    """Write what the data's owner and the dealer may have of a model for MPC: everything but its weights."""
    from pi_compiler import cli_mpc

    cli_mpc.handout(folder, output)


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
    from pi_compiler import arrays
    from pi_compiler.accuracy import evaluate_model
    from pi_compiler.answers import answer, stacked
    from pi_compiler.report.text import evaluation_view

    if is_mpc(folder):
        from pi_compiler import cli_mpc

        cli_mpc.evaluate(folder, data, backend, limit, json)
        return
    known_backend(backend)
    check_outputs(json)
    compiled = load(folder)
    samples, labels = arrays.labeled(data)
    inputs = stacked(compiled, samples)
    few = {name: x[:limit] for name, x in inputs.items()}
    with progress() as report:
        encrypted = answer(compiled.session(backend, insecure=insecure), few, report, "encrypted")
        found = evaluate_model(compiled, inputs, labels, encrypted.logits, report)
    write_report(json, found)
    show(evaluation_view(found))


# --- reduce, report: commands/reducing.py ---------------------------------------------------------


app.command()(guarded(reduce))
app.command()(guarded(report))


# --- calibrate-cost, demo ------------------------------------------------------------------------


@app.command("calibrate-cost")
@guarded
def calibrate_cost(
    backend: Annotated[str, typer.Option("--backend", help="What to measure.")] = DEFAULTS.backend,
    log_n: Annotated[
        list[int] | None, typer.Option("--log-n", help="log2 of a ring degree; may be repeated. Default 12 to 15.")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.1, max=3600, help="About how long to measure.")] = 25.0,
    protocol: SpuProtocol = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Default: where predictions look for it.")
    ] = None,
    json: JsonFile = None,
) -> None:
    """Measure this machine once, so that predictions fit it."""
    from pi_compiler.cost import table_path
    from pi_compiler.report.text import costs_view
    from pi_compiler.runtime.measure import measure

    if backend in ("crypten", "spu"):
        from pi_compiler import cli_mpc

        if log_n:
            raise bad_use(ParameterError(f"--log-n is for ring degrees, which backend {backend!r} does not have"))
        cli_mpc.calibrate(cli_mpc.protocol_on(backend, protocol), output, json)
        return
    if protocol is not None:
        raise bad_use(ParameterError(f"backend {backend!r} has no protocols", hint="--backend spu"))
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


def parse_options(
    activation: list[str] | None, activation_error: str, softmax: list[str] | None = None, **others: object
) -> Options:
    """Options from the command line; anything out of range is bad use."""
    try:
        target: Target = "mpc" if others.get("target") == "mpc" else "ckks"
        everywhere, layers = by_layer(activation, Activation(), lambda text: Activation.parse(text, target))
        form, forms = by_layer(softmax, DEFAULTS.softmax, str)
        return Options(
            activation=everywhere,
            activations=layers,
            activation_error=parse_number(activation_error),
            softmax=form,
            softmaxes=forms,
            **others,  # type: ignore[arg-type]
        )
    except ParameterError as e:
        raise bad_use(e) from e


def by_layer(texts: list[str] | None, everywhere: T, parse: Callable[[str], T]) -> tuple[T, dict[str, T]]:
    """What ``[LAYER=]TEXT`` says for all layers and for single ones."""
    layers: dict[str, T] = {}
    for text in texts or ():
        layer, equals, given = text.rpartition("=")
        if equals:
            layers[layer] = parse(given)
        else:
            everywhere = parse(given)
    return everywhere, layers


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


def known_passes(names: list[str] | None, target: Target = "ckks") -> list[str]:
    """Names of passes, checked."""
    from pi_compiler.pipelines import CKKS, MPC

    known = [name for name, _ in (MPC if target == "mpc" else CKKS)]
    if unknown := [n for n in names or () if n not in known]:
        raise bad_use(ParameterError(f"there is no pass {', '.join(map(repr, unknown))}", f"known: {', '.join(known)}"))
    return names or []


def refuse_foreign(target: Target, *, ckks: Mapping[str, object], mpc: Mapping[str, object]) -> None:
    """Options that mean nothing for a target are bad use."""
    other: Target = "ckks" if target == "mpc" else "mpc"
    given = [name for name, value in (ckks if target == "mpc" else mpc).items() if value]
    if given:
        raise bad_use(ParameterError(f"{', '.join(given)}: for --target {other} only, and this is {target}"))


def refuse_test_split(spec: str) -> None:
    """Whatever is chosen by looking at test data is not measured by them afterwards."""
    name, colon, split = spec.partition(":")
    if colon and split == "test" and Path(spec).suffix not in (".npz", ".npy"):
        raise bad_use(
            ParameterError(
                f"{spec} would calibrate on test data, which are for measuring only", hint=f"{name}:calibration"
            )
        )


def read_samples(spec: str, single: bool = False) -> tuple[Samples, Labels | None]:
    """Samples and, where there are any, labels."""
    from pi_compiler import arrays

    return arrays.read(spec, single=single)


def is_mpc(folder: Path) -> bool:
    """Whether a folder was compiled for MPC; its own loader says what else is wrong with it."""
    return (folder / "program.json").exists()


def load(folder: Path) -> CompiledModel:
    """A compiled model."""
    from pi_compiler.api import CompiledModel

    return CompiledModel.load(folder)


if __name__ == "__main__":
    raise SystemExit(main())
