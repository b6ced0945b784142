"""MPC reports as tables for people; figures come from the JSON alone."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pi_compiler.report.text import (
    Json,
    count,
    duration,
    entries,
    facts,
    figure,
    interval,
    mapping,
    milliseconds,
    percent,
    remarks,
    shape,
    size,
    table,
)


def explain_mpc_view(report: Json) -> RenderableType:
    """Every choice of a plan and every prediction."""
    network = mapping(report["network"])
    title = f"{report['model']} under {report['protocol']}, network {network['name']}"
    return Group(
        Text(title, style="bold"),
        facts(_header(report)),
        _layers(report),
        *_exact(report),
        *_fits(report),
        facts(_times(report), "Predicted time of one input"),
        threat_view(report),
        *remarks([*_client_ops(report), *_list(report["notes"])]),
    )


def threat_view(report: Json) -> RenderableType:
    """What is protected from whom."""
    return Group(
        Text("Threat model", style="bold"), *(Text(f"  {line}") for line in _list(report["threat_model"])), Text("")
    )


def _list(value: object) -> Sequence[object]:
    return value if isinstance(value, Sequence) and not isinstance(value, str) else ()


def _header(r: Json) -> list[tuple[str, str]]:
    weights = "the model owner's secret" if r["private_weights"] else "public"
    wraps = f"{figure(r['expected_wraps'], 2)} expected per inference (budget {figure(r['wrap_budget'], 2)})"
    low = f", comparisons leave out {r['stochastic_bits']} low bits" if r["stochastic_bits"] else ""
    offline = "not measured" if r["offline_bytes"] is None else size(r["offline_bytes"])
    return [
        ("fixed point", f"{r['frac_bits']} fractional bits of 64, {r['weight_frac_bits']} of factors{low}"),
        ("wrap-arounds", wraps),
        ("weights", weights),
        ("comparisons", count(r["comparisons"]) or "none"),
        ("rounds", str(r["rounds"])),
        ("online", f"{size(r['bytes_to_model'])} to the model's owner, {size(r['bytes_to_data'])} to the data's owner"),
        ("offline", f"{offline} from the dealer"),
        ("set-up", f"{size(r['setup_bytes'])} once per model (masked weights)"),
    ]


def _layers(report: Json) -> Table:
    rows = [
        (
            str(e["name"]),
            ", ".join(str(k) for k in _list(e["kinds"])),
            shape(e["shape"]),
            count(e["comparisons"]),
            count(e["rounds"]),
            size(e["bytes_to_model"]) if e["bytes_to_model"] else "",
            size(e["bytes_to_data"]) if e["bytes_to_data"] else "",
            "-" if e["offline_bytes"] is None else size(e["offline_bytes"]) if e["offline_bytes"] else "",
            milliseconds(e["predicted_seconds"]),
        )
        for e in entries(report["layers"])
    ]
    columns = ("layer", "kind", "shape", "compared", "rounds", "to model", "to data", "offline", "ms")
    return table("Layers", columns, rows, left=3)


def _exact(report: Json) -> list[RenderableType]:
    found = entries(report["exact"])
    kinds: dict[str, tuple[int, int]] = {}
    for e in found:
        layers, elements = kinds.get(str(e["op"]), (0, 0))
        kinds[str(e["op"])] = layers + 1, elements + int(str(e["elements"]))
    rows = [(op, f"{layers} layers, {elements:,} elements, exact") for op, (layers, elements) in kinds.items()]
    return [facts(rows, "Kept exact")] if rows else []


def _fits(report: Json) -> list[Table]:
    rows = [
        (
            str(a["name"]),
            str(a["op"]),
            str(a["method"]),
            interval(a["domain"]),
            figure(a["max_error"]),
            figure(a["weighted_error"]),
            figure(a["exceedance"], 2),
        )
        for a in entries(report["activations"])
    ]
    columns = ("layer", "function", "method", "interval", "max err", "rms err", "outside")
    return [table("Replaced", columns, rows, left=3)] if rows else []


def _times(r: Json) -> list[tuple[str, str]]:
    costs = "measured on this machine" if r["costs_measured_here"] else "shipped; calibrate-cost measures this machine"
    network = mapping(r["network"])
    rate, rtt = float(str(network["bits_per_second"])) / 1e6, float(str(network["rtt_seconds"])) * 1e3
    presets = ", ".join(f"{n} {duration(s)}" for n, s in mapping(r["seconds_by_network"]).items())
    return [
        ("network", f"{network['name']}: {rtt:g} ms there and back, {rate:g} Mbit/s each way"),
        ("online", f"{duration(r['predicted_seconds'])}, {duration(r['predicted_compute_seconds'])} of it local work"),
        (
            "offline",
            "not measured" if r["offline_bytes"] is None else f"{duration(r['predicted_offline_seconds'])} of dealing",
        ),
        ("elsewhere", presets),
        ("cost table", f"{costs} ({r['costs_machine']})"),
    ]


def _client_ops(report: Json) -> list[str]:
    return [
        f"the data's owner applies {', '.join(str(op) for op in _list(ops))} to output {name!r} after the reveal"
        for name, ops in mapping(report["client_ops"]).items()
    ]


def run_mpc_view(report: Json) -> RenderableType:
    """Seconds and traffic per layer, predicted and measured, and the threat model."""
    rows = [
        (
            str(e["name"]),
            milliseconds(e["seconds"]),
            count(e["rounds"]),
            count(e["predicted_rounds"]),
            size(e["bytes_sent"]) if e["bytes_sent"] else "",
            size(e["predicted_bytes"]) if e["predicted_bytes"] else "",
        )
        for e in entries(report["layers"])
    ]
    columns = ("layer", "ms", "rounds", "planned", "bytes", "planned")
    simulated = "; simulated, nothing was sent" if report["simulated"] else ""
    told = [
        ("backend", f"{report['backend']}{simulated}"),
        ("in all", f"{duration(report['seconds'])} per input, {report['samples']} inputs"),
        (
            "precision",
            "exact"
            if report["precision_bits"] is None
            else f"{figure(report['precision_bits'])} bits of the largest output",
        ),
    ]
    return Group(table("Per layer and input", columns, rows), facts([*told, *_between(report)]), threat_view(report))


def _between(report: Json) -> list[tuple[str, str]]:
    """What only a run between parties has to say."""
    if "network" not in report:
        return []
    offline = f"{size(report['offline_bytes'])} from the dealer in {duration(report['offline_seconds'])} per input"
    return [
        ("network", str(report["network"])),
        ("predicted", f"{duration(report['predicted_seconds'])} online"),
        ("online", f"{size(report['bytes_to_model'])} to the model's owner, {size(report['bytes_to_data'])} back"),
        ("offline", f"{offline}, not in the time above"),
        ("set-up", f"{size(report['setup_bytes'])} once per model in {duration(report['setup_seconds'])}"),
    ]


def party_view(report: Json) -> RenderableType:
    """What one party of a run did."""
    rows = [
        (
            phase,
            duration(report[f"{name}_seconds"]),
            str(report[f"{name}_rounds"]),
            size(report[f"{name}_bytes_sent"]),
            size(report[f"{name}_bytes_received"]),
        )
        for name, phase in (("setup", "set-up"), ("offline", "offline"), ("online", "online"))
    ]
    return table(f"Party {report['rank']}", ("phase", "time", "rounds", "sent", "received"), rows)


def seconds_view(report: Json) -> RenderableType:
    """A table of seconds per opcode, or kind of work."""
    seconds = {op: mapping(rates) for op, rates in mapping(report["seconds"]).items()}
    units = list(dict.fromkeys(unit for rates in seconds.values() for unit in rates))
    rows = [(op, *(f"{1e6 * float(str(rates.get(unit, 0.0))):.3g}" for unit in units)) for op, rates in seconds.items()]
    under = f" under {report['protocol']}" if "protocol" in report else ""
    title = f"Microseconds of {report['backend']}{under} on {report['machine']}"
    return table(title, ("work", *(f"per {unit}" for unit in units)), rows)


def evaluation_mpc_view(report: Json) -> RenderableType:
    """Accuracy at every stage."""
    accuracy, same = mapping(report["accuracy"]), mapping(report["accuracy_encrypted_samples"])
    few = f"first {report['encrypted_samples']}"
    rows = [(name, percent(accuracy[name]) if name != "encrypted" else "", percent(same[name])) for name in accuracy]
    told = [("agreement", f"{percent(report['agreement'])} of the answers are those of the program in floats")]
    parts: list[RenderableType] = [table("Accuracy", ("network", f"all {report['samples']}", few), rows), facts(told)]
    return Group(*parts, threat_view(report), *remarks(_list(report["notes"])))


def compare_view(report: Json) -> RenderableType:
    """One model under every scheme."""
    rows = []
    for e in entries(report["rows"]):
        if e.get("why"):
            rows.append((str(e["scheme"]), *([""] * 6), "", str(e["why"])))
            continue
        offline = "-" if e["offline_bytes"] is None else size(e["offline_bytes"])
        rows.append(
            (
                str(e["scheme"]),
                duration(e["lan_seconds"]),
                duration(e["wan_seconds"]),
                size(e["bytes_sent"]),
                str(e["rounds"]),
                offline,
                percent(e["accuracy"]),
                str(e["activations"]),
                str(e["trust"]),
            )
        )
    columns = ("scheme", "lan", "wan", "online", "rounds", "offline", "accuracy", "activations", "what it rests on")
    made = table("The same model, one input", columns, rows)
    made.columns[-1].no_wrap, made.columns[-1].justify = False, "left"
    made.columns[-2].no_wrap = False
    return Group(made, *remarks(_list(report["notes"])))
