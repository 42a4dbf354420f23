//! Values between kernels that all their readers round to `bf16`: whoever makes them rounds them.
//!
//! A contraction whose factors may be rounded makes a copy of what it reads ([`super::contract`]). Where nothing reads a value in any other
//! way, its elements are rounded as they are stored, which gives the same numbers: half the bytes go through memory, and no kernel copies.

use super::Unit;
use std::collections::BTreeSet;
use tenon_base::{DType, Scalar};
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Buf, BufferKind, Expr, Kernel, Program, Stmt, bf16};

/// Makes such values `bf16`, in `units` and in `program`, whose calls name units.
pub(super) fn round(program: &mut Program, units: &mut [Unit]) {
    if units.iter().all(|u| u.roundings.is_empty()) {
        return;
    }
    let uses: Vec<Vec<Use>> = units.iter().map(|u| uses(&u.kernel)).collect();
    // Buffers that are the same parameter of a kernel, in different calls, hold the same dtype.
    let mut classes = Classes((0..program.buffers.len()).collect());
    let mut first: Vec<Vec<Option<usize>>> = units.iter().map(|u| vec![None; u.kernel.buffers.len()]).collect();
    for call in program.calls() {
        for (i, id) in call.args.iter().enumerate() {
            let seen = first[call.kernel][i].get_or_insert(id.0 as usize);
            classes.join(*seen, id.0 as usize);
        }
    }
    let mut rounded = BTreeSet::new();
    let mut refused = BTreeSet::new();
    for (id, b) in program.buffers.iter().enumerate() {
        if b.dtype != DType::F32 || !matches!(b.kind, BufferKind::Arena(_)) {
            refused.insert(classes.of(id));
        }
    }
    for call in program.calls() {
        for (i, id) in call.args.iter().enumerate() {
            let class = classes.of(id.0 as usize);
            match uses[call.kernel][i] {
                Use::None => {}
                Use::Rounded => {
                    rounded.insert(class);
                }
                Use::Exact => {
                    refused.insert(class);
                }
            }
        }
    }
    let chosen = |id: usize| rounded.contains(&classes.of(id)) && !refused.contains(&classes.of(id));
    for (unit, first) in units.iter_mut().zip(&first) {
        let narrow: Vec<bool> = first.iter().map(|id| id.is_some_and(chosen)).collect();
        if narrow.contains(&true) {
            narrow_unit(unit, &narrow);
        }
    }
    for id in (0..program.buffers.len()).filter(|id| chosen(*id)) {
        program.buffers[id].dtype = DType::U16;
    }
}

/// How a kernel reads a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Use {
    /// Not at all.
    None,
    /// What it reads is rounded.
    Rounded,
    /// In another way.
    Exact,
}

fn uses(kernel: &Kernel) -> Vec<Use> {
    let mut uses = vec![Use::None; kernel.buffers.len()];
    visit_stmts(&kernel.body, &mut |s| {
        s.exprs(&mut |e| reads(e, false, &mut uses));
        // Tiles write and read memory as it is.
        if let Stmt::Tiles(t) = s {
            uses[t.out.0 as usize] = Use::Exact;
        }
    });
    uses
}

fn reads(e: &Expr, rounds: bool, uses: &mut [Use]) {
    if let Expr::Load { buf, .. } = e {
        let seen = &mut uses[buf.0 as usize];
        *seen = if rounds && *seen != Use::Exact { Use::Rounded } else { Use::Exact };
    }
    e.for_each_child(&mut |c| reads(c, matches!(e, Expr::ToBf16(_)), uses));
}

/// Makes parameters of `unit` hold `bf16`.
fn narrow_unit(unit: &mut Unit, narrow: &[bool]) {
    let is = |b: Buf| narrow.get(b.0 as usize) == Some(&true);
    // Copies of what is rounded already.
    let copies: Vec<(Buf, Buf)> = unit.roundings.iter().copied().filter(|(_, from)| is(*from)).collect();
    let k = &mut unit.kernel;
    for (b, narrow) in k.buffers.iter_mut().zip(narrow) {
        if *narrow {
            b.dtype = DType::U16;
        }
    }
    // Two buffers that share memory have elements of one size.
    k.in_place.retain(|(a, b)| is(*a) == is(*b));
    let mut as_it_lies = |e: Expr| {
        e.rewrite(&mut |e| match e {
            Expr::ToBf16(v) if matches!(&*v, Expr::Load { buf, .. } if is(*buf)) => *v,
            e => e,
        })
    };
    let body = std::mem::take(&mut k.body).into_iter().map(|s| s.map_exprs(&mut as_it_lies)).collect();
    let body = super::scope::rewrite_stmts(body, &mut |s| match s {
        Stmt::Store { buf, .. } if copies.iter().any(|(copy, _)| *copy == buf) => vec![],
        Stmt::For { body, .. } if body.is_empty() => vec![],
        Stmt::Store { buf, index, value } if is(buf) => vec![Stmt::Store { buf, index, value: rounded(value) }],
        s => vec![s],
    });
    let original = |b: Buf| copies.iter().find(|(copy, _)| *copy == b).map_or(b, |(_, from)| *from);
    k.body = super::rename_buffers(body, &original);
}

/// `value` as `bf16`.
fn rounded(value: Expr) -> Expr {
    match value {
        Expr::Const(s) => Expr::Const(Scalar::of_int(DType::U16, bf16::round(s.as_f64() as f32).into())),
        Expr::Splat(n, v) => rounded(*v).splat(n),
        value => value.rounded_bf16(),
    }
}

/// Sets that grow together.
struct Classes(Vec<usize>);

impl Classes {
    fn of(&self, mut i: usize) -> usize {
        while self.0[i] != i {
            i = self.0[i];
        }
        i
    }

    fn join(&mut self, a: usize, b: usize) {
        let (a, b) = (self.of(a), self.of(b));
        self.0[a.max(b)] = a.min(b);
    }
}
