//! From operators to structured kernel IR.
//!
//! An operator writes its kernel through [`LowerCx`]: it reads operands and writes results by *element index in the
//! operator's own shapes*, and never sees buffers. What stands behind an operand (memory, or fused producers) and behind
//! a result (memory, or fused consumers) is the fusion's choice, made in `passes`.

use crate::Op;
use crate::op::{OpClass, Operator};
use crate::ops::util::loop_over;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use tenon_base::{DType, Fact, Scalar};
use tenon_kernel::simplify::simplify_index;
use tenon_kernel::{Access, Buf, CmpOp, Expr, Kernel, KernelBuilder, Type, Var};

/// Why an operator could not be lowered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerError(pub String);

impl fmt::Display for LowerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for LowerError {}

/// Gives the element at a row-major index of an operand.
pub type Reader<'a> = Box<dyn Fn(Expr) -> Expr + 'a>;

/// Takes the row-major index and the value of a result's element; gives the buffer, index and value to store.
pub type Writer<'a> = Box<dyn Fn(Expr, Expr) -> (Buf, Expr, Expr) + 'a>;

/// First and last value of loop variables, as far as they are known while operands are read: with them a reader keeps the
/// index of an element behind several moves short.
pub type Ranges = Rc<RefCell<BTreeMap<Var, (i64, i64)>>>;

/// What an operator reads around an operand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Padding {
    /// Elements before and after every axis.
    pub widths: Vec<[usize; 2]>,
    /// Their value.
    pub fill: i64,
}

/// An operand in the middle of a larger buffer.
#[derive(Clone, Debug)]
pub struct Halo {
    /// The buffer.
    pub buf: Buf,
    /// Its extents, border included.
    pub dims: Vec<usize>,
    /// Where the operand begins, along every axis.
    pub before: Vec<usize>,
    /// Elements behind it.
    pub after: Vec<usize>,
    /// What is around it.
    pub fill: i64,
}

impl Halo {
    /// Whether around the operand is what `wanted` says, or more of it.
    pub fn covers(&self, wanted: &Padding) -> bool {
        let has = self.before.iter().zip(&self.after);
        self.fill == wanted.fill
            && wanted.widths.len() == self.dims.len()
            && has.zip(&wanted.widths).all(|((b, a), w)| *b >= w[0] && *a >= w[1])
    }
}

/// What an operator lowers into: one kernel under construction.
pub struct LowerCx<'a> {
    /// The operator.
    pub op: &'a Op,
    ins: Vec<(Vec<usize>, DType)>,
    outs: Vec<(Vec<usize>, DType)>,
    readers: Vec<Reader<'a>>,
    writers: Vec<Writer<'a>>,
    /// Shared with the readers.
    ranges: Ranges,
    /// Operands in larger buffers.
    halos: Vec<Option<Halo>>,
    /// Operands that are in the result already.
    written: Vec<bool>,
    /// The kernel; loops, variables and scratch buffers are made here.
    pub k: KernelBuilder,
}

impl fmt::Debug for LowerCx<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LowerCx").field("op", &self.op).field("ins", &self.ins).finish_non_exhaustive()
    }
}

