"""The ONNX operators that the compiler knows, one block each."""
