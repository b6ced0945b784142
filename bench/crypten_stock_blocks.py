"""A transformer's ONNX file on stock CrypTen, node by node: its matmul, softmax, erf, inv_sqrt, its communicator.

One process per party, started by ``mpc_encoder.py``. Weights are the model owner's secret, hidden states the data
owner's; single numbers are public. The provider is CrypTen's default, the first party, who deals for free and can
compute every secret. CrypTen's erf is a Taylor polynomial that explodes beyond 2.5; with ``tanh`` GELU goes by
CrypTen's tanh instead. What is opened is decoded here: CrypTen's decoder is off by one for some negative values.

    python bench/crypten_stock_blocks.py RANK RENDEZVOUS MODEL.onnx X.npy REPEATS erf|tanh
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections import defaultdict
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

from pi_compiler.runtime.mpc import library

_SCALE = 2.0**16
Costs = dict[str, list[float]]
"""Per operator rounds and bytes."""


class Network:
    """A model as CrypTen's tensors.

    Args:
        crypten: the library.
        path: the ONNX file.
        owner: whether this process is the model's owner.
        gelu: ``"erf"`` or ``"tanh"``.
    """

    def __init__(self, crypten: Any, path: str, *, owner: bool, gelu: str) -> None:
        self.graph = onnx.load(path).graph
        self.gelu = gelu
        self.weights: dict[str, Any] = {}
        for tensor in self.graph.initializer:
            plain = torch.from_numpy(numpy_helper.to_array(tensor).copy())
            if plain.dtype == torch.float32 and plain.numel() > 1:
                plain = crypten.cryptensor(plain if owner else torch.zeros_like(plain), src=0)
            self.weights[tensor.name] = plain

    def run(self, x: Any, comm: Any) -> tuple[Any, Costs]:
        """Shared hidden states to the shared output, and what each operator cost."""
        values, costs = {self.graph.input[0].name: x, **self.weights}, defaultdict(lambda: [0.0, 0.0])
        for node in self.graph.node:
            before = comm.get_communication_stats()
            attrs = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            values[node.output[0]] = self.apply(node.op_type, [values[n] for n in node.input], attrs)
            after = comm.get_communication_stats()
            for place, key in enumerate(("rounds", "bytes")):
                costs[node.op_type][place] += after[key] - before[key]
        return values[self.graph.output[0].name], dict(costs)

    def apply(self, op: str, x: list[Any], attrs: dict[str, Any]) -> Any:
        """One node."""
        match op:
            case "MatMul":
                return x[0].matmul(x[1])
            case "Add":
                return x[0] + x[1]
            case "Mul":
                return x[0] * (float(x[1]) if isinstance(x[1], torch.Tensor) else x[1])
            case "Div":
                return x[0] / float(x[1])
            case "Reshape":
                return x[0].reshape(x[1].tolist())
            case "Transpose":
                return x[0].permute(*attrs["perm"])
            case "Softmax":
                return x[0].softmax(dim=attrs["axis"])
            case "Erf":
                return x[0].erf() if self.gelu == "erf" else _erf_by_tanh(x[0])
            case "LayerNormalization":
                centered = x[0] - x[0].mean(dim=-1, keepdim=True)
                variance = centered.square().mean(dim=-1, keepdim=True)
                return centered * (variance + attrs.get("epsilon", 1e-5)).inv_sqrt() * x[1] + x[2]
            case _:
                raise ValueError(f"stock CrypTen has no {op} here")


def _erf_by_tanh(z: Any) -> Any:
    """Erf(z) as the tanh form of GELU has it, with z = x / sqrt 2."""
    return (z * (z.square() * (2 * 0.044715) + 1.0) * (2.0 / math.sqrt(math.pi))).tanh()


def main() -> None:
    """Print {seconds per repeat, output, costs} as JSON."""
    rank, rendezvous, model, inputs, repeats, gelu = sys.argv[1:]
    os.environ |= {"RANK": rank, "WORLD_SIZE": "2", "RENDEZVOUS": rendezvous, "DISTRIBUTED_BACKEND": "gloo"}
    torch.set_num_threads(1)
    crypten = library.load()
    crypten.init()
    crypten.cfg.communicator.verbose = True
    comm = crypten.communicator.get()
    network = Network(crypten, model, owner=rank == "0", gelu=gelu)
    plain = torch.from_numpy(np.load(inputs)).float()
    x = crypten.cryptensor(plain if rank == "1" else torch.zeros_like(plain), src=1)
    seconds, costs, opened = [], Costs(), torch.zeros(0)
    for _ in range(int(repeats)):
        comm.barrier()
        comm.reset_communication_stats()
        start = time.perf_counter()
        shared, costs = network.run(x, comm)
        opened = shared._tensor.reveal().double() / _SCALE
        seconds.append(time.perf_counter() - start)
    found = comm.get_communication_stats()
    totals = {"rounds": found["rounds"], "bytes": found["bytes"]}
    print(json.dumps({"seconds": seconds, "output": opened.tolist(), "costs": costs} | totals))


if __name__ == "__main__":
    main()
