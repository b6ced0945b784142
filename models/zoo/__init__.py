"""Network definitions and their exported ONNX files."""
