"""The report says what the records say: made here by hand, so that every figure is known."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from pi_compiler.errors import ArtifactError, ParameterError
from pi_compiler.report.records import Count
from pi_compiler.report.reduction import write_reduction_report
from pi_compiler.report.statistics import ClassGap, mean_counts, spread, wilson

# --- statistics ----------------------------------------------------------------------------------


@given(st.integers(1, 5000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_intervals_are_those_of_wilson(counts: tuple[int, int]) -> None:
    right, images = counts
    expected = binomtest(right, images).proportion_ci(0.95, "wilson")
    low, high = wilson(right / images, images)
    assert low == pytest.approx(expected.low, abs=1e-9)
    assert high == pytest.approx(expected.high, abs=1e-9)
    assert 0.0 <= low <= right / images <= high <= 1.0


def test_one_seed_has_the_interval_of_its_images_and_several_their_deviation() -> None:
    one, several = spread([0.9], 100), spread([0.8, 0.9, 1.0], 100)
    assert (one.low, one.high) == wilson(0.9, 100)
    assert one.deviation is None
    assert several.deviation == pytest.approx(0.1)
    assert several.low == pytest.approx(0.8)


def test_seeds_do_not_count_as_more_images() -> None:
    """All seeds see the same images; three of them must not narrow the interval."""
    seeds = [[Count("0", 50, 40)], [Count("0", 50, 44)], [Count("0", 50, 48)]]
    ((name, images, accuracy, interval),) = mean_counts(seeds)
    assert (name, images, accuracy) == ("0", 50, pytest.approx(0.88))
    assert interval == wilson(accuracy, 50)


def test_gap_and_drop_name_their_classes() -> None:
    """The worst class need not be the one that lost most."""
    found = ClassGap.of([("a", 0.6), ("b", 0.7), ("c", 0.9)], [("a", 0.65), ("b", 0.95), ("c", 0.9)])
    assert found.gap == pytest.approx(0.3)
    assert (found.worst, found.hit) == ("a", "b")
    assert found.drop == pytest.approx(0.25)


# --- records made by hand ------------------------------------------------------------------------

NAMES = ("/relu1", "/relu2")


def scores(correct: tuple[int, ...], nan: int = 0, outside: int = 0, largest: float = 4.0) -> dict[str, Any]:
    classes = [{"class": c, "images": 100, "correct": k} for c, k in enumerate(correct)]
    layers = [{"name": n, "max_abs": largest, "out_of_range": outside / 1e4} for n in NAMES]
    return {
        "images": 100 * len(correct), "accuracy": sum(correct) / 100 / len(correct), "nan_images": nan,
        "out_of_range_images": outside, "classes": classes, "layers": layers,
    }  # fmt: skip


def plan(levels: int, seconds: float) -> dict[str, Any]:
    return {
        "backend": "tenseal", "levels": levels, "depth": levels, "rotations": 30, "products": 2, "bootstraps": 0,
        "log_n": 14, "log_qp": 400.0, "security_bits": 128, "key_bytes": 3 << 20, "bytes_sent": 1 << 20,
        "predicted_seconds": seconds, "costs_machine": "a made-up machine", "costs_measured_here": False,
    }  # fmt: skip


def model(budget: int, kept: tuple[int, int], test: dict[str, Any], seed: int = 0, **more: Any) -> dict[str, Any]:
    ends = {"shape": [1, 4, 5, 5], "elements": 100, "low": -2.5, "high": 3.5}
    layers = [{"name": n, **ends, "kept": k, "kept_by_channel": [k, 0, 0, 0]} for n, k in zip(NAMES, kept, strict=True)]
    epoch = {"number": 1, "train_loss": 0.5, "validation_accuracy": 0.9, "validation_loss": 0.3, "seconds": 1.0}
    return {
        "model": "net", "dataset": "made-up", "method": "autorep", "kind": "quadratic", "granularity": "pixel",
        "budget": budget, "relu_count": sum(kept), "relu_total": 200, "seed": seed,
        "command": f"pi-compiler reduce net.onnx --budget {budget}", "versions": {"pi-compiler": "0.1.0", "torch": "2"},
        "settings": {"search": {"epochs": 1}}, "seconds": 60.0, "stages": [{"name": "search", "history": [epoch]}],
        "layers": layers, "validation": scores((90, 90, 90)), "test": test, **more,
    }  # fmt: skip


def write(folder: Path, models: list[dict[str, Any]], **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    baseline = {
        "relu_count": 200, "validation": scores((95, 95, 95)), "test": scores((99, 98, 97)), "ckks": plan(20, 8.0),
    }  # fmt: skip
    top = {
        "model": "net", "model_sha256": "ab" * 32, "dataset": "made-up", "quoted": "Made-up (JPEG)",
        "command": "pi-compiler reduce net.onnx", "baseline": baseline, "models": [],
    }  # fmt: skip
    (folder / "reduction.json").write_text(json.dumps(top | changes))
    for m in models:
        place = folder / f"{m['budget']}-{m['method']}-{m['kind']}-{m['granularity']}-seed{m['seed']}"
        place.mkdir()
        (place / "record.json").write_text(json.dumps(m))
    return folder


class Tables(HTMLParser):
    """Every row of a page as the texts of its cells; also what the page would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.fetched: list[str] = []
        self.cell = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.fetched += [str(v) for k, v in attrs if k in ("src", "href", "srcset", "data")]
        assert tag not in ("script", "link", "iframe", "object")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self.cell = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self.cell = False

    def handle_data(self, data: str) -> None:
        if self.cell:
            self.rows[-1][-1] += data.strip().replace("\N{NO-BREAK SPACE}", " ")

    def row(self, *beginning: str) -> list[str]:
        """The first row that begins so."""
        return next(r for r in self.rows if r[: len(beginning)] == list(beginning))


