"""Whatever the user gave, as a checked ONNX model with static shapes and folded constants.

Checking, upgrading, inlining, folding and shape inference are those of onnx and onnxscript; this
module decides their order and turns their complaints into ``ModelError``.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnx_ir
from onnx import checker, external_data_helper, inliner, shape_inference, version_converter
from onnxscript import optimizer

from pi_compiler.errors import ModelError
from pi_compiler.ir.graph import Shape

Source: TypeAlias = "str | PathLike[str] | bytes | onnx.ModelProto"

OLDEST, TARGET = 6, 13
"""Opsets from 6 on are read; those below 13 are upgraded to 13 first."""
OWN_DOMAIN = "pi_compiler"
"""Domain of the functions that the exporter writes."""

_LIMIT = 2**31 - 1  # protobuf serializes no more
_FLOATS = frozenset({1, 10, 11, 16})  # float, float16, double, bfloat16
WHOLE = frozenset({6, 7, 9})
"""Element types of inputs that hold whole numbers: int32, int64, bool."""
_FOLD_LIMIT = 1 << 24  # elements of a constant worth computing at compile time
_FOREIGN = {
    b"PK\x03\x04": "a zip archive, such as PyTorch's .pt (export it with torch.onnx.export)",
    b"\x89HDF": "an HDF5 file, such as a Keras model (convert it with tf2onnx)",
    b"\x80\x02": "a Python pickle",
    b"\x80\x04": "a Python pickle",
    b"\x93NUM": "a NumPy array",
}


@contextmanager
def translated(what: str, hint: str | None = None) -> Iterator[None]:
    """Turns whatever the ONNX libraries raise or warn about into ``ModelError``.

    The libraries promise no exception types: C++ faults arrive as RuntimeError or their own
    classes, Python ones as anything.
    """
    loud = logging.getLogger("onnxscript"), logging.getLogger("onnx_ir")
    levels = [log.level for log in loud]
    for log in loud:
        log.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            yield
    except (ModelError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise ModelError(what, *first_lines(error), hint=hint) from error
    finally:
        for log, level in zip(loud, levels, strict=True):
            log.setLevel(level)


def first_lines(error: BaseException) -> list[str]:
    """What a library's exception says, without its call stacks."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith(("==>", "File ", "Traceback"))]
    return [line if len(line) <= 300 else line[:297] + "..." for line in kept[:3]] or [type(error).__name__]


def load(source: Source) -> tuple[onnx.ModelProto, str]:
    """The model as it is in the file, weights included, and the name it goes by in messages.

    Raises:
        ModelError: it cannot be read, is no ONNX model, is damaged, or its external data are missing.
    """
    if isinstance(source, onnx.ModelProto):
        model = onnx.ModelProto()
        model.CopyFrom(source)
        name = model.graph.name or "the model"
        _no_external(model, name)
    elif isinstance(source, bytes):
        name = "the model"
        model = _parse(source, name)
        _no_external(model, name)
    elif isinstance(source, (str, PathLike)):
        path = Path(source)
        name = repr(path.name)
        model = _parse(_read(path), name)
        _load_external(model, path.parent, name)
    else:
        raise ModelError(
            f"a model cannot be read from {type(source).__name__}", hint="a path, bytes or an onnx.ModelProto"
        )
    if not all(isinstance(t, str) for t in _texts(model.graph)):
        raise ModelError(f"{name} is damaged: it holds names that are not text", hint="export or copy it again")
    if model.ByteSize() > _LIMIT:
        raise ModelError(f"{name} holds more than 2 GiB of weights, which is beyond what can run encrypted")
    return model, name


def _read(path: Path) -> bytes:
    try:
        if path.stat().st_size > _LIMIT:
            raise ModelError(f"{path.name!r} is larger than 2 GiB, which no ONNX file can be")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {str(path)!r}", error.strerror or type(error).__name__) from error


def _parse(data: bytes, name: str) -> onnx.ModelProto:
    if not data:
        raise ModelError(f"{name} is empty")
    for start, what in _FOREIGN.items():
        if data.startswith(start):
            raise ModelError(f"{name} is not an ONNX file but {what}")
    with translated(f"{name} is not an ONNX file, or it is truncated or damaged", "export or copy it again"):
        model = onnx.ModelProto()
        model.ParseFromString(data)
    return model


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of a graph, those in attributes and nested graphs included."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for nested in (attribute.g, *attribute.graphs):
                yield from _tensors(nested)


