//! Every operator's samples, scheduled for several machines, agree with their structured kernels.

use super::*;
use crate::tuning::{Order, Tile, Tuning};
use tenon_base::{DType, Fact, Loc, Tensor};
use tenon_ir::lower::LowerCx;
use tenon_ir::op::{Operator, Sample};
use tenon_kernel::{Access, Call, Io};

/// A program that calls one operator; operands of `constant` are constants of it.
fn program_of(sample: &Sample, constant: &[(usize, Tensor)]) -> Option<Program> {
    let outs = sample.op.infer(&sample.ins).ok()?;
    let mut cx = LowerCx::alone(&sample.op, "k", &sample.ins, &outs).ok()?;
    sample.op.lower(&mut cx).ok()?;
    let kernel = cx.finish();
    let mut p = Program { name: "m".into(), ..Program::default() };
    let mut args = vec![];
    let (mut next_in, mut next_out) = (0, 0);
    let mut operand = 0;
    for b in &kernel.buffers {
        let kind = match b.access {
            Access::In => {
                let i = operand;
                operand += 1;
                match constant.iter().find(|(k, _)| *k == i) {
                    Some((_, t)) => BufferKind::Const(t.clone()),
                    None => {
                        p.inputs.push(Io { name: format!("x{i}"), fact: sample.ins[i].clone() });
                        next_in += 1;
                        BufferKind::Input(next_in - 1)
                    }
                }
            }
            Access::Out => {
                p.outputs.push(Io { name: format!("y{next_out}"), fact: outs[next_out].clone() });
                next_out += 1;
                BufferKind::Output(next_out - 1)
            }
            Access::Scratch | Access::InOut => BufferKind::Arena(None),
        };
        args.push(p.add_buffer(&b.name, b.dtype, b.len, kind));
    }
    p.kernels.push(kernel);
    p.push_call(Call { kernel: 0, args, loc: Loc::default() });
    Some(p)
}

/// A program of `sample`, whose second operand is constant, and what is scheduled of it for `target`.
fn scheduled(sample: &Sample, target: &str) -> (Program, Program) {
    let program = program_of(sample, &[(1, operands(sample)[1].clone())]).expect("a program");
    let target = Target::parse(target).expect("a target");
    let (done, _) =
        schedule_program(program.clone(), &program.kernels, &ScheduleCx::new(&target, true)).expect("scheduled");
    (program, done)
}

/// Deterministic data in `lo..hi`.
fn data(fact: &Fact, (lo, hi): (f64, f64), seed: u64) -> Tensor {
    let dims = fact.dims().unwrap_or_default();
    let n: usize = dims.iter().product();
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let values: Vec<f64> = (0..n)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let v = lo + (state >> 11) as f64 / (1u64 << 53) as f64 * (hi - lo);
            if fact.dtype.is_float() { v } else { v.floor() }
        })
        .collect();
    Tensor::from_f64(fact.dtype, &dims, &values)
}

fn operands(sample: &Sample) -> Vec<Tensor> {
    let range = |i: usize, f: &Fact| {
        sample.range.get(i).copied().unwrap_or(if f.dtype.is_float() { (-2.0, 2.0) } else { (0.0, 8.0) })
    };
    sample.ins.iter().enumerate().map(|(i, f)| data(f, range(i, f), i as u64 + 1)).collect()
}

fn assert_close(name: &str, found: &[Tensor], expected: &[Tensor]) {
    for (f, e) in found.iter().zip(expected) {
        let tolerance = match e.dtype() {
            DType::F64 => 1e-12,
            DType::F16 => 2e-3,
            _ => 2e-5,
        };
        for (i, (x, y)) in f.to_f64().into_iter().zip(e.to_f64()).enumerate() {
            let close = x == y || (x.is_nan() && y.is_nan()) || (x - y).abs() <= tolerance * (1.0 + y.abs());
            assert!(close, "{name}: element {i} is {x}, expected {y}");
        }
    }
}

const TARGETS: [&str; 4] = ["x86_64-linux/x86-64-v1", "x86_64-linux/x86-64-v3", "aarch64-linux", "riscv64-linux"];

