//! Values between kernels that may be rounded to `bf16`: whoever makes them rounds them.
//!
//! A contraction whose factors may be rounded makes a copy of what it reads ([`super::contract`]). Where nothing reads a value in any other
//! way, its elements are rounded as they are stored, which gives the same numbers: half the bytes go through memory, and no kernel copies.
//! So it is where a kernel in between only takes maxima and moves elements, for rounding keeps their order.
//!
//! What others only add to something, as the shortcut of a residual block, is rounded too, if a contraction reads it rounded or made it of
//! rounded factors: that adds to a sum no more than a factor's rounding adds to a product. What is multiplied, squared or goes through a
//! function otherwise stays as it is, and so do inputs and outputs of the model and what may be a part of a sum: what a kernel adds to itself, or a
//! loop of the program.

use super::Unit;
use rayon::prelude::*;
use tenon_base::{DType, Scalar};
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Access, BinOp, Buf, BufferKind, Expr, Kernel, Program, Stmt, UnOp, Var, bf16};

/// Makes such values `bf16`, in `units` and in `program`, whose calls name units.
pub(super) fn round(program: &mut Program, units: &mut [Unit]) {
    let multiplies: Vec<bool> = units.par_iter().map(|u| bf16::multiplies(&u.kernel)).collect();
    if !multiplies.contains(&true) {
        return;
    }
    // Buffers that are the same parameter of a kernel, in different calls, hold the same dtype.
    let mut classes = Classes((0..program.buffers.len()).collect());
    let mut first: Vec<Vec<Option<usize>>> = units.iter().map(|u| vec![None; u.kernel.buffers.len()]).collect();
    for call in program.calls() {
        for (i, id) in call.args.iter().enumerate() {
            let seen = first[call.kernel][i].get_or_insert(id.0 as usize);
            classes.join(*seen, id.0 as usize);
        }
    }
    // For each class: how it is used, whether it may be a sum that is not whole yet, and whether it was made of rounded factors.
    let mut fixed = vec![Use::None; program.buffers.len()];
    for (id, b) in program.buffers.iter().enumerate() {
        if b.dtype != DType::F32 || !matches!(b.kind, BufferKind::Arena(_)) {
            fixed[classes.of(id)] = Use::Exact;
        }
    }
    let mut partial = vec![false; program.buffers.len()];
    let timeline = program.timeline();
    for uses in timeline.loops.iter().flat_map(|l| &timeline.moments[l.clone()]).map(|m| &m.uses) {
        uses.iter().for_each(|id| partial[classes.of(id.0 as usize)] = true);
    }
    for (unit, first) in units.iter().zip(&first) {
        for (b, id) in unit.kernel.buffers.iter().zip(first) {
            let Some(class) = id.map(|id| classes.of(id)) else { continue };
            if b.dtype != DType::F32 {
                fixed[class] = Use::Exact;
            }
            partial[class] |= matches!(b.access, Access::Scratch | Access::InOut);
        }
    }
    let mut made = vec![false; program.buffers.len()];
    for (unit, first) in units.iter().zip(&first).zip(&multiplies).filter(|(_, m)| **m).map(|(u, _)| u) {
        visit_stmts(&unit.kernel.body, &mut |s| {
            if let Some(id) = s.written().and_then(|b| *first.get(b.0 as usize)?) {
                made[classes.of(id)] = true;
            }
        });
    }
    // What is stored rounded asks less of what it is made of, so there may be more of it.
    let mut chosen = vec![false; program.buffers.len()];
    loop {
        let (mut uses, mut rounded) = (fixed.clone(), vec![false; program.buffers.len()]);
        for (unit, first) in units.iter().zip(&first) {
            let narrow = |b: Buf| first.get(b.0 as usize).copied().flatten().is_some_and(|id| chosen[classes.of(id)]);
            for (id, used) in first.iter().zip(Reader::uses(&unit.kernel, &narrow)) {
                if let Some(id) = id {
                    let class = classes.of(*id);
                    uses[class] = uses[class].max(used);
                    rounded[class] |= used == Use::Rounded;
                }
            }
        }
        let next = (0..chosen.len()).map(|c| match uses[c] {
            Use::None | Use::Exact => false,
            Use::Rounded => true,
            Use::Summand => !partial[c] && (rounded[c] || made[c]),
        });
        let next: Vec<bool> = next.collect();
        if next == chosen {
            break;
        }
        chosen = next;
    }
    for (unit, first) in units.iter_mut().zip(&first) {
        let narrow: Vec<bool> = first.iter().map(|id| id.is_some_and(|id| chosen[classes.of(id)])).collect();
        if narrow.contains(&true) {
            narrow_unit(unit, &narrow);
        }
    }
    for id in (0..program.buffers.len()).filter(|id| chosen[classes.of(*id)]) {
        program.buffers[id].dtype = DType::U16;
    }
}

/// What becomes of a value that is read, from what asks the least of it to what asks the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Use {
    /// Nothing.
    None,
    /// It is rounded, at once or after maxima and moves alone.
    Rounded,
    /// It is stored, or added to something.
    Summand,
    /// Anything else.
    Exact,
}

