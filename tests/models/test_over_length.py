"""Weights of attention over the length: what trains is what is written, and what the compiler writes by options."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pi_compiler.ir.graph import Graph, Node
from pi_compiler.models.training.over_length import OVER_LENGTH, OverLength
from pi_compiler.models.training.transformers import ATTENTION
from pi_compiler.ops.evaluate import evaluate

SHAPE = (1, 2, 5, 5)
SCORES = Node("Input", (), SHAPE, {}, "x")


def softmax(mask: bool) -> Node:
    attrs = {"axis": 3, "mask": np.tril(np.ones((5, 5)))} if mask else {"axis": 3}
    return Node("InnerSoftmax", (SCORES,), SHAPE, attrs, "weights")


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("function", OVER_LENGTH)
def test_what_trains_is_what_is_written(function, mask):
    form = ATTENTION[function](softmax(mask))
    assert isinstance(form, OverLength)
    x = np.random.default_rng(1).normal(size=(3, *SHAPE))
    written = Graph((SCORES,), (form.write(SCORES, softmax(mask)),), ("y",))
    found = form(torch.from_numpy(x)).numpy()
    np.testing.assert_allclose(evaluate(written, {"x": x})["y"], found, atol=1e-12)
    if mask:
        assert not found[..., np.triu(np.ones((5, 5), bool), 1)].any()


@pytest.mark.parametrize("function", OVER_LENGTH)
def test_places_that_an_input_hides_weigh_nothing(function):
    """The mask has fewer axes than the weights, and one row of it for each sample."""
    x = torch.from_numpy(np.random.default_rng(1).normal(size=(2, *SHAPE)))
    places = torch.tensor([[[1.0, 1, 1, 0, 0]], [[1.0, 1, 1, 1, 1]]])
    found = OverLength(softmax(False), function)(x, places)
    assert not found[0, ..., 3:].any()
    torch.testing.assert_close(found[1], OverLength(softmax(False), function)(x)[1])


def test_weights_over_the_length_of_equal_scores_sum_to_a_constant():
    """A sigmoid of minus the logarithm of the length is nearly one over it: rows of zeros sum to nearly one."""
    zero = torch.zeros(1, *SHAPE)
    total = OverLength(softmax(False), "sigmoid")(zero).sum(-1)
    assert float(total.min()) == pytest.approx(5 / 6)
