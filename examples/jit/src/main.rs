//! Compiles a model into this process and runs it from several threads.

use std::path::Path;
use tenon::Tensor;
use tenon::jit::Model;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../digits/model.onnx");
    let model = Model::load(&path)?;
    for io in model.inputs() {
        println!("in   {}: {}", io.name, io.fact);
    }
    for io in model.outputs() {
        println!("out  {}: {}", io.name, io.fact);
    }

    // A zero and a one, drawn by hand: 8x8 pixels of 0..16.
    let zero = "..####.. .##..##. ##....## ##....## ##....## ##....## .##..##. ..####..";
    let one = "...##... ..###... ..###... ...##... ...##... ...##... ...##... ..####..";
    let image = |drawing: &str| {
        let pixels: Vec<f32> =
            drawing.chars().filter(|c| *c != ' ').map(|c| if c == '#' { 16.0 } else { 0.0 }).collect();
        Tensor::new(&[1, 1, 8, 8], &pixels)
    };

    // One compiled model serves any number of threads; each has its own memory.
    let answers: Vec<Result<Vec<Tensor>, tenon::Error>> = std::thread::scope(|scope| {
        let threads = [zero, one].map(|d| scope.spawn(|| model.run(&[image(d)])));
        threads.into_iter().map(|t| t.join().expect("a run does not panic")).collect()
    });
    for (truth, answer) in answers.into_iter().enumerate() {
        let probabilities = answer?[0].to_vec::<f32>();
        let best = (0..10).max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b])).unwrap_or(0);
        println!("drawn {truth}, seen {best} ({:.1} %)", 100.0 * probabilities[best]);
    }
    Ok(())
}