fn check(name: &str, sample: &Sample, constant: &[usize]) {
    let all = operands(sample);
    let constants: Vec<(usize, Tensor)> = constant.iter().map(|&i| (i, all[i].clone())).collect();
    let Some(program) = program_of(sample, &constants) else { return };
    let inputs: Vec<Tensor> =
        all.into_iter().enumerate().filter(|(i, _)| !constant.contains(i)).map(|(_, t)| t).collect();
    let expected = tenon_kernel::run_program(&program, &inputs).expect(name);
    for (target, small) in TARGETS.iter().flat_map(|t| [(t, false), (t, true)]) {
        let mut target = Target::parse(target).expect("a target");
        if small {
            // As samples are small, so must be the caches in which they do not fit.
            (target.caches.l1d, target.caches.l2) = (512, 2048);
        }
        for reassociate in [false, true] {
            let scheduled = |tuning: &Tuning| {
                let cx = ScheduleCx { tuning, ..ScheduleCx::new(&target, reassociate) };
                let (scheduled, considered) = schedule_program(program.clone(), &program.kernels, &cx)
                    .unwrap_or_else(|e| panic!("{name}: {e}"));
                if let Err(e) = tenon_kernel::verify::verify_program(&scheduled, Stage::Scheduled) {
                    panic!("{name}: {e:?}");
                }
                let found = tenon_kernel::run_program(&scheduled, &inputs).expect(name);
                assert_close(&format!("{name} for {target}, {tuning:?}"), &found, &expected);
                considered
            };
            let considered = scheduled(Tuning::NONE);
            // Whatever tile is asked for is used, and computes the same.
            if target.vector_bytes == 32 && !reassociate {
                let other = if small { <[Tile]>::last } else { <[Tile]>::first };
                let asked = considered.iter().filter_map(|c| Some((c.shape.clone(), *other(&c.others)?)));
                let tuning = Tuning { tiles: asked.collect() };
                for c in scheduled(&tuning) {
                    let asked = tuning.tiles.get(&c.shape).copied().unwrap_or(c.taken);
                    assert_eq!(c.taken, asked, "{name}: {}", c.shape);
                }
            }
        }
    }
}

#[test]
fn samples_agree_with_their_structured_kernels() {
    for (file, samples) in tenon_ir::ops::all_samples() {
        for (i, sample) in samples.iter().enumerate() {
            check(&format!("{file} {i}"), sample, &[]);
        }
    }
}

#[test]
fn constant_operands_are_packed_and_agree() {
    for (file, samples) in tenon_ir::ops::all_samples() {
        for (i, sample) in samples.iter().enumerate().filter(|(_, s)| s.ins.len() > 1) {
            check(&format!("{file} {i} with constants"), sample, &[1]);
            let rest: Vec<usize> = (1..sample.ins.len()).collect();
            check(&format!("{file} {i} with all constants"), sample, &rest);
        }
    }
}

/// What single contractions make of factors that are `bf16` already: pairs of products lose nothing.
#[test]
fn factors_that_are_bf16_give_what_f32_gives() {
    let target = Target::parse("x86_64-linux/zen4").expect("a target");
    let cx = ScheduleCx { bf16: true, ..ScheduleCx::new(&target, true) };
    let mut used = std::collections::BTreeSet::new();
    for (file, samples) in tenon_ir::ops::all_samples() {
        for (i, sample) in samples.iter().enumerate().filter(|(_, s)| s.ins.len() > 1) {
            let rounded = |t: Tensor| match t.dtype() {
                DType::F32 => Tensor::from_f64(DType::F32, t.shape(), &round(&t)),
                _ => t,
            };
            let all: Vec<Tensor> = operands(sample).into_iter().map(rounded).collect();
            let constants: Vec<(usize, Tensor)> = (1..all.len()).map(|i| (i, all[i].clone())).collect();
            let Some(program) = program_of(sample, &constants) else { continue };
            // Where products follow each other, what the first gives is rounded for the second.
            let (mut contractions, mut alone) = (0, false);
            for k in &program.kernels {
                visit_stmts(&k.body, &mut |s| contractions += usize::from(matches!(s, Stmt::Contract(_))));
                alone |= k.body.iter().any(|s| matches!(s, Stmt::Contract(_)));
            }
            let name = format!("{file} {i}");
            let (scheduled, _) =
                schedule_program(program.clone(), &program.kernels, &cx).unwrap_or_else(|e| panic!("{name}: {e}"));
            if !scheduled.kernels.iter().any(tenon_kernel::bf16::multiplies) {
                continue;
            }
            let [found, expected] =
                [&scheduled, &program].map(|p| tenon_kernel::run_program(p, &all[..1]).expect(&name));
            if contractions == 1 && alone {
                assert_close(&name, &found, &expected);
            }
            used.insert(file);
        }
    }
    assert!(["conv", "conv_transpose", "matmul"].iter().all(|f| used.contains(f)), "{used:?}");
}