NAME = "autorep, quadratic, by pixel"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, dict[str, Any], Path]:
    """Two budgets with two seeds each; the smaller one loses a class, has NaN, and is refused by CKKS."""
    tmp = tmp_path_factory.mktemp("report")
    mpc = {"crypten-ttp": {"lan": {"bytes": 2 << 20, "rounds": 17, "seconds": 0.25}}}
    write(
        tmp / "a",
        [
            model(50, (40, 10), scores((98, 97, 96)), 0, ckks=plan(24, 10.0), mpc=mpc),
            model(50, (50, 0), scores((96, 97, 96)), 1, ckks=plan(26, 12.0), mpc=mpc),
        ],
    )
    write(
        tmp / "b",
        [
            model(0, (0, 0), scores((97, 60, 90), nan=3, outside=7, largest=1e6), 0, ckks={"refused": "too deep <b>"}),
            model(0, (0, 0), scores((97, 70, 90), nan=1, outside=9), 1, ckks=plan(3, 0.5)),
        ],
    )
    found = write_reduction_report([tmp / "a", tmp / "b"], tmp / "out")
    return (tmp / "out" / "report.html").read_text(), json.loads(json.dumps(found)), tmp / "out"


def test_the_page_needs_nothing_but_itself(report: tuple[str, dict[str, Any], Path]) -> None:
    page, _, _ = report
    tables = Tables(page)
    assert all(f.startswith(("data:image/svg+xml;base64,", "#")) for f in tables.fetched)
    assert sum(f.startswith("data:") for f in tables.fetched) == 4, "accuracy, costs, kept, classes"
    assert not re.search(r"https?://|url\(|@import", page)


def test_the_page_says_what_the_data_are_quoted_as(report: tuple[str, dict[str, Any], Path]) -> None:
    assert "net on Made-up (JPEG)" in report[0]


def test_accuracy_is_a_mean_over_seeds_with_its_deviation(report: tuple[str, dict[str, Any], Path]) -> None:
    page, found, _ = report
    row = Tables(page).row(NAME, "50")
    # 97 and 96.33 percent: mean 96.67, deviation 0.47; the original has 98.
    assert row == [NAME, "50", "50", "25 %", "2", "96.67 %± 0.47 (s.d.)", "−1.33", "90.00 %"]
    assert Tables(page).row("", "0")[5:7] == ["84.00 %± 2.36 (s.d.)", "−14.00"]
    point = found["reductions"][0]["curves"][0]["points"][0]
    assert point["accuracy"]["mean"] == pytest.approx((0.97 + 289 / 300) / 2)
    assert point["seeds"] == [0, 1]