impl<'a> LowerCx<'a> {
    /// A context for `op`; every extent must be known.
    pub fn new(
        op: &'a Op,
        ins: &[Fact],
        outs: &[Fact],
        readers: Vec<Reader<'a>>,
        writers: Vec<Writer<'a>>,
        ranges: Ranges,
        k: KernelBuilder,
    ) -> Result<LowerCx<'a>, LowerError> {
        let known = |f: &Fact| {
            f.dims().map(|d| (d, f.dtype)).ok_or_else(|| LowerError(format!("the shape {f} is not fully known")))
        };
        let ins = ins.iter().map(known).collect::<Result<Vec<_>, _>>()?;
        let outs = outs.iter().map(known).collect::<Result<_, _>>()?;
        let (halos, written) = (vec![None; ins.len()], vec![false; ins.len()]);
        Ok(LowerCx { op, ins, outs, readers, writers, ranges, halos, written, k })
    }

    /// The same, where the operands that have a halo are known to have it.
    #[must_use]
    pub fn with_halos(mut self, halos: Vec<Option<Halo>>) -> LowerCx<'a> {
        debug_assert_eq!(halos.len(), self.ins.len());
        self.halos = halos;
        self
    }

    /// The larger buffer around operand `i`, if it lies in one.
    pub fn halo(&self, i: usize) -> Option<&Halo> {
        self.halos.get(i)?.as_ref()
    }

    /// The same, where those of the operands that are `written` were put into their place in the result by whoever made them.
    #[must_use]
    pub fn with_written(mut self, written: Vec<bool>) -> LowerCx<'a> {
        debug_assert_eq!(written.len(), self.ins.len());
        self.written = written;
        self
    }

    /// Whether operand `i` is in its place in the result already, and is not to be read.
    pub fn is_written(&self, i: usize) -> bool {
        self.written[i]
    }

    /// A context for `op` alone, its operands and results in buffers of their own.
    pub fn alone(op: &'a Op, name: &str, ins: &[Fact], outs: &[Fact]) -> Result<LowerCx<'a>, LowerError> {
        let mut k = KernelBuilder::new(name);
        let len = |f: &Fact| f.dims().map_or(0, |d| d.iter().product());
        let mut readers: Vec<Reader<'a>> = vec![];
        for (i, f) in ins.iter().enumerate() {
            let b = k.buffer(&format!("x{i}"), f.dtype.carrier(), len(f), Access::In);
            readers.push(Box::new(move |index| Expr::load(b, index)));
        }
        let mut writers: Vec<Writer<'a>> = vec![];
        for (i, f) in outs.iter().enumerate() {
            let b = k.buffer(&format!("y{i}"), f.dtype.carrier(), len(f), Access::Out);
            writers.push(Box::new(move |index, value| (b, index, value)));
        }
        LowerCx::new(op, ins, outs, readers, writers, Ranges::default(), k)
    }

    /// The finished kernel.
    pub fn finish(self) -> Kernel {
        self.k.finish()
    }

    /// How many operands there are.
    pub fn in_count(&self) -> usize {
        self.ins.len()
    }

    /// Extents of operand `i`.
    pub fn in_dims(&self, i: usize) -> Vec<usize> {
        self.ins[i].0.clone()
    }

    /// Extents of result `i`.
    pub fn out_dims(&self, i: usize) -> Vec<usize> {
        self.outs[i].0.clone()
    }

    /// Element type of operand `i`.
    pub fn in_dtype(&self, i: usize) -> DType {
        self.ins[i].1
    }

    /// Element type of result `i`.
    pub fn out_dtype(&self, i: usize) -> DType {
        self.outs[i].1
    }

    /// Facts of all operands.
    pub fn in_facts(&self) -> Vec<Fact> {
        self.ins.iter().map(|(d, t)| Fact::of(*t, d)).collect()
    }

    /// Fact of result `i`.
    pub fn out_fact(&self, i: usize) -> Fact {
        Fact::of(self.outs[i].1, &self.outs[i].0)
    }

    /// The element of operand `i` at row-major index `flat`, in the carrier of the operand's dtype.
    pub fn load_flat(&self, i: usize, flat: Expr) -> Expr {
        (self.readers[i])(flat)
    }

    /// The element of operand `i` at `index`, one expression an axis.
    pub fn load(&self, i: usize, index: &[Expr]) -> Expr {
        self.load_flat(i, flatten(index, &self.ins[i].0))
    }

    /// The same, converted to the type computed in: see [`widen`].
    pub fn load_wide(&self, i: usize, index: &[Expr]) -> Expr {
        widen(self.load(i, index), self.ins[i].1)
    }

    /// Stores the element of result `i` at row-major index `flat`; `value` is of the carrier of the result's dtype or of the
    /// type computed in.
    pub fn store_flat(&mut self, i: usize, flat: Expr, value: Expr) {
        let (buf, index, value) = self.write(i, flat, value);
        self.k.store(buf, index, value);
    }

    /// Stores the element of result `i` at `index`.
    pub fn store(&mut self, i: usize, index: &[Expr], value: Expr) {
        let flat = flatten(index, &self.outs[i].0);
        self.store_flat(i, flat, value);
    }

    /// For [`tenon_kernel::Contract`]: buffer, index and value to store for an element of result `i`.
    pub fn write(&self, i: usize, flat: Expr, value: Expr) -> (Buf, Expr, Expr) {
        let value = narrow(value, &self.k, self.outs[i].1);
        (self.writers[i])(flat, value)
    }

    /// A loop over `0..n` whose iterations are independent; `f` writes its body, given the loop variable, and may read
    /// operands meanwhile.
    pub fn parfor(&mut self, name: &str, n: impl Into<Expr>, f: impl FnOnce(&mut Self, Expr)) {
        self.any_loop(name, Expr::int(0), n.into(), true, f);
    }

    /// The same over `lo..hi`, in order unless `parallel`.
    pub fn any_loop(&mut self, name: &str, lo: Expr, hi: Expr, parallel: bool, f: impl FnOnce(&mut Self, Expr)) {
        let var = self.k.fresh(name, tenon_kernel::Type::INDEX);
        self.k.open();
        f(self, Expr::Var(var));
        let body = self.k.close();
        self.k.push(tenon_kernel::Stmt::For { var, lo, hi, step: 1, parallel, body });
    }

    /// Adds `body` in independent loops of variables `vars`, made by [`LowerCx::nest`], over `dims`.
    pub fn push_nest(&mut self, vars: &[Var], dims: &[usize], body: Vec<tenon_kernel::Stmt>) {
        let nest = vars.iter().zip(dims).rev().fold(body, |body, (&var, &n)| vec![loop_over(var, n, true, body)]);
        nest.into_iter().for_each(|s| self.k.push(s));
    }

    /// Variables for a nest of loops over `0..n` for each of `dims`, which the caller makes; what reads operands meanwhile
    /// knows how far they go.
    pub fn nest(&mut self, name: &str, dims: &[usize]) -> Vec<Var> {
        let vars: Vec<Var> = (0..dims.len()).map(|i| self.k.fresh(&format!("{name}{i}"), Type::INDEX)).collect();
        self.ranges.borrow_mut().extend(vars.iter().zip(dims).map(|(v, &n)| (*v, (0, (n as i64 - 1).max(0)))));
        vars
    }

    /// `index` in canonical form, with what is known of the variables of loops.
    pub fn simplified(&self, index: Expr) -> Expr {
        simplify_index(index, &|v| self.ranges.borrow().get(&v).copied())
    }

    /// A buffer whose contents live only during the kernel.
    pub fn scratch(&mut self, name: &str, dtype: DType, len: usize) -> Buf {
        self.k.buffer(name, dtype, len, Access::Scratch)
    }
}

