//! Compile ONNX models from build.rs.
