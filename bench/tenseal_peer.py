"""Side by side with TenSEAL's own high-level API on the network of its encrypted-convolution tutorial.

Same weights, same ring (N = 8192, 218 bits of modulus), same process, images in turn: one through
the peer, one through ours. Seconds per image are encryption, evaluation and decryption; what either
side does once (keys, encoding weights) is left out of both. The peer's threads are its default
(all cores); ours runs on one.

    python bench/tenseal_peer.py [--images 10]
"""

from __future__ import annotations

import argparse
import statistics

import numpy as np
import rows
import tenseal_tutorial as peer

from pi_compiler import api
from pi_compiler.models.data import load
from pi_compiler.models.zoo import model_path
from pi_compiler.options import Activation, Options


def main() -> None:
    """Run both and write ``results/tenseal_peer.json``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=10)
    args = parser.parse_args()
    path = model_path("tutorial_cnn")
    model = api.compile(
        str(path),
        calibration=load("mnist", "calibration").x,
        options=Options(activation=Activation("quadratic"), log_n=13, backend="tenseal"),
    )
    session = model.session("tenseal")
    (output,) = model.signature.outputs
    context, weights = peer.make_context(), peer.read_weights(path)
    one_thread = peer.make_context(threads=1)
    test = load("mnist", "test")
    exact = model.session("clear").run(model.sample(test.x[: args.images])).logits[output].reshape(args.images, -1)
    ours, theirs, theirs_one, our_error, their_error = [], [], [], [], []
    same = 0
    for i in range(args.images):
        image = test.x[i]
        theirs_run = peer.infer(context, weights, np.asarray(image[0], dtype=np.float64))
        result = session.run(model.sample(image))
        if i < 3:
            theirs_one.append(peer.infer(one_thread, weights, np.asarray(image[0], dtype=np.float64)).seconds)
        found = result.logits[output].ravel()
        ours.append(result.seconds)
        theirs.append(theirs_run.seconds)
        our_error.append(float(np.abs(found - exact[i]).max()))
        their_error.append(float(np.abs(np.asarray(theirs_run.logits) - exact[i]).max()))
        same += int(found.argmax() == exact[i].argmax())
    seconds, peer_seconds = statistics.median(ours), statistics.median(theirs)
    rows.write(
        "tenseal_peer",
        [
            rows.cost("seconds", seconds, "s", "TenSEAL high-level API", peer_seconds),
            rows.cost("seconds_one_thread", seconds, "s", "TenSEAL, one thread", statistics.median(theirs_one)),
            rows.cost("logit_error", max(our_error), "absolute", "TenSEAL high-level API", max(their_error)),
            rows.quality("agreement", same, "images", "encrypted", args.images),
            rows.Row("rotations", float(str(model.report["rotations"])), "rotations"),
            rows.Row("log_n", float(str(model.report["log_n"])), "log2 of ring degree"),
            rows.Row("log_qp", float(str(model.report["log_qp"])), "bits"),
        ],
    )
    print(rows.machine())


if __name__ == "__main__":
    main()