fn round(t: &Tensor) -> Vec<f64> {
    let half = |v: f64| f32::from_bits(u32::from(tenon_kernel::bf16::round(v as f32)) << 16);
    t.to_f64().into_iter().map(|v| f64::from(half(v))).collect()
}

#[test]
fn halves_are_converted_before_the_loops() {
    use tenon_ir::ops::matmul::MatMul;
    let op = MatMul { trans_a: false, trans_b: false };
    // The number of conversions from `f16` per multiplication of the innermost loop.
    let conversions = |rows: usize| {
        let sample = Sample::new(op.clone(), &[(DType::F16, &[rows, 64]), (DType::F16, &[64, 48])]);
        let (_, done) = scheduled(&sample, "x86_64-linux/x86-64-v3");
        let mut n = 0;
        visit_stmts(&done.kernels[0].body, &mut |s| {
            if let Stmt::Set { value, .. } = s {
                value.visit(&mut |e| n += usize::from(matches!(e, Expr::Cast(..))));
            }
            if let Stmt::Let { value, .. } = s {
                value.visit(&mut |e| n += usize::from(matches!(e, Expr::Cast(..))));
            }
        });
        n
    };
    assert_eq!(conversions(30), 0);
    // One row reads its constants once: they stay small.
    assert!(conversions(1) > 0);
}

#[test]
fn depthwise_tiles_follow_the_caches() {
    use tenon_ir::ops::conv::{Conv, Layout};
    let order = |target: &str, channels: usize, size: usize, window: usize| {
        let op = Conv {
            kernel: vec![window; 2],
            strides: vec![1; 2],
            dilations: vec![1; 2],
            pads: vec![0; 4],
            group: channels,
            layout: Layout::ChannelsLast,
            fill: None,
        };
        let f = DType::F32;
        let sample = Sample::new(op, &[(f, &[1, size, size, channels]), (f, &[channels, 1, window, window])]);
        let weights = operands(&sample).remove(1);
        let program = program_of(&sample, &[(1, weights)]).expect("a program");
        let target = Target::parse(target).expect("a target");
        let cx = ScheduleCx::new(&target, true);
        let (_, considered) = schedule_program(program.clone(), &program.kernels, &cx).expect("it is scheduled");
        considered[0].taken.order
    };
    let zen3 = |channels, size, window| order("x86_64-linux/zen3", channels, size, window);
    // Rows of many places do not stay in the first cache until the next window meets them.
    assert_eq!(zen3(96, 114, 3), Order::ColumnsInside);
    // Small planes do, and then what is wide need not come again and again, nor all its taps.
    assert_eq!(zen3(960, 9, 3), Order::ColumnsOutside);
    assert_eq!(zen3(672, 18, 5), Order::ColumnsOutside);
    // Places so many lines apart that they fall into few sets do not.
    assert_eq!(zen3(1024, 9, 3), Order::ColumnsInside);
    // Wide registers multiply faster than the second cache gives the same lines again.
    assert_eq!(order("x86_64-linux/sapphire-rapids", 240, 84, 5), Order::LinesInside);
}

