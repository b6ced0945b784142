"""Reports as tables for people: every function turns a JSON report into something rich prints.

Figures come from the JSON alone, so what people read and what machines read cannot differ.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence

from rich import box
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

WIDTH = 120
"""Columns where the output is no terminal."""

Json = Mapping[str, object]


def explain(report: Json) -> str:
    """The plan as plain text; see ``explain_view``."""
    return plain(explain_view(report))


def plain(view: RenderableType) -> str:
    """What a file or a pipe gets: no colors, no padding to the right."""
    console = Console(file=io.StringIO(), width=WIDTH, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(view)
    return "\n".join(line.rstrip() for line in capture.get().splitlines())


# --- pieces --------------------------------------------------------------------------------------


def number(value: object) -> float:
    """A JSON number; null is NaN."""
    return float(value) if isinstance(value, int | float) else float("nan")


def entries(value: object) -> list[Json]:
    """A JSON list of objects."""
    return [v for v in value if isinstance(v, Mapping)] if isinstance(value, Sequence) else []


def mapping(value: object) -> Json:
    """A JSON object."""
    return value if isinstance(value, Mapping) else {}


def size(value: object) -> str:
    """Bytes in the unit that suits them."""
    n = number(value)
    if n != n:
        return "-"
    for unit in ("B", "KiB", "MiB"):
        if n < 1024:
            return f"{n:.0f} {unit}" if unit == "B" or n >= 100 else f"{n:.1f} {unit}"
        n /= 1024
    return f"{n:.2f} GiB"


def duration(value: object) -> str:
    """Seconds in the unit that suits them."""
    s = number(value)
    if s != s:
        return "-"
    if s < 1:
        return f"{1e3 * s:.3g} ms"
    return f"{s:.2f} s" if s < 100 else f"{s:.0f} s"


def milliseconds(value: object) -> str:
    """Seconds as milliseconds, for columns."""
    s = number(value)
    return "-" if s != s else f"{1e3 * s:.1f}"


def figure(value: object, digits: int = 3) -> str:
    """A number with so many significant digits."""
    n = number(value)
    return "-" if n != n else f"{n:.{digits}g}"


def percent(value: object) -> str:
    """A fraction as a percentage."""
    n = number(value)
    if n != n:
        return "-"
    if n in (0.0, 1.0):
        return f"{100 * n:.0f} %"
    return f"{100 * n:.4f} %" if n < 1e-3 else f"{100 * n:.2f} %"


def count(value: object) -> str:
    """A whole number; nothing for zero, so that columns stay readable."""
    n = int(number(value)) if value is not None else 0
    return f"{n:,}" if n else ""


def interval(value: object) -> str:
    """A pair of ends."""
    ends = [number(v) for v in value] if isinstance(value, Sequence) else []
    return f"[{ends[0]:.3g}, {ends[1]:.3g}]" if len(ends) == 2 else "-"


def shape(value: object) -> str:
    """Sizes, joined by a cross."""
    return "×".join(str(v) for v in value) if isinstance(value, Sequence) else "-"


_FOLDING = ("layer", "layout", "node", "why", "try", "what it adds")


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> Table:
    """A table whose first ``left`` columns are text and whose others are figures."""
    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for i, name in enumerate(columns):
        made.add_column(name, justify="left" if i < left else "right", no_wrap=name not in _FOLDING, overflow="fold")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def facts(rows: Iterable[tuple[str, str]], title: str | None = None) -> RenderableType:
    """Names and what is to say about them."""
    made = Table(
        title=title, title_justify="left", title_style="bold", box=None, show_header=False, padding=(0, 2, 0, 0)
    )
    made.add_column(style="dim", no_wrap=True)
    made.add_column(overflow="fold")
    for name, value in rows:
        made.add_row(name, Text(value))
    return Padding(made, (0, 0, 1, 0))


def remarks(lines: Iterable[object]) -> list[RenderableType]:
    """Notes, if there are any."""
    texts = [f"  - {line}" for line in lines]
    return [Text("Notes", style="bold"), *(Text(t) for t in texts), Text("")] if texts else []


# --- inspect -------------------------------------------------------------------------------------


def inspect_view(report: Json) -> RenderableType:
    """What a model holds, and what of it cannot run encrypted."""
    unsupported = entries(report["unsupported"])
    parts: list[RenderableType] = [
        Text(f"{report['model']}", style="bold"),
        facts(
            [
                *((f"input {n}", shape(s)) for n, s in mapping(report["inputs"]).items()),
                *((f"output {n}", shape(s)) for n, s in mapping(report["outputs"]).items()),
                ("opset", str(report["opset"])),
                ("ReLU count", f"{int(number(report['relu_count'])):,}"),
            ]
        ),
        table("Operators", ("operator", "nodes"), [(n, count(c)) for n, c in mapping(report["operators"]).items()]),
    ]
    if nonlinear := entries(report["nonlinearities"]):
        rows = [(str(n["name"]), str(n["op"]), count(n["elements"])) for n in nonlinear]
        parts.append(table("Nonlinearities", ("layer", "operator", "elements"), rows, left=2))
    if unsupported:
        rows2 = [tuple(str(u[k]) for k in ("node", "op", "reason", "advice")) for u in unsupported]
        parts.append(table(f"Unsupported: {len(rows2)}", ("node", "operator", "why", "try"), rows2, left=4))
    else:
        parts.append(Text("Every operator can run encrypted.\n", style="green"))
    return Group(*parts, *remarks(_list(report["notes"])))


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


# --- explain -------------------------------------------------------------------------------------


def explain_view(report: Json) -> RenderableType:
    """Every choice of a plan and every prediction."""
    return Group(
        Text(f"{report['model']} for backend {report['backend']}", style="bold"),
        facts(_header(report)),
        _layers(report),
        *_blocks(report),
        *_activations(report),
        *_pareto(report),
        facts(_sizes(report), "Keys, sizes, memory"),
        facts(_times(report), "Predicted time"),
        *remarks([*_client_ops(report), *_fit_notes(report), *_list(report["notes"])]),
    )


def _header(r: Json) -> list[tuple[str, str]]:
    bits = int(number(r["security_bits"]))
    secure = (
        f"{bits} bits, by the HomomorphicEncryption.org table for ternary secrets"
        if bits
        else "INSECURE: below 128 bits, allowed by --insecure"
    )
    log_n = int(number(r["log_n"]))
    return [
        ("ring degree", f"2^{log_n}, {1 << (log_n - 1):,} slots"),
        *_batch(r, 1 << (log_n - 1)),
        ("modulus", f"log QP {figure(r['log_qp'], 4)}, scale 2^{figure(r['log_scale'], 4)}"),
        ("levels", str(r["levels"])),
        ("security", secure),
        ("precision", _precision(r)),
        (
            "operations",
            f"{r['rotations']} rotations, {r['plain_products']} plaintext products, "
            f"{r['products']} ciphertext products, {r['rescalings']} rescalings, {r['instructions']} instructions",
        ),
    ]


def batch_of(report: Json) -> int:
    """Inputs that one run answers; reports of earlier versions do not say that it is one."""
    return int(number(report.get("batch", 1)))


def _batch(r: Json, slots: int) -> list[tuple[str, str]]:
    batch = batch_of(r)
    if batch == 1:
        return []
    return [("batch", f"{batch} inputs in one run, {slots // batch:,} slots each; times below are those of one input")]


def _precision(r: Json) -> str:
    wanted = f"{figure(r['precision_bits_wanted'])} bits of the outputs asked for"
    simulated = r["precision_bits_simulated"]
    return f"{wanted}, not simulated" if simulated is None else f"{figure(simulated)} bits simulated, {wanted}"


def _layers(report: Json) -> Table:
    rows = [
        (
            str(e["name"]),
            ", ".join(str(k) for k in _list(e["kinds"])),
            shape(e["shape"]),
            str(e["layout"]),
            count(e["ciphertexts"]),
            f"{e['level_out']}",
            count(e["rotations"]),
            count(e["plain_products"]),
            count(e["products"]),
            milliseconds(e.get("predicted_encrypt_seconds", e["predicted_seconds"])),
        )
        for e in entries(report["layers"])
    ]
    columns = ("layer", "kind", "shape", "layout", "cts", "level", "rot", "ct×pt", "ct×ct", "ms")
    return table("Layers", columns, rows, left=4)


def _blocks(report: Json) -> list[Table]:
    """What takes which levels in a transformer's blocks; absent in reports of earlier versions."""
    found = entries(report.get("blocks"))
    refreshed = any(number(e["bootstraps"]) for e in found)
    rows = [
        (
            str(e["block"]),
            str(e["part"]),
            f"{e['level_in']} → {e['level_out']}",
            count(e["rotations"]),
            count(e["plain_products"]),
            count(e["products"]),
            milliseconds(e["predicted_seconds"]),
            *((count(e["bootstraps"]), duration(e["estimated_bootstrap_seconds"])) if refreshed else ()),
        )
        for e in found
    ]
    columns = ("block", "part", "levels", "rot", "ct×pt", "ct×ct", "ms")
    more = ("bootstraps", "estimated") if refreshed else ()
    return [table("Blocks: what takes which levels", (*columns, *more), rows, left=2)] if rows else []