def test_costs_stand_beside_the_count_and_a_refusal_with_its_reason(report: tuple[str, dict[str, Any], Path]) -> None:
    page, _, _ = report
    tables = Tables(page)
    first = tables.row(NAME, "50", "2 of 2")
    assert first[3:8] == ["25", "14", "30", "3.0 MiB", "11.00 s"], "levels and seconds are means over seeds"
    assert first[8] == "250 ms2.0 MiB, 17 rounds"
    assert tables.row("", "0", "0 of 2")[3:5] == ["refused", ""], "one seed's refusal is not averaged away"
    assert "Refused: too deep &lt;b&gt;." in page, "with its reason, escaped"
    assert tables.row("all ReLUs", "200", "all")[3] == "20"


def test_the_page_says_who_profits_from_the_granularity(report: tuple[str, dict[str, Any], Path]) -> None:
    assert "Kept by pixel: only MPC profits" in report[0]
    assert "Kept by layer" not in report[0]


def test_ranges_and_nan_show_the_worst_seed(report: tuple[str, dict[str, Any], Path]) -> None:
    row = Tables(report[0]).row("", "0", "9 of 300")
    assert row[3:] == ["0.0009", "1e+06", "3"]


def test_gaps_compare_with_the_original(report: tuple[str, dict[str, Any], Path]) -> None:
    """Class 1 falls from 98 to 65 percent."""
    tables = Tables(report[0])
    assert tables.row("", "0", "32.00") == ["", "0", "32.00", "1", "65.00 %", "33.00", "1"]
    low, high = wilson(0.65, 100)
    cells = next(r for r in tables.rows if r[:2] == ["1", "100"])
    assert cells[2].startswith("98.00 %")
    assert cells[4] == f"65.00 %{100 * low:.2f} % to {100 * high:.2f} %"


def test_every_card_is_there_with_its_facts(report: tuple[str, dict[str, Any], Path]) -> None:
    page = report[0]
    for text in (
        "yes, every reduced model (search 1 epochs)", "1 of 4 models are too deep", "crypten-ttp", "a made-up machine",
        "torch 2", "not amortized", "2 per point", "pi-compiler reduce net.onnx --budget 50", "ab" * 32,
    ):  # fmt: skip
        assert text in page, text


def test_plots_are_written_and_the_same_every_time(report: tuple[str, dict[str, Any], Path], tmp_path: Path) -> None:
    page, found, out = report
    assert found["plots"] == ["accuracy.png", "classes.png", "costs.png", "kept-autorep-quadratic-pixel.png"]
    again = write_reduction_report([out.parent / "a", out.parent / "b"], tmp_path)
    assert json.loads(json.dumps(again)) == found == json.loads((out / "report.json").read_text())
    assert (tmp_path / "report.html").read_text() == page
    for name in found["plots"]:
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()


def test_groups_get_their_own_tables(tmp_path: Path) -> None:
    test, before = scores((90, 90, 90)), scores((99, 98, 97))
    test["groups"] = [{"group": "F", "images": 100, "correct": 60}, {"group": "M", "images": 200, "correct": 180}]
    before["groups"] = [{"group": "F", "images": 100, "correct": 90}, {"group": "M", "images": 200, "correct": 190}]
    baseline = {"relu_count": 200, "validation": before, "test": before}
    write(tmp_path / "a", [model(5, (5, 0), test)], baseline=baseline)
    write_reduction_report([tmp_path / "a"], tmp_path / "out")
    tables = Tables((tmp_path / "out" / "report.html").read_text())
    assert tables.row(NAME, "5", "30.00") == [NAME, "5", "30.00", "F", "60.00 %", "30.00", "F"]
    assert tables.row("F", "100")[2].startswith("90.00 %")