#[test]
fn tiles_below_each_other_compute_the_same() {
    use tenon_ir::ops::conv::{Conv, Layout};
    // Lines in one block, in equal ones, and in blocks of which the last is shorter.
    for (lines, stride) in [(6, 1), (16, 1), (17, 1), (19, 2)] {
        let op = Conv {
            kernel: vec![3, 3],
            strides: vec![stride; 2],
            dilations: vec![1; 2],
            pads: vec![0; 4],
            group: 20,
            layout: Layout::ChannelsLast,
            fill: None,
        };
        let places = (lines - 1) * stride + 3;
        let sample = Sample::new(op, &[(DType::F32, &[2, places, 13, 20]), (DType::F32, &[20, 1, 3, 3])]);
        let mut inputs = operands(&sample);
        let program = program_of(&sample, &[(1, inputs.remove(1))]).expect("a program");
        let expected = tenon_kernel::run_program(&program, &inputs).expect("it runs");
        for target in ["x86_64-linux/zen3", "x86_64-linux/sapphire-rapids", "aarch64-linux"] {
            let target = Target::parse(target).expect("a target");
            let run = |tuning: &Tuning| {
                let cx = ScheduleCx { tuning, ..ScheduleCx::new(&target, false) };
                schedule_program(program.clone(), &program.kernels, &cx).expect("it is scheduled")
            };
            let (_, considered) = run(Tuning::NONE);
            let asked = considered.iter().map(|c| (c.shape.clone(), Tile { order: Order::LinesInside, ..c.taken }));
            let (scheduled, taken) = run(&Tuning { tiles: asked.collect() });
            assert_eq!(taken.iter().map(|c| c.taken.order).collect::<Vec<_>>(), [Order::LinesInside]);
            let found = tenon_kernel::run_program(&scheduled, &inputs).expect("it runs");
            assert_close(&format!("{lines} lines"), &found, &expected);
        }
    }
}

/// A 1x1 convolution with stride 2 of images of shape `x`, channels last, with weights of shape `w`.
fn every_second_point(x: &[usize], w: &[usize]) -> Sample {
    use tenon_ir::ops::conv::{Conv, Layout};
    let op = Conv {
        kernel: vec![1; 2],
        strides: vec![2; 2],
        dilations: vec![1; 2],
        pads: vec![0; 4],
        group: 1,
        layout: Layout::ChannelsLast,
        fill: None,
    };
    Sample::new(op, &[(DType::F32, x), (DType::F32, w)])
}

#[test]
fn results_of_one_channel_are_made_in_the_order_of_memory() {
    let sample = every_second_point(&[1, 101, 41, 24], &[1, 24, 1, 1]);
    let (_, done) = scheduled(&sample, "x86_64-linux/zen3");
    let Some(Stmt::For { hi, body, .. }) = done.kernels[0].body.first() else { panic!("a loop") };
    assert_eq!(*hi, Expr::from(51usize), "rows of the image are outside");
    assert!(matches!(body.first(), Some(Stmt::For { .. })), "places of a row inside");
}

#[test]
fn rows_of_tiles_lie_beside_each_other() {
    // Four rows of a column of the image cost as many products as four of a row.
    let sample = every_second_point(&[1, 224, 320, 24], &[24, 24, 1, 1]);
    let (_, done) = scheduled(&sample, "x86_64-linux/zen3");
    let Some(Stmt::For { hi, .. }) = done.kernels[0].body.last() else { panic!("a loop") };
    assert_eq!(*hi, Expr::from(112usize), "rows of the image are outside");
}

#[test]
fn phases_of_a_large_result_share_their_loop() {
    use tenon_ir::ops::conv::Layout;
    use tenon_ir::ops::conv_transpose::ConvTranspose;
    // Loops outside all others, for the phases of twice the rows and columns of an image.
    let loops = |size: usize, channels: usize| {
        let op = ConvTranspose {
            kernel: vec![2; 2],
            strides: vec![2; 2],
            dilations: vec![1; 2],
            pads: vec![0; 4],
            output_padding: vec![0; 2],
            group: 1,
            layout: Layout::ChannelsLast,
        };
        let f = DType::F32;
        let sample = Sample::new(op, &[(f, &[1, size, size, 24]), (f, &[24, channels, 2, 2])]);
        let (program, done) = scheduled(&sample, "x86_64-linux/zen3");
        if size < 100 {
            let inputs = [operands(&sample)[0].clone()];
            let [a, b] = [&program, &done].map(|p| tenon_kernel::run_program(p, &inputs).expect("it runs"));
            assert_close("phases", &b, &a);
        }
        done.kernels[0].body.iter().filter(|s| matches!(s, Stmt::For { .. })).count()
    };
    // What stays in the second cache gains nothing.
    assert_eq!(loops(20, 24), 4);
    assert_eq!(loops(40, 24), 1);
    assert_eq!(loops(200, 1), 1);
}
