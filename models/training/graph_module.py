"""Any imported graph as a differentiable torch module, and back.

Every weight of the graph becomes a parameter, every nonlinearity a place where a budget method may put
something else. ``GraphModule.to_graph`` writes what training made of it as a graph again.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import nn

from pi_compiler.errors import ModelError, ShapeMismatch
from pi_compiler.ir.graph import Graph, Node
from pi_compiler.models.training.attention import STEPS
from pi_compiler.models.training.operations import COMPARING
from pi_compiler.models.training.steps import Activation, Layer, Norm, Step, step_of
from pi_compiler.ops.masks import of_owner

__all__ = ["GraphModule"]


class GraphModule(nn.Module):
    """A graph as a torch module: samples (B, *input shape) to the first output (B, ...).

    Weights are float32 parameters. In evaluation mode it computes what the graph computes, within
    float error; ``to_graph`` gives the graph of its present weights.

    Raises:
        ModelError: the graph has several inputs.
    """

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        if len(graph.inputs) != 1:
            names = ", ".join(n.origin for n in graph.inputs)
            raise ModelError(f"only models with one input can be trained, this one has {len(graph.inputs)}: {names}")
        self.graph = graph
        nodes = list(graph.nodes())
        place = {id(n): i for i, n in enumerate(nodes)}
        self.wiring = [tuple(place[id(i)] for i in n.inputs) for n in nodes]
        self.outputs = [place[id(n)] for n in graph.outputs]
        self.last_use = _last_uses(self.wiring, self.outputs)
        self.steps = nn.ModuleList([STEPS.get(n.op, step_of)(n) for n in nodes])
        self.order: list[Step] = list(self.steps)  # type: ignore[arg-type]
        for step in self.order:
            if of_owner(step.node):
                # Masks are zeros and ones, and stay so.
                step.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.every_output(x)[0]

    def every_output(self, x: torch.Tensor) -> list[torch.Tensor]:
        """All outputs; what the client applies after decryption is not applied.

        Raises:
            ShapeMismatch: x has other samples than the graph's.
        """
        shape = self.graph.inputs[0].shape
        if x.shape[1:] != shape and (shape[:1] != (1,) or x.shape[1:] != shape[1:]):
            raise ShapeMismatch(f"samples of shape {list(x.shape[1:])}, needed {list(shape)}")
        values: dict[int, torch.Tensor] = {}
        for i, (step, wires) in enumerate(zip(self.order, self.wiring, strict=True)):
            if step.node.op == "Input":
                values[i] = x.unsqueeze(1) if x.shape[1:] != shape else x
            else:
                values[i] = step(*(values[w] for w in wires))
            for w in self.last_use[i]:
                del values[w]
        batch_first = [values[i] for i in self.outputs]
        return [y.squeeze(1) if y.dim() > 2 and y.shape[1] == 1 else y for y in batch_first]

    @property
    def activations(self) -> dict[str, Activation]:
        """Every nonlinearity that a method may replace, by the ONNX node's name, in order."""
        return {s.node.origin: s for s in self.order if isinstance(s, Activation)}

    @property
    def relus(self) -> dict[str, Activation]:
        """Those that compare: what a ReLU budget counts."""
        return {name: a for name, a in self.activations.items() if a.node.op in COMPARING}

    @property
    def layers(self) -> list[Layer]:
        """Layers with weights, in order."""
        return [s for s in self.order if isinstance(s, Layer)]

    @property
    def comparisons(self) -> int:
        """Elements whose sign the network needs, for one sample."""
        return sum(a.comparisons for a in self.activations.values())

    def normalize(self, batches: Iterable[torch.Tensor]) -> None:
        """Put BatchNorm behind every layer but the last, set so that nothing changes in evaluation mode.

        Models come with their BatchNorm folded; training wants it back. Statistics are those of the batches.
        """
        last = self.layers[-1] if self.layers else None
        found = [s for s in self.layers if s.normalizable and s.norm is None and s is not last]
        sums = {id(s): [torch.zeros(s.channels, dtype=torch.float64) for _ in range(2)] for s in found}
        counts = dict.fromkeys(sums, 0)

        def see(step: nn.Module, _: object, y: torch.Tensor) -> None:
            if not isinstance(step, Layer):
                return
            flat = y.detach().movedim(step.channel_axis + 1, -1).reshape(-1, step.channels).double()
            sums[id(step)][0] += flat.sum(0)
            sums[id(step)][1] += flat.square().sum(0)
            counts[id(step)] += len(flat)

        handles = [s.register_forward_hook(see) for s in found]
        self.eval()
        with torch.no_grad():
            for x in batches:
                self(x)
        for handle in handles:
            handle.remove()
        for s in found:
            mean = sums[id(s)][0] / counts[id(s)]
            variance = (sums[id(s)][1] / counts[id(s)] - mean.square()).clamp(min=1e-6)
            norm = Norm(s.channels)
            with torch.no_grad():
                norm.running_mean.copy_(mean)  # type: ignore[union-attr]
                norm.running_var.copy_(variance)  # type: ignore[union-attr]
                norm.weight.copy_((variance + norm.eps).sqrt())
                norm.bias.copy_(mean)
            s.norm = norm

    def to_graph(self) -> Graph:
        """The graph with the weights and activations as they are now, normalization folded."""
        new: list[Node] = []
        for step, wires in zip(self.order, self.wiring, strict=True):
            new.append(step.node if step.node.op == "Input" else step.write(tuple(new[w] for w in wires)))
        inputs = tuple(n for n in new if n.op == "Input")
        return replace(self.graph, inputs=inputs, outputs=tuple(new[i] for i in self.outputs))


def _last_uses(wiring: list[tuple[int, ...]], outputs: list[int]) -> list[tuple[int, ...]]:
    """Per step the values that nothing needs after it."""
    last: dict[int, int] = {}
    for i, wires in enumerate(wiring):
        last[i] = i
        for w in wires:
            last[w] = i
    ends: list[list[int]] = [[] for _ in wiring]
    for value, step in last.items():
        if value not in outputs:
            ends[step].append(value)
    return [tuple(e) for e in ends]
