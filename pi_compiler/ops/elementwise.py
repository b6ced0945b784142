"""What is not linear: functions of one variable, and the product of two encrypted values.

The functions themselves, with their derivatives and limits, are in ``pi_compiler.approx.targets``; a
block here says which one an operator means and with which parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.polynomial import chebyshev, polynomial

from pi_compiler.approx.poly import Apply, Formula, Sum, Times
from pi_compiler.approx.targets import target
from pi_compiler.errors import InternalError, ShapeMismatch, UnsupportedOperator
from pi_compiler.ir.graph import FloatArray, Node, Shape
from pi_compiler.ops.linear import affine, alike
from pi_compiler.ops.op import Arrays, Call, Function, Op, Reader, Writer, array, number, same
from pi_compiler.ops.shaping import expand

Emit = Callable[[Node, Sequence[str], Writer], str]


def _activation(name: str, function_name: str, *parameters: str, emit: Emit | None = None) -> Op:
    """An operator that applies a target of ``approx`` with number attributes of the same names."""

    def values(node: Node) -> Mapping[str, float]:
        return {p: number(node, p) for p in parameters}

    def function(node: Node) -> Function:
        return target(function_name, **values(node)).function

    def apply(node: Node, arrays: Arrays) -> FloatArray:
        return np.asarray(function(node)(arrays[0]))

    def as_onnx(node: Node, inputs: Sequence[str], out: Writer) -> str:
        return out.call(name, inputs, node.origin, **values(node))

    return Op(
        name, "nonlinear", apply, function=function, target=function_name, parameters=values, emit=emit or as_onnx
    )


def activation(op: str, x: Node, origin: str, **parameters: float) -> Node:
    """A node of a nonlinear operator with number parameters, checked to be in range.

    Raises:
        ShapeMismatch: a parameter is out of range.
    """
    node = same(x, op, origin, **parameters)
    try:
        _BY_NAME[op].function(node)
    except ValueError as error:
        raise ShapeMismatch(str(error)) from error
    return node


def _plain(op: str, **defaults: float) -> Callable[[Call], Node]:
    """Reads an operator whose attributes have the parameters' names."""

    def read(call: Call) -> Node:
        parameters = {name: call.number(name, default) for name, default in defaults.items()}
        return activation(op, call.node(0), call.name, **parameters)

    return read


def _scalar(values: FloatArray, what: str) -> float:
    flat = np.unique(values)
    if flat.size != 1:
        raise UnsupportedOperator(f"{what} differs between elements", hint=f"one {what} for the whole tensor")
    return float(flat[0])


# Clip, also as Min or Max with a constant; without an upper bound and with 0 below it is Relu.


def _clip(x: Node, low: float, high: float, origin: str) -> Node:
    if low == -np.inf and high == np.inf:
        return x
    if low == 0.0 and high == np.inf:
        return activation("Relu", x, origin)
    if low >= high:
        return affine(x, 0.0, high, origin)
    return activation("Clip", x, origin, min=low, max=high)


def _read_clip(call: Call) -> Node:
    low, high = call.floats(1), call.floats(2)
    # Some exporters write the largest float32 for no bound.
    bounds = [
        call.number("min", -np.inf) if low is None or not low.size else _scalar(low, "bound"),
        call.number("max", np.inf) if high is None or not high.size else _scalar(high, "bound"),
    ]
    largest = float(np.finfo(np.float32).max)
    wide = [float(b) if abs(b) < largest else float(np.copysign(np.inf, b)) for b in bounds]
    return _clip(call.node(0), wide[0], wide[1], call.name)


def _bound(call: Call) -> tuple[Node, float]:
    encrypted = [o for o in call.operands if isinstance(o, Node)]
    constants = [np.asarray(o, np.float64) for o in call.operands if o is not None and not isinstance(o, Node)]
    if len(encrypted) != 1 or len(constants) != 1:
        raise UnsupportedOperator(f"{call.op} of two encrypted values comes later", hint="a bound that is constant")
    return expand(encrypted[0], constants[0].shape, call.name), _scalar(constants[0], "bound")


def _read_max(call: Call) -> Node:
    x, bound = _bound(call)
    return _clip(x, bound, np.inf, call.name)


def _read_min(call: Call) -> Node:
    x, bound = _bound(call)
    return _clip(x, -np.inf, bound, call.name)


def _emit_clip(node: Node, inputs: Sequence[str], out: Writer) -> str:
    bounds = [number(node, "min"), number(node, "max")]
    names = [out.constant(np.array(b)) if np.isfinite(b) else "" for b in bounds]
    return out.call("Clip", [inputs[0], *names], node.origin)


# PRelu: slope, an array that broadcasts to the operand. One slope for all is LeakyRelu.


