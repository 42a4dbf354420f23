//! An application with a model compiled into it: typed arrays in and out, no file to load, nothing to install.

/// Made by `build.rs`.
mod digits {
    include!(concat!(env!("OUT_DIR"), "/digits.rs"));
}

/// A three, drawn by hand.
const DRAWING: [&str; 8] =
    ["..####..", ".##..##.", "......#.", "...###..", "...####.", "......##", ".##..##.", "..####.."];

fn main() -> Result<(), digits::Status> {
    let mut image = [0f32; 64];
    for (y, row) in DRAWING.iter().enumerate() {
        for (x, c) in row.chars().enumerate() {
            image[8 * y + x] = if c == '#' { 16.0 } else { 0.0 };
        }
        println!("{row}");
    }
    let mut model = digits::Digits::new();
    let probabilities: [f32; 10] = model.run(&image)?;
    let best = (0..10).max_by(|a, b| probabilities[*a].total_cmp(&probabilities[*b])).unwrap_or(0);
    println!("seen as {best} ({:.1} %), in {} bytes of memory", 100.0 * probabilities[best], digits::ARENA_BYTES);
    Ok(())
}