/// The type arithmetic is done in: `f32` for `f16` and smaller floats, a carrier that holds it for small integers, else the
/// dtype itself.
pub fn wide(dtype: DType) -> DType {
    if dtype == DType::F16 { DType::F32 } else { crate::narrow::wide(dtype) }
}

/// `e`, of the carrier of `dtype`, in the type arithmetic is done in.
pub fn widen(e: Expr, dtype: DType) -> Expr {
    if dtype == DType::F16 { e.cast(DType::F32) } else { crate::narrow::widen(e, dtype) }
}

/// `e`, of the type arithmetic is done in, in the carrier of `dtype`.
fn narrowed(e: Expr, dtype: DType) -> Expr {
    if dtype == DType::F16 { e.cast(DType::F16) } else { crate::narrow::narrow(e, dtype) }
}

/// The same for a value that may be of the carrier already.
fn narrow(e: Expr, k: &KernelBuilder, dtype: DType) -> Expr {
    // Where carrier and computed type are one, narrowing again changes nothing.
    if wide(dtype) != dtype && k.kernel().type_of(&e).elem == wide(dtype) { narrowed(e, dtype) } else { e }
}

/// Row-major strides of `dims`, in elements.
pub fn strides(dims: &[usize]) -> Vec<usize> {
    let mut s = vec![1; dims.len()];
    for i in (1..dims.len()).rev() {
        s[i - 1] = s[i] * dims[i];
    }
    s
}

/// The row-major index of `index` in `dims`.
pub fn flatten(index: &[Expr], dims: &[usize]) -> Expr {
    debug_assert_eq!(index.len(), dims.len());
    index.iter().zip(strides(dims)).fold(Expr::int(0), |sum, (i, s)| sum + i.clone() * s)
}

/// The index per axis of row-major index `flat` in `dims`; simplified away later where `flat` is affine.
pub fn unflatten(flat: &Expr, dims: &[usize]) -> Vec<Expr> {
    let s = strides(dims);
    dims.iter()
        .enumerate()
        .map(|(a, &n)| match n {
            1 => Expr::int(0),
            _ if a == 0 => flat.clone() / s[a],
            n => flat.clone() / s[a] % n,
        })
        .collect()
}

/// The index into an operand of extents `dims` that broadcasts to an output of extents `out` at `index`.
pub fn broadcast_index(index: &[Expr], out: &[usize], dims: &[usize]) -> Vec<Expr> {
    let skip = out.len() - dims.len();
    dims.iter().zip(&index[skip..]).map(|(&d, i)| if d == 1 { Expr::int(0) } else { i.clone() }).collect()
}