def test_models_of_two_data_sets_get_a_part_each(tmp_path: Path) -> None:
    write(tmp_path / "a", [model(5, (5, 0), scores((90, 90, 90)))])
    write(tmp_path / "b", [model(5, (5, 0), scores((80, 80, 80)))], dataset="other", quoted="Other")
    found = write_reduction_report([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "net on Other" in page
    plots = ("accuracy.png", "classes.png", "kept-autorep-quadratic-pixel.png")
    assert found["plots"] == [f"{i}-{name}" for i in (1, 2) for name in plots]


def test_a_models_name_cannot_change_the_page(tmp_path: Path) -> None:
    write(tmp_path / "a", [model(5, (5, 0), scores((90, 90, 90)))], model="<script>alert(1)</script>")
    write_reduction_report([tmp_path / "a"], tmp_path / "out")
    Tables((tmp_path / "out" / "report.html").read_text())  # refuses scripts


def broken(test: dict[str, Any]) -> dict[str, Any]:
    test["images"] += 5
    return test


@pytest.mark.parametrize(
    ("record", "words"),
    [
        (model(5, (6, 0), scores((90, 90, 90))), "6 ReLUs exceed the budget 5"),
        (model(5, (5, 0), broken(scores((90, 90, 90)))), "classes hold 300 images, the split 305"),
        ({**model(5, (5, 0), scores((90, 90, 90))), "test": None}, "None is no object"),
        ({k: v for k, v in model(5, (5, 0), scores((9, 9, 9))).items() if k != "layers"}, "'layers'"),
    ],
    ids=["over budget", "images dropped", "no test", "no layers"],
)
def test_records_that_cannot_be_true_are_refused(tmp_path: Path, record: dict[str, Any], words: str) -> None:
    """Images with NaN must not leave the denominator, and no budget is exceeded by one."""
    write(tmp_path / "a", [record])
    with pytest.raises(ArtifactError, match=words) as caught:
        write_reduction_report([tmp_path / "a"], tmp_path / "out")
    assert "record.json" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_all_damaged_records_are_named_at_once(tmp_path: Path) -> None:
    write(tmp_path / "a", [model(b, (b, 0), scores((90, 90, 90))) for b in (5, 6, 7)])
    for b in (5, 7):
        (tmp_path / "a" / f"{b}-autorep-quadratic-pixel-seed0" / "record.json").write_text("{")
    with pytest.raises(ArtifactError) as caught:
        write_reduction_report([tmp_path / "a"], tmp_path / "out")
    assert "5-autorep" in str(caught.value)
    assert "7-autorep" in str(caught.value)
    assert "6-autorep" not in str(caught.value)


def test_records_alone_are_enough_where_each_has_the_originals_scores(tmp_path: Path) -> None:
    baseline = {"relu_count": 200, "validation": scores((95, 95, 95)), "test": scores((99, 98, 97))}
    write(tmp_path / "a", [model(5, (5, 0), scores((90, 90, 90)), baseline=baseline, quoted="Quoted (JPEG)")])
    (tmp_path / "a" / "reduction.json").unlink()
    write_reduction_report([tmp_path / "a"], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "net on Quoted (JPEG)" in page
    assert Tables(page).row("all ReLUs")[5].startswith("98.00 %")


def test_a_folder_without_models_or_without_records_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="no reduction"):
        write_reduction_report([tmp_path], tmp_path / "out")
    write(tmp_path / "a", [])
    with pytest.raises(ArtifactError, match="no model is finished"):
        write_reduction_report([tmp_path / "a"], tmp_path / "out")


# --- transformers --------------------------------------------------------------------------------


def test_forms_of_a_transformer_stand_beside_what_they_cost(tmp_path: Path) -> None:
    """One row per combination, means over seeds; a network without such records has no such table."""
    mpc = {"crypten-ttp": {"lan": {"bytes": 2 << 20, "rounds": 17, "seconds": 0.25}}}

    def settings(softmax: str) -> dict[str, Any]:
        return {"search": {"epochs": 1}, "forms": {"softmax": softmax, "norm": "batch", "activation": "poly:2"}}

    power, linear = settings("power:2"), settings("linear")
    write(
        tmp_path / "a",
        [
            model(0, (0, 0), scores((98, 97, 96)), 0, ckks=plan(15, 0.6), mpc=mpc, settings=power),
            model(0, (0, 0), scores((96, 95, 94)), 1, ckks=plan(17, 0.8), mpc=mpc, settings=power),
            model(0, (0, 0), scores((90, 90, 90)), 2, ckks={"refused": "too deep"}, settings=linear),
        ],
    )
    write_reduction_report([tmp_path / "a"], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Forms of attention, normalization and activation" in page
    found = Tables(page)
    assert found.row("power:2", "batch", "poly:2") == [
        "power:2", "batch", "poly:2", "2", "96.00 %± 1.41", "16", "30", "700 ms", "250 ms2.0 MiB, 17 rounds",
    ]  # fmt: skip
    assert found.row("linear", "batch", "poly:2")[3:6] == ["1", "90.00 %", "refused"]
    assert found.row("all ReLUs", "", "", "")[4:8] == ["98.00 %", "20", "30", "8.00 s"]
    write(tmp_path / "b", [model(0, (0, 0), scores((98, 97, 96)), 0, ckks=plan(15, 0.6))])
    write_reduction_report([tmp_path / "b"], tmp_path / "out2")
    assert "Forms of attention" not in (tmp_path / "out2" / "report.html").read_text()


def test_runs_with_other_forms_are_other_curves_though_their_folders_have_one_name(tmp_path: Path) -> None:
    """Each run of reduce names its folders by seed alone; two forms were once averaged as two seeds of one thing."""
    for name, right, seconds in (("power:2", 97, 0.5), ("cgf", 91, 2.0)):
        settings = {"forms": {"softmax": name, "norm": "batch", "activation": "poly:2"}}
        made = model(0, (0, 0), scores((right,) * 3), ckks=plan(15, seconds), settings=settings)
        write(tmp_path / name, [made])
    (reduction,) = write_reduction_report([tmp_path / "power:2", tmp_path / "cgf"], tmp_path / "out")["reductions"]
    curves = {c["kind"]: c["points"] for c in reduction["curves"]}
    assert {k: [p["accuracy"]["mean"] for p in v] for k, v in curves.items()} == {
        "power:2, batch, poly:2": [pytest.approx(0.97)],
        "cgf, batch, poly:2": [pytest.approx(0.91)],
    }
    found = Tables((tmp_path / "out" / "report.html").read_text())
    assert found.row("power:2", "batch", "poly:2")[3:] == ["1", "97.00 %", "15", "30", "500 ms"]
    assert found.row("cgf", "batch", "poly:2")[3:] == ["1", "91.00 %", "15", "30", "2.00 s"]


def test_several_models_of_one_seed_are_not_averaged_as_seeds(tmp_path: Path) -> None:
    """One retrained for an epoch and one for eight made "2 seeds, ± 1.77", which no seed had to do with."""
    settings = {"forms": {"softmax": "power:2", "norm": "batch", "activation": "poly:2"}}
    for name, right in (("one", 91), ("eight", 97)):
        write(tmp_path / name, [model(0, (0, 0), scores((right,) * 3), 7, settings=settings)])
    with pytest.raises(ParameterError, match=r"of one seed(.|\n)*power:2, batch, poly:2(.|\n)*seed 7: 2 models"):
        write_reduction_report([tmp_path / "one", tmp_path / "eight"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_network_that_never_had_relus_is_not_drawn_over_their_number(tmp_path: Path) -> None:
    settings = {"forms": {"softmax": "power:2", "norm": "batch", "activation": "poly:2"}}
    write(tmp_path / "a", [model(0, (0, 0), scores((97,) * 3), settings=settings)])
    top = tmp_path / "a" / "reduction.json"
    record = json.loads(top.read_text())
    record["baseline"]["relu_count"] = 0
    top.write_text(json.dumps(record))
    found = write_reduction_report([tmp_path / "a"], tmp_path / "out")
    assert "accuracy.png" not in found["plots"]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Accuracy against ReLU count" not in page
    assert "What was kept" not in page
