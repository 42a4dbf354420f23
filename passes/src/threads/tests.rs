//! Divided kernels compute the same bits, whatever the order of their parts.

use super::*;
use tenon_kernel::{BufferKind, Expr, KernelBuilder, Program};

fn threads(count: usize, target: &Target) -> Threads<'_> {
    Threads { count, fork_join: 0.0, target }
}

fn target() -> Target {
    Target::parse("x86_64-linux/x86-64-v3").expect("a known target")
}

/// The kernels in which `text` is divided.
fn divided(text: &str, count: usize) -> Vec<Kernel> {
    let kernel = Kernel::parse(text).expect("the kernel reads");
    let target = target();
    divide_kernel(&kernel, &BTreeSet::new(), &threads(count, &target))
        .map_or(vec![], |p| p.into_iter().map(|m| m.kernel).collect())
}

#[test]
fn columns_and_rows_are_cut() {
    let rows = "kernel k(in %x: f32[640], out %y: f32[640]) {
        parfor %i in 0..10 { parfor %j in 0..64 step 8 { store %y[%i * 64 + %j] = load8 %x[%i * 64 + %j] * splat8(2.0) } } }";
    let k = divided(rows, 3);
    assert_eq!(k.len(), 1);
    let text = tenon_kernel::verify::render(&k[0], &[]);
    assert!(text.contains("part %part of 3"), "{text}");
    // Three columns of panels would leave one of two parts with two thirds; rows do not.
    let inner = "kernel k(in %x: f32[720], out %y: f32[720]) {
        parfor %t in 0..3 { parfor %i in 0..30 { store %y[%i * 24 + %t * 8] = load8 %x[%i * 24 + %t * 8] * splat8(2.0) } } }";
    let k = divided(inner, 2);
    let text = tenon_kernel::verify::render(&k[0], &[]);
    assert!(
        text.contains("parfor %t in 0..3") && text.contains("parfor %i in %part * 15..%part * 15 + 15"),
        "{text}"
    );
}

#[test]
fn parts_read_what_is_near_them() {
    // Rows of `m` elements of 64 times columns of 16: whoever has columns reads all rows, whoever has rows all columns.
    let product = |m: usize| {
        let text = format!(
            "kernel k(in %x: f32[{0}], in %w: f32[4096], out %y: f32[{0}]) {{
            parfor %t in 0..4 {{ parfor %i in 0..{m} {{
              var %s = splat8(0.0)
              for %k in 0..64 {{ %s = fma(splat8(load %x[%i * 64 + %k]), load8 %w[%t * 1024 + %k * 16], %s) }}
              store %y[%i * 64 + %t * 16] = %s
            }} }} }}",
            m * 64
        );
        let kernel = Kernel::parse(&text).expect("the kernel reads");
        let (target, constants) = (target(), BTreeSet::from([Buf(1)]));
        let made = divide_kernel(&kernel, &constants, &threads(2, &target)).expect("it is divided");
        tenon_kernel::verify::render(&made[0].kernel, &[])
    };
    let (few, many) = (product(2), product(128));
    assert!(few.contains("parfor %t in %part * 2..%part * 2 + 2"), "{few}");
    assert!(many.contains("parfor %i in %part * 64..%part * 64 + 64"), "{many}");
}

#[test]
fn what_one_part_needs_of_another_is_a_kernel_of_its_own() {
    let text = "kernel k(in %x: f32[4096], out %y: f32[4096], scratch %t: f32[4096]) {
        parfor %i in 0..4096 { store %t[%i] = load %x[%i] * 2.0 }
        parfor %i in 0..4096 { store %y[%i] = load %t[4095 - %i] + 1.0 } }";
    let k = divided(text, 2);
    assert_eq!(k.len(), 2, "every part of the second loop reads what another part of the first one has written");
    assert!(k.iter().all(|k| k.parts.is_some()));
    // The temporary crosses from one to the other.
    let access = |k: &Kernel| k.buffers.iter().find(|b| b.name == "t").map(|b| b.access);
    assert_eq!(access(&k[0]), Some(tenon_kernel::Access::Out));
    assert_eq!(access(&k[1]), Some(tenon_kernel::Access::In));
}

