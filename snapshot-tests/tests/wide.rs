//! Where the target has vectors of 256 or 512 bits, every kernel with vectors is made of them. What `tenon-wide` refuses is compiled for
//! 128 bits without a word, with the right results, some six times slower: nothing else would show it.

use tenon::{Compiler, Options, Precision, Target};
use tenon_snapshot_tests::places::repository;

/// Real architectures: convolutions of all kinds, minimal filtering, attention, integers, half floats.
const MODELS: [&str; 6] = [
    "models/clip",
    "models/convnext",
    "models/crnn_qdq",
    "models/keras_mobilenet_v3",
    "models/repvgg",
    "models/segformer_f16",
];

fn every_kernel_is_wide(target: &str, precision: Precision) {
    let target = Target::parse(target).expect("a target");
    assert!(tenon_wide::supports(&target), "{target}");
    let (mut wide, mut refused) = (0, vec![]);
    let root = repository().join("snapshot-tests");
    let models = MODELS.iter().map(|m| root.join(m).join("model.onnx"));
    for model in models.chain([repository().join("examples/digits/model.onnx")]) {
        let mut options = Options::new(target.clone());
        options.precision = precision;
        let c = Compiler::new(options).compile_file(&model).unwrap_or_else(|e| panic!("{}: {e}", model.display()));
        for k in c.program.kernels.iter().filter(|k| tenon_wide::has_vectors(k)) {
            match tenon_wide::compile(k, &target) {
                Ok(_) => wide += 1,
                // Its frame is bounded, as the stack is not probed.
                Err(tenon_wide::Unsupported::Size(_)) => {}
                Err(e) => refused.push(format!("{}: {}: {e}", model.display(), k.name)),
            }
        }
    }
    assert!(refused.is_empty(), "{target}:\n{}", refused.join("\n"));
    assert!(wide > 100, "{target}: {wide} kernels with vectors");
}

#[test]
fn on_avx2() {
    every_kernel_is_wide("zen3", Precision::F32);
}

#[test]
fn on_avx512() {
    every_kernel_is_wide("sapphire-rapids", Precision::F32);
}

#[test]
fn on_avx512_in_bf16() {
    every_kernel_is_wide("zen4", Precision::Bf16);
}
