"""Folding, fits and losses are what they claim; a short training run does everything in order."""

import json
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from pi_compiler.errors import CalibrationError, ParameterError  # noqa: E402
from pi_compiler.models.data import Dataset, load  # noqa: E402
from pi_compiler.models.training import published, train  # noqa: E402
from pi_compiler.models.training.augment import Augmentation  # noqa: E402
from pi_compiler.models.training.export import fold_batch_norm  # noqa: E402
from pi_compiler.models.training.losses import nearest_quadratic, training_loss  # noqa: E402
from pi_compiler.models.training.measure import largest_inputs, quadratic_fits, with_quadratics  # noqa: E402
from pi_compiler.models.training.recipes import RECIPES, Recipe  # noqa: E402
from pi_compiler.models.zoo import ZOO  # noqa: E402
from pi_compiler.models.zoo.activations import Quadratic  # noqa: E402
from pi_compiler.models.zoo.resnet20 import Shortcut  # noqa: E402

# degree-2 least squares of ReLU under the standard normal density: 1/sqrt(8 pi), 1/2, 1/sqrt(8 pi)
GAUSSIAN = (0.199471, 0.5, 0.199471)


def normal_data(count: int = 4_000, width: int = 50) -> Dataset:
    x = np.random.default_rng(0).standard_normal((count, width)).astype(np.float32)
    return Dataset(x, np.zeros(count, dtype=np.int64), "normal", "all")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_folding_batch_norm_keeps_the_meaning(name: str):
    torch.manual_seed(1)
    model, shape = ZOO[name].build(), ZOO[name].input_shape
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            layer.running_mean.normal_()
            layer.running_var.uniform_(0.5, 2.0)
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)
    x = torch.rand(5, *shape)
    folded = fold_batch_norm(model)
    assert not [layer for layer in folded.modules() if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d)]
    before, after = model.eval()(x), folded(x)
    assert torch.allclose(before, after, rtol=1e-3, atol=1e-3 * float(before.detach().abs().max()))


def test_quadratics_fitted_to_normal_inputs_are_the_closed_form():
    model = nn.Sequential(nn.ReLU())
    np.testing.assert_allclose(quadratic_fits(model, normal_data())["0"], GAUSSIAN, atol=4e-3)


def test_a_quadratic_starts_as_the_closed_form():
    x = torch.linspace(-2, 2, 9).view(1, -1)
    expected = GAUSSIAN[0] + GAUSSIAN[1] * x + GAUSSIAN[2] * x**2
    assert torch.allclose(Quadratic(9, axes=0)(x), expected, atol=1e-5)


def test_replacing_relu_changes_a_copy_only():
    model = nn.Sequential(nn.Linear(50, 3), nn.ReLU())
    replaced = with_quadratics(model, normal_data(100))
    assert isinstance(model[1], nn.ReLU)
    assert isinstance(replaced[1], Quadratic)


def test_fitting_one_by_one_sees_what_the_quadratics_before_deliver():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(50, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU())
    data = normal_data(500)
    stepwise, at_once = with_quadratics(model, data, one_by_one=True), with_quadratics(model, data)
    partly = nn.Sequential(*stepwise[:3], nn.ReLU())
    c0, c1, c2 = quadratic_fits(partly, data)["3"]
    np.testing.assert_allclose([p.item() for p in (stepwise[3].c, stepwise[3].b, stepwise[3].a)], [c0, c1, c2], 1e-4)
    assert abs(at_once[3].a.item() - c2) > 1e-4


def test_the_nearest_quadratic_of_a_batch_is_the_least_squares_one():
    x = torch.from_numpy(normal_data(200).x)
    flat = x.flatten().double().numpy()
    basis = np.stack([np.ones_like(flat), flat, flat**2], axis=1)
    expected = basis @ np.linalg.lstsq(basis, np.maximum(flat, 0))[0]
    np.testing.assert_allclose(nearest_quadratic(x).numpy().ravel(), expected, atol=1e-4)


def test_range_and_mismatch_penalties_reach_the_weights():
    x, y = torch.from_numpy(normal_data(64).x), torch.zeros(64, dtype=torch.int64)

    def gradient(recipe: Recipe) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(50, 4), nn.ReLU())
        training_loss(model, recipe, x, y).backward()
        return model[0].weight.grad

    plain = gradient(Recipe(epochs=1, range_weight=0.0))
    for recipe in (
        Recipe(epochs=1, range_bound=0.1, range_weight=1.0),
        Recipe(epochs=1, range_weight=0.0, mismatch_weight=1.0),
        Recipe(epochs=1, range_weight=0.0, rehearsal_weight=1.0),
    ):
        assert not torch.allclose(gradient(recipe), plain, atol=1e-4)


def test_largest_inputs_are_those_before_activations():
    model = nn.Sequential(nn.Linear(50, 1, bias=False), nn.ReLU())
    nn.init.constant_(model[0].weight, 2.0)
    data = normal_data(100)
    assert largest_inputs(model, data)["1"] == pytest.approx(float(np.abs(2 * data.x.sum(axis=1)).max()), rel=1e-5)


def test_augmentation_of_nothing_is_nothing_and_a_shift_moves_by_its_pixels():
    x, generator = torch.rand(3, 1, 8, 8), torch.Generator().manual_seed(0)
    assert Augmentation()(x, generator) is x
    moved = Augmentation(shift=2.0)(x, generator)
    assert moved.shape == x.shape
    assert not torch.allclose(moved, x)
    assert float(moved.max()) <= float(x.max()) + 1e-6


def test_the_option_a_shortcut_halves_the_image_and_adds_zero_channels():
    x = torch.rand(2, 4, 6, 6)
    y = Shortcut(8)(x)
    assert y.shape == (2, 8, 3, 3)
    assert torch.equal(y[:, 2:6], x[:, :, ::2, ::2])
    assert not y[:, :2].any()
    assert not y[:, 6:].any()


def test_missing_published_weights_say_how_to_get_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PI_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(published, "_WEIGHTS", published.RemoteFile("weights/none.th", "0" * 64))
    with pytest.raises(CalibrationError, match=r"weights/none\.th"):
        published.published_resnet20()


def test_an_unknown_recipe_lists_the_known_ones(tmp_path: Path):
    with pytest.raises(ParameterError, match=r"(?s)resnet20.*digits_cnn"):
        train.train("resnet20", 0, tmp_path / "m.onnx")


def test_a_batch_larger_than_the_data_is_refused():
    data = load("digits", "validation").take(10)
    with pytest.raises(ParameterError, match="batch size 64"):
        train.fit(ZOO["digits_cnn"].build(), Recipe(epochs=1, batch_size=64), data, data, 0)


@pytest.mark.slow
def test_training_reads_the_test_split_last_and_repeats_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    order: list[str] = []

    def watched(name: str, split: str) -> Dataset:
        order.append(split)
        if split == "test":
            assert (tmp_path / f"{len(order) // 4 - 1}.onnx").is_file()
        return load(name, split)

    monkeypatch.setattr(train, "load", watched)
    records = [train.train("digits_cnn", 3, tmp_path / f"{run}.onnx", epochs=1) for run in range(2)]
    assert order == ["train", "validation", "calibration", "test"] * 2
    assert records[0] == records[1]
    assert json.loads((tmp_path / "0.json").read_text()) == records[0]
