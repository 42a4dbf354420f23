//! Types, scopes and the shape of statements.

use super::Stage;
use crate::text::MAX_DEPTH;
use crate::{Access, Affine, Buf, Contract, ContractDim, Expr, Kernel, Stmt, Tiles, Type, Var};
use std::collections::BTreeSet;
use tenon_base::DType;

/// A statement's number, and what is wrong there.
type Found = Vec<(Option<usize>, String)>;

/// All violations but those of bounds.
pub(super) fn check(kernel: &Kernel, stage: Stage) -> Found {
    let mut c = Checker {
        kernel,
        stage,
        scope: vec![State::Undefined; kernel.vars.len()],
        defined: vec![],
        stmt: None,
        next: 0,
        depth: 0,
        found: vec![],
    };
    c.declarations();
    c.parts();
    c.block(&kernel.body);
    c.found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Undefined,
    Fixed,
    Mutable,
}

pub(super) struct Checker<'k> {
    pub(super) kernel: &'k Kernel,
    pub(super) stage: Stage,
    /// What each variable is at this point.
    pub(super) scope: Vec<State>,
    /// Variables in scope, in order of definition.
    defined: Vec<Var>,
    stmt: Option<usize>,
    /// The next statement's number.
    next: usize,
    depth: usize,
    found: Found,
}

/// A type as text.
pub(super) fn show(t: Type) -> String {
    if t.lanes == 1 { t.elem.to_string() } else { format!("{}x{}", t.elem, t.lanes) }
}