def _activations(report: Json) -> list[Table]:
    found = entries(report["activations"])
    if not found:
        return []
    rows = [
        (
            str(a["name"]),
            str(a["op"]),
            str(a["method"]),
            interval(a["domain"]),
            "-" if a["degree"] is None else str(a["degree"]),
            str(a["depth"]),
            figure(a["max_error"]),
            figure(a["weighted_error"]),
            f"{figure(a['exceedance'], 2)} (≤ {figure(a['exceedance_bound'], 2)})",
            figure(a["growth"]),
        )
        for a in found
    ]
    columns = ("layer", "function", "method", "interval", "deg", "depth", "max err", "rms err", "outside", "growth")
    return [table("Activations", columns, rows, left=3)]


def _pareto(report: Json) -> list[Table]:
    """What other choices of fits would cost, where a budget made the compiler look for them."""
    found = entries(report["pareto"])
    rows = [(str(p["levels"]), figure(p["error"]), figure(p["price"])) for p in found]
    return [table("Choices of fits", ("levels", "error of outputs", "price"), rows)] if rows else []


def _sizes(r: Json) -> list[tuple[str, str]]:
    return [
        ("keys", f"{r['keys']} switching keys, {size(r['key_bytes'])} ({r['distinct_rotations']} rotations)"),
        (
            "input",
            f"{r['input_ciphertexts']} ciphertexts of {size(r['ciphertext_bytes'])}, {size(r['bytes_sent'])} sent"
            + (f" for all {batch_of(r)} inputs" if batch_of(r) > 1 else ""),
        ),
        ("plaintexts", size(r["plaintext_bytes"])),
        (
            "peak",
            f"{size(r['peak_memory_bytes'])} of a process that does it all, "
            f"{size(r['peak_ciphertext_bytes'])} of it ciphertexts",
        ),
    ]


