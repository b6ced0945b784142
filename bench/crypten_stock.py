"""ResNet-20 on stock CrypTen, the straightforward way: its conv2d, its relu, its communicator, its default provider.

One process per party, started by ``crypten_peer.py``. The model's owner shares weights, the data's owner the
image; only forward pass and reveal are timed. Its default provider is the first party, who can compute every
secret, and deals for free; its third-party provider takes four times as long.

    python bench/crypten_stock.py RANK RENDEZVOUS MODEL.onnx IMAGES.npy REPEATS
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper

from pi_compiler.runtime.mpc import library

_STAGES = (16, 32, 64)
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def weights(path: str) -> list[torch.Tensor]:
    """Weight and bias of all convolutions in order, then of the last layer."""
    graph = onnx.load(path).graph
    values = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
    nodes = [n for n in graph.node if n.op_type in ("Conv", "Gemm")]
    return [values[name] for node in nodes for name in node.input[1:3]]


def forward(x: Any, params: list[Any]) -> Any:
    """Shared images to shared logits."""
    place = iter(range(0, len(params), 2))

    def conv(x: Any, stride: int = 1) -> Any:
        i = next(place)
        return x.conv2d(params[i], stride=stride, padding=1) + params[i + 1].view(1, -1, 1, 1)

    x = (x - torch.tensor(_MEAN).view(1, 3, 1, 1)) * (1.0 / torch.tensor(_STD)).view(1, 3, 1, 1)
    x = conv(x).relu()
    before = _STAGES[0]
    for channels in _STAGES:
        for block in range(3):
            halves = block == 0 and channels != before
            y = conv(x, 2 if halves else 1).relu()
            side = channels // 4
            shortcut = x[:, :, ::2, ::2].pad((0, 0, 0, 0, side, side)) if halves else x
            x = (conv(y) + shortcut).relu()
        before = channels
    i = next(place)
    return x.avg_pool2d(8).flatten(start_dim=1).matmul(params[i].t()) + params[i + 1]


def main() -> None:
    """Print {seconds per repeat, logits, rounds, bytes} as JSON."""
    rank, rendezvous, model, images, repeats = sys.argv[1:]
    os.environ |= {"RANK": rank, "WORLD_SIZE": "2", "RENDEZVOUS": rendezvous, "DISTRIBUTED_BACKEND": "gloo"}
    torch.set_num_threads(1)
    crypten = library.load()
    crypten.init()
    crypten.cfg.communicator.verbose = True
    comm = crypten.communicator.get()
    plain = weights(model)
    params = [crypten.cryptensor(w if rank == "0" else torch.zeros_like(w), src=0) for w in plain]
    image = torch.from_numpy(np.load(images)).float()
    x = crypten.cryptensor(image if rank == "1" else torch.zeros_like(image), src=1)
    seconds, logits = [], torch.zeros(0)
    for _ in range(int(repeats)):
        comm.barrier()
        comm.reset_communication_stats()
        start = time.perf_counter()
        logits = forward(x, params).get_plain_text()
        seconds.append(time.perf_counter() - start)
    found = comm.get_communication_stats()
    print(
        json.dumps({"seconds": seconds, "logits": logits.tolist(), "rounds": found["rounds"], "bytes": found["bytes"]})
    )


if __name__ == "__main__":
    main()
