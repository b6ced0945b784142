"""``reduce``: train models with fewer ReLUs. ``report``: what they cost and what they lost, as one page."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from pi_compiler.commands.shell import (
    JsonFile,
    MaxPool,
    Model,
    Shapes,
    bad_use,
    check_outputs,
    known_backend,
    parse_shapes,
    write_report,
)
from pi_compiler.errors import BackendUnavailable, ParameterError
from pi_compiler.terminal import complain, progress_bars, show

if TYPE_CHECKING:
    from pi_compiler.models.training.engine import Epoch
    from pi_compiler.models.training.reduction import Job
    from pi_compiler.models.training.request import Request

Out = Annotated[Path, typer.Option("--output", metavar="DIR", help="Folder for models, records and checkpoints.")]


def reduce(
    model: Model,
    data: Annotated[
        str, typer.Option("--data", metavar="DATA", help="A known data set, .npz, .csv, or images in class folders.")
    ],
    output: Out,
    budget: Annotated[
        list[int] | None,
        typer.Option("--budget", metavar="N", help="Most ReLUs that stay; repeatable. Transformers' parts need none."),
    ] = None,
    method: Annotated[
        list[str] | None, typer.Option("--method", help="How to choose them; repeatable. Default autorep.")
    ] = None,
    kind: Annotated[
        list[str] | None, typer.Option("--kind", help="What takes a ReLU's place; repeatable. Default quadratic.")
    ] = None,
    granularity: Annotated[
        Literal["pixel", "channel", "layer"], typer.Option("--granularity", help="What stays or goes as one.")
    ] = "pixel",
    seed: Annotated[list[int] | None, typer.Option("--seed", help="Repeatable. Default 0.")] = None,
    epochs: Annotated[int, typer.Option("--epochs", help="Passes over the data while ReLUs are chosen.")] = 20,
    finetune_epochs: Annotated[int, typer.Option("--finetune-epochs", help="Passes after that.")] = 20,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", help="Samples per step; default suits data.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Neither bfloat16 nor compiled kernels.")] = False,
    teacher: Annotated[
        Path | None, typer.Option("--teacher", metavar="MODEL", help="Whose answers to imitate; default is MODEL.")
    ] = None,
    label: Annotated[str | None, typer.Option("--label", metavar="COLUMN", help="A table's labels.")] = None,
    group: Annotated[str | None, typer.Option("--group", metavar="COLUMN", help="A table's groups.")] = None,
    input_shape: Shapes = None,
    maxpool: MaxPool = "refuse",
    backend: Annotated[
        str, typer.Option("--backend", help="Whose CKKS costs to predict; none predicts none.")
    ] = "tenseal",
    range_penalty: Annotated[
        Literal["none", "pillar", "boundary"],
        typer.Option("--range-penalty", help="Keeps what reaches replaced activations inside the bound."),
    ] = "none",
    bound: Annotated[float, typer.Option("--bound", help="Of --range-penalty and --clip.")] = 5.0,
    clip: Annotated[bool, typer.Option("--clip", help="Cut to the bound while training.")] = False,
    faults: Annotated[
        Literal["none", "pos-zero", "neg-pass"],
        typer.Option("--faults", help="Train with Circa's truncated stochastic ReLU."),
    ] = "none",
    balance: Annotated[
        float, typer.Option("--balance", metavar="RATE", help="Keep groups together in a fine-tuning; 0 does not.")
    ] = 0.0,
    balance_form: Annotated[
        Literal["absolute", "one-sided"], typer.Option("--balance-form", help="What --balance penalizes.")
    ] = "absolute",
    fairness: Annotated[
        bool, typer.Option("--fairness", help="Gradient norms and distances to the boundary per group.")
    ] = False,
    softmax: Annotated[
        str, typer.Option("--softmax", help="A transformer's becomes power:2, 4 or 6, 2quad, quadratic, cgf.")
    ] = "keep",
    norm: Annotated[
        str, typer.Option("--norm", help="LayerNorm becomes batch or none; band trains its variances into one.")
    ] = "keep",
    activation: Annotated[
        str, typer.Option("--activation", help="A transformer's become poly:2 to 7, relu or none.")
    ] = "keep",
    distill: Annotated[float, typer.Option("--distill", help="Weight of the teacher's answers then.")] = 1.0,
    distill_attention: Annotated[
        float, typer.Option("--distill-attention", help="Weight of the teacher's weights of attention.")
    ] = 0.0,
    distill_hidden: Annotated[
        float, typer.Option("--distill-hidden", help="Weight of the teacher's hidden states.")
    ] = 0.0,
    range_weight: Annotated[
        float, typer.Option("--range-weight", help="Weight of scores, divisors and variances outside of their bands.")
    ] = 0.1,
    head_entropy: Annotated[
        float, typer.Option("--head-entropy", help="Weight of what keeps heads of attention from collapsing.")
    ] = 0.0,
    json: JsonFile = None,
) -> None:
    """Retrain a model to fewer ReLUs, or a transformer to what runs encrypted; an interrupted run goes on."""
    need("torch", "reduce trains with torch", "torch")
    from pi_compiler.models.training.extras import Extras
    from pi_compiler.models.training.forms import Forms
    from pi_compiler.models.training.request import Request

    forms = Forms(softmax, norm, activation, distill, distill_attention, distill_hidden, range_weight, head_entropy)
    chosen = tuple(method or (("exchange",) if forms.asked else ("autorep",)))
    shapes = parse_shapes(input_shape)
    if backend != "none":
        known_backend(backend)
    check_outputs(json)
    request = Request(
        model, data, output, tuple(budget or ()), chosen, tuple(kind or ("quadratic",)), granularity,
        tuple(seed or (0,)), epochs, finetune_epochs, batch_size, plain, teacher, label, group,
        tuple(input_shape or ()), shapes, maxpool, backend,
        Extras(range_penalty, bound, clip, faults, balance, balance_form, fairness), forms,
    )  # fmt: skip
    train(request, json)


def train(request: Request, json: Path | None) -> None:
    """Run a request with bars for models and epochs."""
    from pi_compiler.report.reduction_text import reduction_view

    try:
        series, splits = request.open()
    except ParameterError as error:
        raise bad_use(error) from error
    if series.source.name != request.data:
        complain(f"data {request.data}: {series.source.quoted}")
    try:
        with progress_bars(2) as (whole, stage):
            whole("models", 0, len(series.jobs))

            def told(number: int, job: Job, name: str, epoch: Epoch, epochs: int) -> None:
                whole(f"models, now {job.name}", number, len(series.jobs))
                stage(f"{name}, validation accuracy {epoch.validation_accuracy:.2%}", epoch.number, epochs)

            records = series.run(splits, told)
    except KeyboardInterrupt:
        complain("interrupted; the same command goes on after the last whole epoch")
        raise typer.Exit(130) from None
    write_report(json, {"models": records})
    show(reduction_view(records))
    show(f"{request.output}: pi-compiler report {request.output} makes the report")


def report(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR...", help="Folders that reduce wrote.")],
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Folder for the report; default DIR/report.")
    ] = None,
    json: JsonFile = None,
) -> None:
    """Write the report of reduced models: one page to read offline, plots as PNG, JSON."""
    need("matplotlib", "report draws with matplotlib", "report")
    need("jinja2", "report writes its page with Jinja", "report")
    from pi_compiler.report.reduction import write_reduction_report

    check_outputs(json)
    place = output if output is not None else folders[0] / "report"
    found = write_reduction_report(folders, place)
    write_report(json, found)
    show(f"{place / 'report.html'}")


def need(module: str, what: str, extra: str) -> None:
    """Fail before anything else if an optional library is missing.

    Raises:
        BackendUnavailable: it is; the message says what to install.
    """
    if importlib.util.find_spec(module) is None:
        raise BackendUnavailable(f"{what}, which is not installed", hint=f"pip install 'pi-compiler[{extra}]'")