def _times(r: Json) -> list[tuple[str, str]]:
    costs = "measured on this machine" if r["costs_measured_here"] else "shipped; calibrate-cost measures this machine"
    return [
        ("once", f"{duration(r['predicted_setup_seconds'])} to encode plaintexts, besides making keys"),
        ("encrypt", duration(r["predicted_encrypt_seconds"])),
        ("evaluate", duration(r["predicted_evaluate_seconds"])),
        ("decrypt", duration(r["predicted_decrypt_seconds"])),
        ("in all", f"{duration(r['predicted_seconds'])} per input"),
        *_latency(r, "predicted_batch_seconds"),
        *_bootstraps(r),
        ("cost table", f"{costs} ({r['costs_machine']})"),
    ]


def _latency(r: Json, name: str) -> list[tuple[str, str]]:
    """How long one run takes, where it answers several inputs."""
    batch = batch_of(r)
    return [("one run", f"{duration(r[name])}, however many of its {batch} inputs are there")] if batch > 1 else []


def _bootstraps(r: Json) -> list[tuple[str, str]]:
    if not number(r.get("bootstraps")) > 0:
        return []
    told = (
        f"{r['bootstraps']}, estimated {duration(r['estimated_bootstrap_seconds'])} (published times of a CPU, not "
        "measured here); nothing runs them"
    )
    keys = number(r["estimated_bootstrap_key_bytes"])
    rest = number(r["estimated_bootstrap_memory_bytes"]) - keys
    needs = (
        f"estimated {size(keys)} of keys ({r['estimated_bootstrap_keys']} more, others larger) and {size(rest)} of "
        "constants and ciphertexts, counted in keys and peak above"
    )
    return [("bootstraps", told), ("they need", needs)]


def _client_ops(report: Json) -> list[str]:
    return [
        f"the client applies {', '.join(str(op) for op in _list(ops))} to output {name!r} after decryption"
        for name, ops in mapping(report["client_ops"]).items()
    ]


def _fit_notes(report: Json) -> list[str]:
    return [f"{a['name']}: {note}" for a in entries(report["activations"]) for note in _list(a["notes"])]


# --- run, evaluate, ladder -----------------------------------------------------------------------