/// How a kernel reads its buffers and variables.
struct Reader<'a> {
    /// Buffers that hold `bf16`.
    narrow: &'a dyn Fn(Buf) -> bool,
    buffers: Vec<Use>,
    vars: Vec<Use>,
}

impl Reader<'_> {
    fn uses(kernel: &Kernel, narrow: &dyn Fn(Buf) -> bool) -> Vec<Use> {
        let mut r = Reader {
            narrow,
            buffers: vec![Use::None; kernel.buffers.len()],
            vars: vec![Use::None; kernel.vars.len()],
        };
        // What a variable is used for is known after its uses, some of which are before its definitions in the text.
        loop {
            let before = r.vars.clone();
            visit_stmts(&kernel.body, &mut |s| r.statement(s));
            if r.vars == before {
                return r.buffers;
            }
        }
    }

    fn statement(&mut self, s: &Stmt) {
        match s {
            Stmt::Let { var, value } | Stmt::Declare { var, value } | Stmt::Set { var, value } => {
                self.value(value, self.vars[var.0 as usize]);
            }
            Stmt::Store { buf, index, value } => {
                self.value(index, Use::Exact);
                self.value(value, if (self.narrow)(*buf) { Use::Rounded } else { Use::Summand });
            }
            s => {
                s.exprs(&mut |e| self.value(e, Use::Exact));
                // Tiles write and read memory as it is.
                if let Stmt::Tiles(t) = s {
                    self.buffers[t.out.0 as usize] = Use::Exact;
                }
            }
        }
    }

    /// Notes what `e` reads, which is used as `used`.
    fn value(&mut self, e: &Expr, used: Use) {
        let note = |seen: &mut Use| *seen = used.max(*seen);
        match e {
            Expr::Var(Var(v)) => note(&mut self.vars[*v as usize]),
            Expr::Load { buf, index, .. } => {
                note(&mut self.buffers[buf.0 as usize]);
                self.value(index, Use::Exact);
            }
            Expr::ToBf16(v) => self.value(v, Use::Rounded),
            Expr::Binary(BinOp::Max | BinOp::Min, _)
            | Expr::Reduce(BinOp::Max | BinOp::Min, _)
            | Expr::Unary(UnOp::Neg, _)
            | Expr::Splat(..)
            | Expr::Lanes(_)
            | Expr::Extract(..) => e.for_each_child(&mut |c| self.value(c, used)),
            Expr::Binary(BinOp::Add | BinOp::Sub, _) | Expr::Reduce(BinOp::Add, _) => {
                e.for_each_child(&mut |c| self.value(c, used.max(Use::Summand)));
            }
            Expr::Fma(factors) => {
                let [a, b, sum] = &**factors;
                [a, b].into_iter().for_each(|f| self.value(f, Use::Exact));
                self.value(sum, used.max(Use::Summand));
            }
            Expr::Select(operands) => {
                let [mask, a, b] = &**operands;
                self.value(mask, Use::Exact);
                [a, b].into_iter().for_each(|v| self.value(v, used));
            }
            e => e.for_each_child(&mut |c| self.value(c, Use::Exact)),
        }
    }
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
            Expr::Load { buf, lanes, .. } if is(buf) => widened(e, lanes),
            Expr::ToBf16(v) => rounded(*v, &is),
            e => e,
        })
    };
    let body = std::mem::take(&mut k.body).into_iter().map(|s| s.map_exprs(&mut as_it_lies)).collect();
    let body = super::scope::rewrite_stmts(body, &mut |s| match s {
        Stmt::Store { buf, .. } if copies.iter().any(|(copy, _)| *copy == buf) => vec![],
        Stmt::For { body, .. } if body.is_empty() => vec![],
        Stmt::Store { buf, index, value } if is(buf) => vec![Stmt::Store { buf, index, value: rounded(value, &is) }],
        s => vec![s],
    });
    let original = |b: Buf| copies.iter().find(|(copy, _)| *copy == b).map_or(b, |(_, from)| *from);
    k.body = super::rename_buffers(body, &original);
}

/// `value` as `bf16`; a load of what `is` already is taken as it lies.
fn rounded(value: Expr, is: &dyn Fn(Buf) -> bool) -> Expr {
    match value {
        Expr::Const(s) => Expr::Const(Scalar::of_int(DType::U16, bf16::round(s.as_f64() as f32).into())),
        Expr::Splat(n, v) => rounded(*v, is).splat(n),
        value => match bits_of(&value).filter(|load| matches!(load, Expr::Load { buf, .. } if is(*buf))) {
            Some(load) => load.clone(),
            None => value.rounded_bf16(),
        },
    }
}

/// What [`widened`] made `e` of.
fn bits_of(e: &Expr) -> Option<&Expr> {
    let Expr::Bitcast(DType::F32, bits) = e else { return None };
    let Expr::Binary(BinOp::Shl, operands) = &**bits else { return None };
    let Expr::Cast(DType::U32, load) = &operands[0] else { return None };
    Some(load)
}

/// The number whose bits as `bf16` are those of `load`, which has `lanes`.
fn widened(load: Expr, lanes: u16) -> Expr {
    let by = Expr::Const(Scalar::of_int(DType::U32, 16));
    let by = if lanes > 1 { by.splat(lanes) } else { by };
    load.cast(DType::U32).binary(BinOp::Shl, by).bitcast(DType::F32)
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
