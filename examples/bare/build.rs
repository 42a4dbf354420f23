//! Compiles the model into this program, which is linked with nothing else.

fn main() -> Result<(), tenon_build::Error> {
    for flag in ["-nostartfiles", "-nostdlib", "-static", "-no-pie"] {
        println!("cargo::rustc-link-arg-bins={flag}");
    }
    tenon_build::Model::new("../digits/model.onnx").name("digits").golden(2).compile()
}