def _texts(graph: onnx.GraphProto) -> Iterator[object]:
    """Every name; protobuf hands over those that are not UTF-8 as bytes."""
    yield graph.name
    yield from (port.name for port in (*graph.input, *graph.output, *graph.value_info))
    yield from (tensor.name for tensor in graph.initializer)
    for port in graph.input:
        yield from (d.dim_param for d in port.type.tensor_type.shape.dim)
    for node in graph.node:
        yield from (node.name, node.op_type, node.domain, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)


def _external(model: onnx.ModelProto) -> dict[str, list[str]]:
    """Names of the files outside the model, and the tensors each holds."""
    found: dict[str, list[str]] = {}
    for tensor in _tensors(model.graph):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            where = next((e.value for e in tensor.external_data if e.key == "location"), "")
            found.setdefault(where, []).append(tensor.name)
    return found


def _no_external(model: onnx.ModelProto, name: str) -> None:
    if found := _external(model):
        raise ModelError(
            f"{name} keeps weights outside the model, in {', '.join(map(repr, found))}",
            hint="give the path of the .onnx file, so that its folder is known",
        )


def _load_external(model: onnx.ModelProto, folder: Path, name: str) -> None:
    files = _external(model)
    missing = {f: t for f, t in files.items() if not f or not (folder / f).is_file()}
    if missing:
        raise ModelError(
            f"external data of {name} are missing",
            *(
                f"file {f!r} with {len(t)} tensors ({', '.join(t[:3])}{' ...' * (len(t) > 3)})"
                for f, t in missing.items()
            ),
            hint="copy these files into the folder of the model",
        )
    if not files:
        return
    if sum((folder / f).stat().st_size for f in files) > _LIMIT:
        raise ModelError(f"{name} holds more than 2 GiB of weights, which is beyond what can run encrypted")
    with translated(f"external data of {name} cannot be read"):
        external_data_helper.load_external_data_for_model(model, str(folder))


def opset_of(model: onnx.ModelProto, name: str) -> int:
    """Version of the standard operator set.

    Raises:
        ModelError: there is none, or it is outside what can be read.
    """
    versions = [o.version for o in model.opset_import if o.domain in ("", "ai.onnx")]
    if not versions or not model.HasField("graph"):
        raise ModelError(f"{name} is not an ONNX model: it has no {'operator set' if not versions else 'graph'}")
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST <= versions[0] <= newest:
        raise ModelError(
            f"{name} uses operator set {versions[0]}",
            f"the installed onnx {onnx.__version__} reads {OLDEST} to {newest}",
            hint="export it with opset 17, or install a newer onnx"
            if versions[0] > newest
            else "export it with opset 17",
        )
    return int(versions[0])


def unknown_operators(model: onnx.ModelProto, opset: int) -> set[str]:
    """Names in the standard domain that ONNX does not know."""
    return {
        n.op_type for n in model.graph.node if n.domain in ("", "ai.onnx") and not onnx.defs.has(n.op_type, opset, "")
    }


def prepare(
    model: onnx.ModelProto,
    name: str,
    input_shapes: Mapping[str, Sequence[int]] | None,
) -> onnx.ModelProto:
    """A checked model with static shapes, functions inlined and constants folded.

    Args:
        model: what ``load`` gave; it is changed.
        name: for messages.
        input_shapes: shapes for inputs, needed where the model leaves dimensions other than the
            first open.

    Raises:
        ModelError: it is malformed, or its inputs have open dimensions or are no tensors of numbers.
    """
    opset = opset_of(model, name)
    strange = bool(unknown_operators(model, opset))
    if not strange:
        for output in model.graph.output:
            if output.type.WhichOneof("value") == "tensor_type":
                # The checker wants a shape; fix_inputs forgets it again.
                output.type.tensor_type.shape.SetInParent()
        with translated(f"{name} is not a valid ONNX model"):
            checker.check_model(model)
    if model.graph.sparse_initializer:
        names = ", ".join(repr(s.values.name) for s in model.graph.sparse_initializer)
        raise ModelError(f"{name} has sparse initializers: {names}", hint="store them as ordinary tensors")
    fix_inputs(model, name, input_shapes)
    if opset < 7 and any(n.op_type == "PRelu" for n in model.graph.node):
        # Up to opset 6 its slopes follow the channels, and the upgrade does not say so.
        raise ModelError(f"{name} has PRelu of operator set {opset}", hint="export it with opset 17")
    if opset < TARGET:
        with translated(
            f"{name} uses operator set {opset} and cannot be upgraded to {TARGET}", "export it with opset 17"
        ):
            model = version_converter.convert_version(model, TARGET)
    with translated(f"{name} cannot be simplified"):
        model = inliner.inline_selected_functions(model, _own_functions(model), exclude=True)
        model = _folded(model)
    standard = all(n.domain in ("", "ai.onnx", OWN_DOMAIN) for n in model.graph.node)
    with translated(f"the shapes of {name} do not fit together"):
        return shape_inference.infer_shapes(
            model, check_type=True, strict_mode=standard and not strange, data_prop=True
        )


