//! ONNX bytes to graph IR.
