//! The kernel interpreter against hand-computed results.

use tenon_base::{DType, Tensor};
use tenon_kernel::{Access, Contract, Expr, KernelBuilder, Memory, Type, run_kernel};

#[test]
fn a_contraction_multiplies_matrices() {
    let mut k = KernelBuilder::new("matmul");
    let a = k.buffer("a", DType::F32, 6, Access::In);
    let b = k.buffer("b", DType::F32, 6, Access::In);
    let y = k.buffer("y", DType::F32, 4, Access::Out);
    let acc = k.fresh("acc", Type::scalar(DType::F32));
    let ((dm, m), (dn, n), (dk, kk)) = (k.contract_dim("m", 2), k.contract_dim("n", 2), k.contract_dim("k", 3));
    k.contract(Contract {
        dims: vec![dm, dn],
        reduce: vec![dk],
        acc,
        init: Expr::constant(DType::F32, 0.5),
        a: Expr::load(a, m.clone() * 3 + kk.clone()),
        b: Expr::load(b, kk * 2 + n.clone()),
        out: y,
        out_index: m * 2 + n,
        value: Expr::Var(acc),
    });
    let kernel = k.finish();
    let t = Tensor::new(&[6], &[1f32, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let mut buffers = [Memory::of(&t), Memory::of(&t), Memory::poisoned(DType::F32, 4)];
    run_kernel(&kernel, &mut buffers, &Default::default()).unwrap();
    let y: Vec<f64> = buffers[2].scalars().map(|s| s.as_f64()).collect();
    assert_eq!(y, [22.5, 28.5, 49.5, 64.5]);
}
