"""pi-compiler: takes an ONNX model and runs it on data nobody but its owner can read."""

__version__ = "0.1.0"
