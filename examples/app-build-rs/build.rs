//! Compiles the model into this application.

fn main() -> Result<(), tenon_build::Error> {
    tenon_build::Model::new("../digits/model.onnx").name("digits").compile()
}
