"""What to say about ONNX operators that have no private counterpart."""

from __future__ import annotations

from collections.abc import Mapping

_NORMALIZATIONS = ("InstanceNormalization", "GroupNormalization", "LpNormalization", "MeanVarianceNormalization", "LRN")
_COMPARISONS = (
    "Equal",
    "Sign",
    "TopK",
    "ReduceMax",
    "ReduceMin",
    "ArgMin",
    "Ceil",
    "Floor",
    "Round",
    "Not",
    "And",
    "Or",
)
_RANDOM = ("RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli")

HIDDEN = ("inside the network it comes later; only at the very end the client can apply it", "move it to the end")
RANDOM: Mapping[str, tuple[str, str]] = dict.fromkeys(
    _RANDOM, ("a random result has no reference to agree with", "export in evaluation mode")
)
_ADVICE: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(
        ("If", "Loop", "Scan"),
        ("control flow cannot depend on encrypted values", "export a model without branches and loops"),
    ),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), ("recurrent layers come later", "convolutions over time")),
    **dict.fromkeys(
        _NORMALIZATIONS, ("normalization by statistics of encrypted values comes later", "BatchNormalization")
    ),
    **dict.fromkeys(_COMPARISONS, ("comparisons of encrypted values come later", "a smooth activation")),
    **RANDOM,
}


def advice(op: str, domain: str) -> tuple[str, str]:
    """Reason and advice for an operator that is not read."""
    if domain not in ("", "ai.onnx"):
        return f"operators of domain {domain!r} are unknown", "export with standard ONNX operators only"
    return _ADVICE.get(op, ("it has no private counterpart", "operators that are sums, products or smooth functions"))
