"""From an ONNX file to a ``Graph``.

``load`` gets a clean, inferred, constant-folded ONNX model out of whatever the user gave; ``walk``
goes through it and makes canonical nodes. All faults of a model are reported together.
"""

from pi_compiler.importer.load import Source
from pi_compiler.importer.read import Activation, Imported, Inspection, import_model, inspect_model
from pi_compiler.importer.walk import MaxPool, Unsupported

__all__ = [
    "Activation",
    "Imported",
    "Inspection",
    "MaxPool",
    "Source",
    "Unsupported",
    "import_model",
    "inspect_model",
]
