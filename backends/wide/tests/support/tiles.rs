//! Kernels with products of tiles.

use tenon_base::DType;
use tenon_kernel::{Kernel, Stage, verify_kernel};

/// Tiles of every shape: signs and `bf16`, one tile and several each way, tails of every kind, loops around; some fetch lines meanwhile, beyond
/// their buffers' ends, too.
pub(crate) fn kernels() -> Vec<Kernel> {
    let mut all = vec![];
    let bytes = [DType::U8, DType::I8];
    let pairs = bytes.iter().flat_map(|x| bytes.iter().map(|w| (*x, *w))).chain([(DType::U16, DType::U16)]);
    for (x, w) in pairs {
        for (blocks, rows, panels, groups, loops) in [
            (1, 1, 1, 1, vec![]),
            (1, 16, 2, 16, vec![]),
            (2, 7, 2, 5, vec![3]),
            (2, 16, 1, 33, vec![2]),
            (2, 13, 2, 96, vec![]),
            (2, 16, 2, 171, vec![1, 2]),
            (1, 4, 2, 80, vec![2, 3]),
            (2, 9, 2, 18, vec![]),
        ] {
            all.push(kernel((x, w), (blocks, rows), panels, groups, &loops));
        }
        all.push(two_shapes(x, w));
    }
    for k in &all {
        assert_eq!(verify_kernel(k, Stage::Scheduled), Ok(()), "{k}");
    }
    all
}

/// Neighbours of a group, and the dtype of sums.
fn forms(x: DType) -> (usize, DType) {
    if x == DType::U16 { (2, DType::F32) } else { (4, DType::I32) }
}

fn kernel(
    (x, w): (DType, DType),
    (blocks, rows): (usize, usize),
    panels: usize,
    groups: usize,
    loops: &[usize],
) -> Kernel {
    let (group, sums) = forms(x);
    let run = groups * group;
    // Rows with a gap between them, tiles of them that overlap by one row, panels with a gap.
    let (row, below, beside) = (run + 3, (run + 3) * (rows - 1), run * 16 + group);
    let around: usize = loops.iter().product();
    let last = (rows - 1) * row + (blocks - 1) * below + run;
    let (of_x, of_w) = (last + 5 * (around - 1) + 1, beside * panels * around + 2);
    let mut inner = around;
    let (mut dims, mut at) = (vec![], (String::from("1"), String::from("2")));
    for (i, n) in loops.iter().enumerate() {
        inner /= n;
        dims.push(format!("%r{i} in 0..{n}"));
        at.0 += &format!(" + %r{i} * {}", inner * 5);
        at.1 += &format!(" + %r{i} * {}", inner * beside * panels);
    }
    let reduce = if dims.is_empty() { String::new() } else { format!(" reduce {}", dims.join(", ")) };
    let fetch = match rows % 4 {
        0 => String::new(),
        n => format!(" fetch load %w[{beside} + %i], {}", 7 * n),
    };
    let columns = 16 * panels;
    let height = blocks * rows;
    let text = format!(
        "kernel tiles(in %x: {x}[{of_x}], in %w: {w}[{of_w}], out %y: {sums}[{}]) {{
           for %i in 0..2 {{
             tiles %y[%i * {}] = {blocks} * {rows} rows, {panels} * 16 columns, {groups} groups{reduce} {{
               load %x[{} - %i], {row}, {below}
               load %w[{} - %i], {beside}{fetch}
             }}
           }}
         }}",
        2 * height * columns,
        height * columns,
        at.0,
        at.1
    );
    Kernel::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}

/// Products of tiles of different sizes, one after the other in a loop, whose sums vectors go on with.
fn two_shapes(x: DType, w: DType) -> Kernel {
    let (group, sums) = forms(x);
    let (a, b) = (24 * group, 16 * group);
    let text = format!(
        "kernel shapes(in %x: {x}[{}], in %w: {w}[{}], out %y: {sums}[320], scratch %s: {sums}[320]) {{
           for %i in 0..2 {{
             tiles %s[0] = 1 * 5 rows, 2 * 16 columns, 24 groups {{
               load %x[%i * {a}], {a}, 0
               load %w[0], {}
             }}
             for %r in 0..5 {{
               store %y[%i * 160 + %r * 32] = load32 %s[%r * 32] + load32 %s[%r * 32]
             }}
             tiles %s[%i * 16] = 2 * 3 rows, 1 * 16 columns, 16 groups {{
               load %x[0], {b}, {}
               load %w[0], 0
             }}
             store %y[%i * 160] = load16 %s[%i * 16]
           }}
         }}",
        8 * a,
        2 * a * 16,
        a * 16,
        3 * b,
    );
    Kernel::parse(&text).unwrap_or_else(|e| panic!("{e}\n{text}"))
}