def _prelu_function(node: Node) -> Function:
    slope = array(node, "slope")
    return lambda x: np.where(x < 0.0, slope * x, x)


def _prelu(node: Node, arrays: Arrays) -> FloatArray:
    return _prelu_function(node)(arrays[0])


def _read_prelu(call: Call) -> Node:
    x, slope = call.node(0), call.weights(1)
    while slope.ndim >= len(x.shape) > 1 and slope.shape[0] == 1:
        slope = slope[0]
    if expand(x, slope.shape, call.name) is not x:
        raise ShapeMismatch(f"slopes of shape {slope.shape} on a tensor of shape {list(x.shape)}")
    if np.unique(slope).size == 1:
        return activation("LeakyRelu", x, call.name, alpha=float(slope.reshape(-1)[0]))
    return same(x, "PRelu", call.name, slope=slope)


def _emit_prelu(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("PRelu", [inputs[0], out.constant(array(node, "slope"))], node.origin)


# HardSwish and SiLU: as products, since ONNX has them without parameters or only in later opsets.


def _emit_hard_swish(node: Node, inputs: Sequence[str], out: Writer) -> str:
    alpha, beta = number(node, "alpha"), number(node, "beta")
    gate = out.call("HardSigmoid", inputs, node.origin, alpha=alpha, beta=beta)
    return out.call("Mul", [inputs[0], gate], node.origin)


def _emit_silu(node: Node, inputs: Sequence[str], out: Writer) -> str:
    x, rate = inputs[0], number(node, "rate")
    scaled = x if rate == 1.0 else out.call("Mul", [x, out.constant(np.array(rate))], node.origin)
    return out.call("Mul", [x, out.call("Sigmoid", [scaled], node.origin)], node.origin)


def _read_hard_swish(call: Call) -> Node:
    return activation("HardSwish", call.node(0), call.name, alpha=1.0 / 6.0, beta=0.5)


def _read_swish(call: Call) -> Node:
    return activation("SiLU", call.node(0), call.name, rate=call.number("alpha", 1.0))


# Gelu and GeluTanh.


def _read_gelu(call: Call) -> Node:
    form = call.text("approximate", "none")
    if form not in ("none", "tanh"):
        raise ShapeMismatch(f"attribute 'approximate' is {form!r}")
    return activation("Gelu" if form == "none" else "GeluTanh", call.node(0), call.name)


def _emit_gelu_tanh(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("Gelu", inputs, node.origin, approximate="tanh")


# Square and Pow: polynomials already, if the exponent is a natural number.


def _square(node: Node, arrays: Arrays) -> FloatArray:
    return np.square(arrays[0])


def _square_polynomial(node: Node) -> tuple[float, ...] | None:
    return (0.0, 0.0, 1.0)


def _emit_square(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("Mul", [inputs[0], inputs[0]], node.origin)


def _pow_polynomial(node: Node) -> tuple[float, ...] | None:
    exponent = number(node, "exponent")
    return (0.0,) * int(exponent) + (1.0,) if exponent > 0 else None


def _read_pow(call: Call) -> Node:
    exponents = call.constant(1)
    if exponents is None:
        raise ShapeMismatch("the exponent is missing")
    x = call.node(0)
    exponent = _scalar(np.asarray(exponents, np.float64), "exponent")
    x = expand(x, exponents.shape, call.name)
    if abs(exponent) == 0.5:
        return activation("Sqrt" if exponent > 0 else "InverseSqrt", x, call.name)
    if not exponent.is_integer() or exponent == 0.0 or abs(exponent) > 64:
        raise UnsupportedOperator(
            f"exponent {exponent:g}", hint="an exponent that is an integer other than 0, 1/2 or -1/2"
        )
    if exponent in (-1.0, 1.0, 2.0):
        return {-1.0: _reciprocal(x, call.name), 1.0: x, 2.0: same(x, "Square", call.name)}[exponent]
    return activation("Pow", x, call.name, exponent=exponent)


def _emit_pow(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("Pow", [inputs[0], out.constant(np.array(number(node, "exponent")))], node.origin)


# Mul of two encrypted operands of one shape; of an operand with itself it is Square.


def _mul(node: Node, arrays: Arrays) -> FloatArray:
    return arrays[0] * arrays[1]


def multiply(a: Node, b: Node, origin: str) -> Node:
    """The product of two encrypted values, broadcast to one shape."""
    if a is b:
        return same(a, "Square", origin)
    operands = alike((a, b), origin)
    return Node("Mul", operands, operands[0].shape, {}, origin)


def _read_mul(call: Call) -> Node:
    a, b = call.operands[:2]
    if isinstance(a, Node) and isinstance(b, Node):
        return multiply(a, b, call.name)
    if isinstance(a, Node):
        return affine(a, call.weights(1), 0.0, call.name)
    return affine(call.node(1), call.weights(0), 0.0, call.name)


def _read_div(call: Call) -> Node:
    a, b = call.operands[:2]
    if not isinstance(b, Node):
        divisor = call.weights(1)
        if not divisor.all():
            raise ShapeMismatch("a constant divisor is zero")
        return affine(call.node(0), 1.0 / divisor, 0.0, call.name)
    inverse = _reciprocal(b, call.name)
    if isinstance(a, Node):
        return multiply(a, inverse, call.name)
    return affine(inverse, call.weights(0), 0.0, call.name)


def _emit_mul(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("Mul", inputs, node.origin)


# Poly: basis, coef (degree+1,) or (degree+1, channels), domain (2,) or (2, channels); channels are axis 1.


def poly_operands(node: Node) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Coefficients (degree+1, ...), lower and upper ends of the domain, shaped to broadcast to the node."""
    coef, domain = array(node, "coef"), array(node, "domain")
    return _per_channel(coef, node.shape), *_per_channel(domain, node.shape)


def _per_channel(values: FloatArray, shape: Shape) -> FloatArray:
    if values.ndim == 1:
        return values
    return values.reshape(len(values), -1, *(1,) * (len(shape) - 2))


def _poly_function(node: Node) -> Function:
    coef, low, high = poly_operands(node)
    if node.attrs["basis"] == "power":
        return lambda x: np.asarray(polynomial.polyval(x, coef, tensor=False))
    scale, shift = 2.0 / (high - low), (low + high) / (high - low)
    return lambda x: np.asarray(chebyshev.chebval(x * scale - shift, coef, tensor=False))


def _poly(node: Node, arrays: Arrays) -> FloatArray:
    return _poly_function(node)(arrays[0])


def _poly_polynomial(node: Node) -> tuple[float, ...] | None:
    coef = array(node, "coef")
    return tuple(float(c) for c in coef) if coef.ndim == 1 and node.attrs["basis"] == "power" else None


def _read_poly(call: Call) -> Node:
    """A call of the function that the exporter writes: Poly_<basis>_<degree>(x, coef, domain)."""
    x, coef, domain = call.node(0), call.weights(1), call.weights(2)
    _, basis, degree = call.op.split("_")
    if basis not in ("power", "chebyshev") or len(coef) != int(degree) + 1 or len(domain) != 2:
        raise ShapeMismatch(f"coefficients of shape {coef.shape} for {call.op}")
    attrs = {"coef": coef.reshape(len(coef), -1), "domain": domain.reshape(2, -1)}
    flat = {k: v[:, 0] if v.shape[1] == 1 else v for k, v in attrs.items()}
    if any(v.ndim > 1 and v.shape[1] != x.shape[1] for v in flat.values()):
        raise ShapeMismatch(f"coefficients of shape {coef.shape} on a tensor of shape {list(x.shape)}")
    return same(x, "Poly", call.name, basis=basis, **flat)


def _emit_poly(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.polynomial(node, inputs[0])


# Approximant: approx, a fit that compares (MPC), or an iteration that is evaluated as one (CKKS).


def _approximant_function(node: Node) -> Function:
    approx = node.attrs["approx"]
    if not callable(approx):
        raise InternalError(f"{node!r} holds no approximant")
    return lambda x: np.asarray(approx(x))


def _approximant(node: Node, arrays: Arrays) -> FloatArray:
    return _approximant_function(node)(arrays[0])


def _emit_approximant(node: Node, inputs: Sequence[str], out: Writer) -> str:
    """A formula step by step; what compares or divides has no ONNX form that means the same."""
    approx = node.attrs["approx"]
    if not isinstance(approx, Formula):
        raise InternalError(f"{node.op} at {node.origin!r} has no ONNX form")
    names = [inputs[0]]
    for step in approx.steps:
        match step:
            case Apply(poly, arg):
                attrs = {"basis": poly.basis, "coef": np.asarray(poly.coef), "domain": np.asarray(poly.domain)}
                names.append(out.polynomial(same(node, "Poly", node.origin, **attrs), names[arg]))
            case Times(left, right):
                names.append(out.call("Mul", [names[left], names[right]], node.origin))
            case Sum(terms, constant):
                names.append(_emit_sum([(c, names[i]) for c, i in terms], constant, node, out))
    return names[-1]


def _emit_sum(terms: Sequence[tuple[float, str]], constant: float, node: Node, out: Writer) -> str:
    parts = [
        name if factor == 1.0 else out.call("Mul", [name, out.constant(np.array(factor))], node.origin)
        for factor, name in terms
    ]
    if constant:
        parts.append(out.constant(np.array(constant)))
    total = parts[0]
    for part in parts[1:]:
        total = out.call("Add", [total, part], node.origin)
    return total


def _emit_inverse_sqrt(node: Node, inputs: Sequence[str], out: Writer) -> str:
    return out.call("Reciprocal", [out.call("Sqrt", inputs, node.origin)], node.origin)


def _reciprocal(x: Node, origin: str) -> Node:
    """1 / x; of a square root, its inverse as one function."""
    if x.op == "Sqrt":
        return activation("InverseSqrt", x.inputs[0], origin)
    return activation("Reciprocal", x, origin)


def _read_reciprocal(call: Call) -> Node:
    return _reciprocal(call.node(0), call.name)


_SELU = {"alpha": 1.67326319217681884765625, "gamma": 1.05070102214813232421875}
OPS = (
    _activation("Relu", "relu"),
    _activation("LeakyRelu", "leaky_relu", "alpha"),
    Op("PRelu", "nonlinear", _prelu, function=_prelu_function, target="prelu", emit=_emit_prelu),
    _activation("Clip", "clip", "min", "max", emit=_emit_clip),
    _activation("Elu", "elu", "alpha"),
    _activation("Selu", "selu", "alpha", "gamma"),
    _activation("Celu", "celu", "alpha"),
    _activation("Gelu", "gelu"),
    _activation("GeluTanh", "gelu_tanh", emit=_emit_gelu_tanh),
    _activation("Sigmoid", "sigmoid"),
    _activation("HardSigmoid", "hard_sigmoid", "alpha", "beta"),
    _activation("HardSwish", "hard_swish", "alpha", "beta", emit=_emit_hard_swish),
    _activation("SiLU", "silu", "rate", emit=_emit_silu),
    _activation("Mish", "mish"),
    _activation("Tanh", "tanh"),
    _activation("Softplus", "softplus"),
    _activation("Softsign", "softsign"),
    _activation("Erf", "erf"),
    _activation("Exp", "exp"),
    _activation("Sqrt", "sqrt"),
    _activation("Reciprocal", "reciprocal"),
    _activation("InverseSqrt", "inv_sqrt", emit=_emit_inverse_sqrt),
    _activation("Abs", "abs"),
    Op(
        "Square",
        "nonlinear",
        _square,
        function=lambda node: np.square,
        target="square",
        polynomial=_square_polynomial,
        emit=_emit_square,
    ),
    replace(_activation("Pow", "pow", "exponent", emit=_emit_pow), polynomial=_pow_polynomial),
    Op(
        "Poly", "nonlinear", _poly, function=_poly_function, target="poly", polynomial=_poly_polynomial, emit=_emit_poly
    ),
    Op(
        "Approximant",
        "nonlinear",
        _approximant,
        function=_approximant_function,
        target="custom",
        emit=_emit_approximant,
    ),
    Op("Mul", "product", _mul, emit=_emit_mul),
)
_BY_NAME = {op.name: op for op in OPS}
READERS = {
    "Relu": Reader(_plain("Relu"), 14),
    "LeakyRelu": Reader(_plain("LeakyRelu", alpha=0.01), 16),
    "PRelu": Reader(_read_prelu, 16),
    "Clip": Reader(_read_clip, 13, infinite=True),
    "Max": Reader(_read_max, 13, infinite=True),
    "Min": Reader(_read_min, 13, infinite=True),
    "Elu": Reader(_plain("Elu", alpha=1.0), 22),
    "Selu": Reader(_plain("Selu", **_SELU), 22),
    "Celu": Reader(_plain("Celu", alpha=1.0), 28),
    "Gelu": Reader(_read_gelu, 20),
    "Sigmoid": Reader(_plain("Sigmoid"), 13),
    "HardSigmoid": Reader(_plain("HardSigmoid", alpha=0.2, beta=0.5), 22),
    "HardSwish": Reader(_read_hard_swish, 22),
    "Swish": Reader(_read_swish, 24),
    "Mish": Reader(_plain("Mish"), 22),
    "Tanh": Reader(_plain("Tanh"), 13),
    "Softplus": Reader(_plain("Softplus"), 22),
    "Softsign": Reader(_plain("Softsign"), 22),
    "Erf": Reader(_plain("Erf"), 13),
    "Exp": Reader(_plain("Exp"), 13),
    "Sqrt": Reader(_plain("Sqrt"), 13),
    "Reciprocal": Reader(_read_reciprocal, 13),
    "Abs": Reader(_plain("Abs"), 13),
    "Pow": Reader(_read_pow, 15),
    "Mul": Reader(_read_mul, 14),
    "Div": Reader(_read_div, 14),
    "pi_compiler.Poly": Reader(_read_poly, 1),
}