/// The element of a pointwise operator's result at `index` (per axis), from `load(operand, its flat index)`.
/// Operands and result are computed in the type that [`wide`] gives; the value has the carrier of the result's dtype.
pub fn pointwise_element(
    op: &Op,
    ins: &[Fact],
    out: &Fact,
    index: &[Expr],
    load: &dyn Fn(usize, Expr) -> Expr,
) -> Option<Expr> {
    let out_dims = out.dims()?;
    let mut args = vec![];
    for (i, f) in ins.iter().enumerate() {
        let dims = f.dims()?;
        args.push(load(i, flatten(&broadcast_index(index, &out_dims, &dims), &dims)));
    }
    let dtypes: Vec<DType> = ins.iter().map(|f| f.dtype).collect();
    pointwise_value(op, &dtypes, out.dtype, args)
}

/// A pointwise operator applied to elements `args`, in the carriers of the dtypes `ins`; the value is in that of `out`.
pub fn pointwise_value(op: &Op, ins: &[DType], out: DType, args: Vec<Expr>) -> Option<Expr> {
    let args: Vec<Expr> = args.into_iter().zip(ins).map(|(e, d)| widen(e, *d)).collect();
    let dtypes: Vec<DType> = ins.iter().map(|d| wide(*d)).collect();
    let value = op.scalar(&dtypes, wide(out), &args)?;
    Some(if wide(out) == out { value } else { narrowed(value, out) })
}

/// The element of a moving operator's result at `index`, from `load(flat index of operand 0)`.
pub fn move_element(op: &Op, ins: &[Fact], out: &Fact, index: &[Expr], load: &dyn Fn(Expr) -> Expr) -> Option<Expr> {
    let dims = ins[0].dims()?;
    let source = op.source(ins, out, index)?;
    let fill = Expr::Const(crate::narrow::carried(Scalar::of_f64(out.dtype, source.fill)));
    // An operand without elements has none to load, not even one that is then not selected.
    if source.inside.is_some() && dims.contains(&0) {
        return Some(fill);
    }
    let value = load(flatten(&source.index, &dims));
    Some(match source.inside {
        None => value,
        Some(cond) => cond.select(value, fill),
    })
}

/// Lowers any pointwise, view or moving operator: a nest of independent loops over the result.
pub fn lower_by_element(cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
    let (op, ins, out) = (cx.op, cx.in_facts(), cx.out_fact(0));
    let dims = cx.out_dims(0);
    let vars = cx.nest("i", &dims);
    let index: Vec<Expr> = vars.iter().map(|v| Expr::Var(*v)).collect();
    let value = match op.class() {
        OpClass::Pointwise => pointwise_element(op, &ins, &out, &index, &|i, at| cx.load_flat(i, at)),
        OpClass::Move => move_element(op, &ins, &out, &index, &|at| cx.load_flat(0, at)),
        OpClass::View => Some(cx.load_flat(0, flatten(&index, &dims))),
        OpClass::Kernel | OpClass::Control => None,
    }
    .ok_or_else(|| LowerError(format!("{} has no lowering for {}", op.name(), out)))?;
    let (buf, at, value) = cx.write(0, flatten(&index, &dims), value);
    cx.push_nest(&vars, &dims, vec![tenon_kernel::Stmt::Store { buf, index: at, value }]);
    Ok(())
}

/// Writes `fill` around the box of extents `inner` that starts at `before` in `buf`, of extents `to`: for every axis the
/// slabs before and after the box, within the box along the axes before it.
pub fn fill_border(k: &mut KernelBuilder, buf: Buf, to: &[usize], before: &[usize], inner: &[usize], fill: &Expr) {
    for axis in 0..to.len() {
        let after = before[axis] + inner[axis];
        for (from, until) in [(0, before[axis]), (after, to[axis])] {
            if from == until {
                continue;
            }
            // Per axis: where the slab starts and how far it goes.
            let range = |a: usize| match a.cmp(&axis) {
                std::cmp::Ordering::Less => (before[a], inner[a]),
                std::cmp::Ordering::Equal => (from, until - from),
                std::cmp::Ordering::Greater => (0, to[a]),
            };
            let extents: Vec<usize> = (0..to.len()).map(|a| range(a).1).collect();
            k.parfor_nest(&extents, |k, i| {
                let at: Vec<Expr> = i.iter().enumerate().map(|(a, v)| v.clone() + range(a).0).collect();
                k.store(buf, flatten(&at, to), fill.clone());
            });
        }
    }
}

/// `0 ≤ e < n` as a condition.
pub fn within(e: &Expr, n: usize) -> Expr {
    let lo = e.clone().compare(CmpOp::Ge, Expr::int(0));
    let hi = e.clone().compare(CmpOp::Lt, n.into());
    Expr::Binary(tenon_kernel::BinOp::And, Box::new([lo, hi]))
}