def _own_functions(model: onnx.ModelProto) -> list[tuple[str, str]]:
    return [(f.domain, f.name) for f in model.functions if f.domain == OWN_DOMAIN]


def _folded(model: onnx.ModelProto) -> onnx.ModelProto:
    ir = onnx_ir.from_proto(model)
    optimizer.fold_constants(
        ir,
        onnx_shape_inference=True,
        input_size_limit=_FOLD_LIMIT,
        output_size_limit=_FOLD_LIMIT,
        should_fold=_foldable,
    )
    optimizer.remove_unused_nodes(ir)
    return onnx_ir.to_proto(ir)


def _foldable(node: onnx_ir.Node) -> bool | None:
    """Small constants of one value too, which the library leaves alone: exporters make shapes of them."""
    shape = node.inputs[0].const_value if node.op_type == "ConstantOfShape" and node.inputs[0] is not None else None
    return None if shape is None or math.prod(shape.numpy().tolist()) > _FOLD_LIMIT else True


def fix_inputs(model: onnx.ModelProto, name: str, input_shapes: Mapping[str, Sequence[int]] | None) -> None:
    """Gives every input a static shape and forgets the shapes that followed from the old ones.

    Raises:
        ModelError: listing every input that is no tensor of numbers, has open dimensions, or a given
            shape that does not fit.
    """
    wanted = {k: tuple(int(n) for n in v) for k, v in (input_shapes or {}).items()}
    weights = {t.name for t in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    faults: list[str] = [f"there is no input {k!r}" for k in wanted if k not in {i.name for i in inputs}]
    if not inputs:
        faults.append("it has no input")
    for port in inputs:
        faults.extend(_fix_input(port, wanted.get(port.name)))
    if faults:
        known = ", ".join(f"{i.name}: {describe(i)}" for i in inputs)
        raise ModelError(
            f"the inputs of {name} cannot be encrypted as they are",
            *faults,
            hint=f"input_shapes with positive sizes for every dimension; the model declares {known}",
        )
    # Everything inferred before may hold another batch size.
    del model.graph.value_info[:]
    for output in model.graph.output:
        output.type.tensor_type.ClearField("shape")


def _fix_input(port: onnx.ValueInfoProto, wanted: Shape | None) -> Iterator[str]:
    kind = port.type.WhichOneof("value")
    if kind != "tensor_type":
        yield f"input {port.name!r} is no tensor"
        return
    tensor = port.type.tensor_type
    if tensor.elem_type not in _FLOATS | WHOLE:
        yield f"input {port.name!r} holds {type_name(tensor.elem_type)}, needed are floats or whole numbers"
        return
    declared = [d.dim_value if d.HasField("dim_value") else 0 for d in tensor.shape.dim]
    if wanted is None:
        if not tensor.HasField("shape"):
            yield f"input {port.name!r} declares no shape"
            return
        wanted = tuple(max(n, 1) if i == 0 else n for i, n in enumerate(declared))
    elif tensor.HasField("shape") and len(wanted) != len(declared):
        yield f"input {port.name!r} has {len(declared)} dimensions, given {list(wanted)}"
        return
    if open_ := [i for i, n in enumerate(wanted) if n < 1]:
        yield f"input {port.name!r} is {describe(port)}: no size for dimension {', '.join(map(str, open_))}"
        return
    tensor.shape.ClearField("dim")
    for n in wanted:
        tensor.shape.dim.add().dim_value = n


def describe(port: onnx.ValueInfoProto) -> str:
    """A declared shape, for people."""
    dims = port.type.tensor_type.shape.dim
    return "[" + ", ".join(d.dim_param or str(d.dim_value) if d.WhichOneof("value") else "?" for d in dims) + "]"


def type_name(elem_type: int) -> str:
    """An element type's name."""
    known = onnx.TensorProto.DataType.values()
    return str(onnx.TensorProto.DataType.Name(elem_type)).lower() if elem_type in known else f"type {elem_type}"


def shapes_of(model: onnx.ModelProto) -> dict[str, Shape]:
    """Every value whose shape is known and static."""
    found: dict[str, Shape] = {}
    for port in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        tensor = port.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            found[port.name] = tuple(d.dim_value for d in tensor.shape.dim)
    return found


def encoded(model: onnx.ModelProto, name: str) -> bytes:
    """The model as bytes.

    Raises:
        ModelError: it is too large.
    """
    with translated(f"{name} is too large to be stored"):
        return bytes(model.SerializeToString())