#[test]
fn scratch_memory_of_an_iteration_is_private() {
    let text = "kernel k(in %x: f32[64], out %y: f32[64], scratch %t: f32[8]) {
        parfor %i in 0..8 {
          parfor %j in 0..8 { store %t[%j] = load %x[%i * 8 + %j] * 2.0 }
          parfor %j in 0..8 { store %y[%i * 8 + %j] = load %t[7 - %j] + 1.0 }
        } }";
    let k = divided(text, 2);
    assert_eq!(k.len(), 1);
    assert_eq!(k[0].buffers[2].len, 32, "two copies, each in lines of its own");
}

#[test]
fn sums_stay_in_one_piece() {
    let text = "kernel k(in %x: f32[64], out %y: f32[1]) {
        var %s = 0.0
        for %i in 0..64 { %s = %s + load %x[%i] }
        store %y[0] = %s }";
    assert!(divided(text, 2).is_empty());
    // Iterations that write the same places are no parts, whatever the loop says of itself.
    let same = "kernel k(in %x: f32[64], out %y: f32[8]) {
        parfor %i in 0..64 { store %y[%i % 8] = load %x[%i] } }";
    assert!(divided(same, 2).is_empty());
}

#[test]
fn small_kernels_stay_in_one_piece() {
    let target = target();
    let mut k = KernelBuilder::new("k");
    let x = k.buffer("x", tenon_base::DType::F32, 64, tenon_kernel::Access::In);
    let y = k.buffer("y", tenon_base::DType::F32, 64, tenon_kernel::Access::Out);
    k.parfor("i", 64, |k, i| k.store(y, i.clone(), Expr::load(x, i)));
    let kernel = k.finish();
    assert!(divide_kernel(&kernel, &BTreeSet::new(), &Threads::new(2, &target)).is_none());
    assert!(divide_kernel(&kernel, &BTreeSet::new(), &threads(2, &target)).is_some());
}

#[test]
fn programs_stay_valid() {
    let text = "kernel k(in %x: f32[4096], out %y: f32[4096], scratch %t: f32[4096]) {
        parfor %i in 0..4096 { store %t[%i] = load %x[%i] * 2.0 }
        parfor %i in 0..4096 { store %y[%i] = load %t[4095 - %i] + 1.0 } }";
    let mut p = Program { name: "m".into(), ..Program::default() };
    let fact = tenon_base::Fact::of(tenon_base::DType::F32, &[4096]);
    p.inputs.push(tenon_kernel::Io { name: "x".into(), fact: fact.clone() });
    p.outputs.push(tenon_kernel::Io { name: "y".into(), fact });
    p.kernels.push(Kernel::parse(text).expect("the kernel reads"));
    let kinds = [BufferKind::Input(0), BufferKind::Output(0), BufferKind::Arena(None)];
    let args = kinds.map(|kind| p.add_buffer("b", tenon_base::DType::F32, 4096, kind)).to_vec();
    p.push_call(Call { kernel: 0, args, loc: tenon_base::Loc::default() });
    let x =
        tenon_base::Tensor::from_f64(tenon_base::DType::F32, &[4096], &(0..4096).map(f64::from).collect::<Vec<_>>());
    let before = tenon_kernel::run_program(&p, std::slice::from_ref(&x)).expect("it runs");
    let target = target();
    assert_eq!(divide(&mut p, &threads(2, &target)), 2);
    assert_eq!(p.calls().len(), 2);
    crate::plan::plan(&mut p);
    tenon_kernel::verify_program(&p, Stage::Scheduled).expect("it verifies");
    let again = Program::parse(&tenon_kernel::text::print_program(&p, &Default::default())).expect("it reads");
    assert_eq!(again, p);
    assert_eq!(tenon_kernel::run_program(&p, &[x]).expect("it runs"), before);
}