impl Checker<'_> {
    fn error(&mut self, message: impl Into<String>) {
        self.found.push((self.stmt, message.into()));
    }

    fn declarations(&mut self) {
        let mut names = BTreeSet::new();
        for b in &self.kernel.buffers {
            if !names.insert(&b.name) {
                self.error(format!("two buffers are named %{}", b.name));
            }
            if b.len.checked_mul(b.dtype.size()).is_none_or(|n| isize::try_from(n).is_err()) {
                self.error(format!("%{} is larger than the address space", b.name));
            }
            if b.dtype.is_stored() {
                self.error(format!("%{} holds {}, which kernels see as {}", b.name, b.dtype, b.dtype.carrier()));
            }
        }
        let mut names = BTreeSet::new();
        for v in &self.kernel.vars {
            if !names.insert(&v.name) {
                self.error(format!("two variables are named %{}", v.name));
            }
            if v.ty.lanes == 0 {
                self.error(format!("%{} has no lanes", v.name));
            }
        }
        for &(i, o) in &self.kernel.in_place {
            let get = |b: Buf| self.kernel.buffers.get(b.0 as usize);
            let (Some(i), Some(o)) = (get(i), get(o)) else {
                self.error("a buffer that may share memory does not exist");
                continue;
            };
            let size = |b: &crate::Buffer| (b.dtype.size(), b.len);
            if i.access != Access::In || o.access != Access::Out || size(i) != size(o) {
                self.error(format!(
                    "%{} and %{} cannot share memory: not an in and an out of one size",
                    i.name, o.name
                ));
            }
        }
    }

    fn parts(&mut self) {
        let Some(p) = self.kernel.parts else { return };
        if p.count == 0 || p.count > Kernel::MAX_PARTS {
            self.error(format!("{} parts; a kernel has 1 to {}", p.count, Kernel::MAX_PARTS));
        }
        self.define(p.var, State::Fixed, Some(Type::INDEX));
    }

    pub(super) fn var_name(&self, v: Var) -> String {
        self.kernel.vars.get(v.0 as usize).map_or(format!("<no variable {}>", v.0), |i| format!("%{}", i.name))
    }

    /// Brings `v` into scope.
    fn define(&mut self, v: Var, state: State, ty: Option<Type>) {
        match (self.scope.get(v.0 as usize), self.kernel.vars.get(v.0 as usize)) {
            (Some(State::Undefined), Some(info)) => {
                if let Some(ty) = ty.filter(|t| *t != info.ty) {
                    self.error(format!("{} is {}, its value {}", self.var_name(v), show(info.ty), show(ty)));
                }
                self.scope[v.0 as usize] = state;
                self.defined.push(v);
            }
            (Some(_), _) => self.error(format!("{} is defined while it is in scope", self.var_name(v))),
            (None, _) => self.error(format!("{} is defined", self.var_name(v))),
        }
    }

    /// Takes what was defined since `mark` out of scope.
    fn leave(&mut self, mark: usize) {
        for v in self.defined.drain(mark..) {
            self.scope[v.0 as usize] = State::Undefined;
        }
    }

    fn block(&mut self, body: &[Stmt]) {
        if self.depth >= MAX_DEPTH {
            self.error(format!("blocks nest more than {MAX_DEPTH} deep"));
            return;
        }
        self.depth += 1;
        let mark = self.defined.len();
        for s in body {
            self.stmt = Some(self.next);
            self.next += 1;
            self.stmt(s);
        }
        self.leave(mark);
        self.depth -= 1;
    }

    fn stmt(&mut self, s: &Stmt) {
        match s {
            Stmt::Let { var, value } | Stmt::Declare { var, value } => {
                let ty = self.expr(value);
                let state = if matches!(s, Stmt::Let { .. }) { State::Fixed } else { State::Mutable };
                self.define(*var, state, ty);
            }
            Stmt::Set { var, value } => {
                let ty = self.expr(value);
                match self.scope.get(var.0 as usize) {
                    Some(State::Mutable) => {
                        let want = self.kernel.var(*var).ty;
                        if let Some(ty) = ty.filter(|t| *t != want) {
                            let name = self.var_name(*var);
                            self.error(format!("{name} is {}, its new value {}", show(want), show(ty)));
                        }
                    }
                    Some(State::Fixed) => self.error(format!("{} is set, but is not a `var`", self.var_name(*var))),
                    _ => self.error(format!("{} is set where it is not in scope", self.var_name(*var))),
                }
            }
            Stmt::Store { buf, index, value } => {
                self.expect(index, Type::INDEX, "the index");
                let ty = self.expr(value);
                self.store(*buf, ty);
            }
            Stmt::Prefetch { buf, index } => {
                self.expect(index, Type::INDEX, "the index");
                if self.kernel.buffers.get(buf.0 as usize).is_none() {
                    self.error(format!("there is no buffer {}", buf.0));
                }
            }
            Stmt::For { var, lo, hi, step, body, .. } => {
                self.expect(lo, Type::INDEX, "the first bound");
                self.expect(hi, Type::INDEX, "the second bound");
                if *step < 1 {
                    self.error(format!("the step is {step}, below 1"));
                }
                let mark = self.defined.len();
                self.define(*var, State::Fixed, Some(Type::INDEX));
                self.block(body);
                self.leave(mark);
            }
            Stmt::If { cond, then, otherwise } => {
                self.expect(cond, Type::scalar(DType::Bool), "the condition");
                self.block(then);
                self.block(otherwise);
            }
            Stmt::While { cond, body } => {
                self.expect(cond, Type::scalar(DType::Bool), "the condition");
                self.block(body);
            }
            Stmt::Contract(c) => {
                if self.stage == Stage::Scheduled {
                    self.error("a contraction in a scheduled kernel");
                }
                let mark = self.defined.len();
                self.contract(c);
                self.leave(mark);
            }
            Stmt::Tiles(t) => {
                let mark = self.defined.len();
                self.tiles(t);
                self.leave(mark);
            }
        }
    }

    fn tiles(&mut self, t: &Tiles) {
        let sizes = [
            ("rows", t.rows, t.rows <= Tiles::STEP),
            ("tiles below each other", t.blocks, t.blocks <= 2),
            ("tiles beside each other", t.panels, t.panels <= 2),
            ("groups", t.groups, true),
        ];
        for (what, n, fits) in sizes {
            if n == 0 || !fits {
                self.error(format!("tiles with {n} {what}"));
            }
        }
        self.expect(&t.out_index, Type::INDEX, "the index");
        if let Some(f) = &t.fetch {
            self.expr(&f.first);
            if Tiles::source(&f.first).is_none() {
                self.error("what tiles fetch is not a load of one element");
            }
        }
        self.loops(&t.reduce, "the tiles'");
        let mut factor = |e: &Expr| {
            match Tiles::source(e) {
                None => self.error("a factor of tiles is not a load of one element"),
                Some((buf, _)) if buf == t.out => self.error("tiles are summed into a factor"),
                Some(_) => {}
            }
            self.expr(e).map(|t| t.elem)
        };
        let (x, w) = (factor(&t.x), factor(&t.w));
        let (Some(x), Some(w)) = (x, w) else { return };
        match Tiles::group_beside(x, w) {
            Some(_) => {
                let sums = if x == DType::U16 { DType::F32 } else { DType::I32 };
                self.store(t.out, Some(Type::scalar(sums)));
            }
            _ => self.error(format!("tiles of {x} and {w}")),
        }
    }

    /// Defines the variables of loops of a contraction or of tiles.
    fn loops(&mut self, dims: &[ContractDim], of: &str) {
        for d in dims {
            if d.extent == 0 || i64::try_from(d.extent).is_err() {
                let name = self.var_name(d.var);
                self.error(format!("{name} has {} iterations; {of} loops have at least 1", d.extent));
            }
            self.define(d.var, State::Fixed, Some(Type::INDEX));
        }
    }

    fn store(&mut self, buf: Buf, value: Option<Type>) {
        let Some(b) = self.kernel.buffers.get(buf.0 as usize) else {
            return self.error(format!("there is no buffer {}", buf.0));
        };
        if b.access == Access::In {
            self.error(format!("a store to %{}, which is an `in` buffer", b.name));
        }
        if let Some(t) = value.filter(|t| t.elem != b.dtype) {
            self.error(format!("%{} holds {}, the value stored is {}", b.name, b.dtype, show(t)));
        }
    }

    fn contract(&mut self, c: &Contract) {
        self.loops(&c.dims, "a contraction's");
        let Some(acc) = self.kernel.vars.get(c.acc.0 as usize).map(|v| v.ty) else {
            return self.error(format!("there is no variable {}", c.acc.0));
        };
        if acc.lanes != 1 || matches!(acc.elem, DType::F16 | DType::Bool) {
            self.error(format!("an accumulator cannot be {}", show(acc)));
        }
        self.expect(&c.init, acc, "the initial value");
        self.expect(&c.out_index, Type::INDEX, "the index");
        // Variables that are defined around it stay as they are meanwhile; those of loops summed over are not defined yet.
        match Affine::of(&c.out_index) {
            Some(a) => self.distinct(c, &a),
            None => self.error("the result's index is not affine in the contraction's outer loops"),
        }
        let mark = self.defined.len();
        self.loops(&c.reduce, "a contraction's");
        for (factor, which) in [(&c.a, "left"), (&c.b, "right")] {
            self.expect(factor, acc, &format!("the {which} factor"));
            let load = if let Expr::Cast(_, e) = factor { e } else { factor };
            match load {
                Expr::Load { index, .. } => {
                    if Affine::of(index).is_none() {
                        self.error(format!("the {which} factor's index is not affine in the contraction's loops"));
                    }
                }
                _ => self.error(format!("the {which} factor is not a load, or a cast of one")),
            }
        }
        self.leave(mark);
        self.define(c.acc, State::Fixed, None);
        let ty = self.expr(&c.value);
        if ty.is_some_and(|t| t.lanes != 1) {
            self.error("the result is not a scalar");
        }
        self.store(c.out, ty);
    }

    /// Each point of the outer loops has its own index: with strides in ascending order, each is beyond what the ones
    /// before it span.
    fn distinct(&mut self, c: &Contract, index: &Affine) {
        let mut strides: Vec<(i128, i128)> = c
            .dims
            .iter()
            .filter(|d| d.extent > 1)
            .map(|d| (i128::from(index.coefficient(d.var)).abs(), d.extent as i128 - 1))
            .collect();
        strides.sort_unstable();
        let mut span = 0;
        for (stride, last) in strides {
            if stride <= span {
                return self.error("the result's index is not different at every point of the outer loops");
            }
            span += stride.saturating_mul(last);
        }
    }

    /// `e` has type `want`.
    fn expect(&mut self, e: &Expr, want: Type, what: &str) {
        if let Some(t) = self.expr(e).filter(|t| *t != want) {
            self.error(format!("{what} is {}, not {}", show(t), show(want)));
        }
    }

    /// The type of a whole expression, `None` if it has none (which has been told).
    fn expr(&mut self, e: &Expr) -> Option<Type> {
        match self.typed(e, MAX_DEPTH) {
            Ok(t) => Some(t),
            Err(message) => {
                self.error(message);
                None
            }
        }
    }
}