def run_view(report: Json) -> RenderableType:
    """Seconds per layer, predicted and measured, and what the run needed."""
    rows = [
        (
            str(e["name"]),
            count(e["rotations"]),
            milliseconds(e["predicted_seconds"]),
            milliseconds(e["seconds"]),
            _ratio(e["seconds"], e["predicted_seconds"]),
        )
        for e in entries(report["layers"])
    ]
    per = f", mean of {report['samples']} inputs" if number(report["samples"]) > 1 else ""
    columns = ("layer", "rotations", "predicted ms", "measured ms", "ratio")
    return Group(table(f"Seconds per layer{per}", columns, rows), facts(_run_facts(report)))


def _run_facts(r: Json) -> list[tuple[str, str]]:
    total = duration(r["seconds"])
    if ratio := _ratio(r["seconds"], r["predicted_seconds"]):
        total += f", predicted {duration(r['predicted_seconds'])}, ratio {ratio}"
    memory = size(r["peak_memory_bytes"])
    if r["predicted_peak_memory_bytes"] is not None:
        memory += f", predicted {size(r['predicted_peak_memory_bytes'])}"
    memory += f"; {size(r['memory_before_bytes'])} before keys were made"
    bits = r["precision_bits"]
    precision = "exact" if bits is None else f"{figure(bits)} bits of the largest output"
    if r["flood_bits"] is not None:
        precision += f", with noise for handing out, {r['flood_bits']} bits of security"
    return [
        ("backend", str(r["backend"])),
        ("in all", f"{total}, per input of a full batch of {batch_of(r)}" if batch_of(r) > 1 else total),
        *_latency(r, "batch_seconds"),
        ("once", f"{duration(r['keygen_seconds'])} for keys, {duration(r['setup_seconds'])} to encode plaintexts"),
        ("precision", precision),
        ("keys", size(r["key_bytes"])),
        ("peak memory", memory),
    ]


def _ratio(measured: object, predicted: object) -> str:
    return f"{number(measured) / number(predicted):.2f}" if number(predicted) > 0 else ""


def evaluation_view(report: Json) -> RenderableType:
    """Accuracy at every stage, agreement, and how often inputs left their intervals."""
    accuracy = mapping(report["accuracy"])
    same = mapping(report["accuracy_encrypted_samples"])
    encrypted = f"first {report['encrypted_samples']}"
    rows = [(name, percent(accuracy[name]) if name != "encrypted" else "", percent(same[name])) for name in accuracy]
    parts: list[RenderableType] = [
        table("Accuracy", ("network", f"all {report['samples']}", encrypted), rows),
        facts([("agreement", f"{percent(report['agreement'])} of encrypted predictions are the polynomial network's")]),
    ]
    if outside := entries(report["out_of_range"]):
        rows2 = [(str(o["name"]), interval(o["domain"]), percent(o["samples"]), percent(o["values"])) for o in outside]
        parts.append(table("Outside the interval", ("layer", "interval", "samples", "values"), rows2, left=2))
    return Group(*parts, *remarks(_list(report["notes"])))


def ladder_view(rungs: Sequence[Json]) -> Table:
    """Error and bits from each rung of the precision ladder to the next."""
    rows = [
        (
            str(r["name"]),
            str(r["meaning"]),
            figure(r["error"]),
            "exact" if r["bits"] is None and number(r["error"]) == 0 else figure(r["bits"]),
        )
        for r in rungs
    ]
    return table("Precision ladder", ("step", "what it adds", "error", "bits kept"), rows, left=2)


# --- calibrate-cost ------------------------------------------------------------------------------


def costs_view(costs: Json) -> RenderableType:
    """Milliseconds per operation at the highest measured level of each ring degree."""
    rings = {n: mapping(ops) for n, ops in mapping(costs["ops"]).items()}
    names = list(next(iter(rings.values()), {}))
    tops = {n: max((len(_list(v)) for v in ops.values()), default=1) - 1 for n, ops in rings.items()}
    rows = [(name, *(milliseconds_fine(_last(ops.get(name))) for ops in rings.values())) for name in names]
    columns = ("operation", *(f"2^{n}, level {tops[n]}" for n in rings))
    return Group(
        table(f"Milliseconds on backend {costs['backend']}", columns, rows),
        facts([("machine", str(costs["machine"])), ("dispatch", f"{1e6 * number(costs['overhead']):.2f} µs")]),
    )


def _last(value: object) -> object:
    found = _list(value)
    return found[-1] if found else None


def milliseconds_fine(value: object) -> str:
    """Seconds as milliseconds, for operations that take microseconds."""
    s = number(value)
    return "-" if s != s else f"{1e3 * s:.3f}"
