//! One kernel of several, a band of rows at a time.

use super::nest::Nest;
use super::stage::{Hand, Stage, Work, loaded};
use crate::rows::merge::{in_place, joined_name, parameters, parfor, renamed};
use tenon_kernel::simplify::simplify_kernel;
use tenon_kernel::{Affine, Buf, BufferId, Contract, Expr, Kernel, Stmt, Type, Var};

/// What `stages` do one after the other, in one kernel, and its arguments; `hands[i]` is between stage `i` and the next. The last stage's rows are
/// made in `blocks` (how many of how many rows).
///
/// A band holds the rows that a block needs. Its first rows are room: where a block's rows reach beyond those that are computed, the computed
/// ones nearest to them are computed all the same, as many as elsewhere, so the loops have the same extents for all blocks; what lies beyond
/// is the border.
pub(super) fn join(stages: &[Stage<'_>], hands: &[Hand], blocks: &[(usize, usize)]) -> (Kernel, Vec<BufferId>) {
    let most = blocks.iter().map(|(_, rows)| *rows).max().unwrap_or(1) as i64;
    let members: Vec<(&Kernel, &[BufferId])> = stages.iter().map(|s| (s.kernel, s.args)).collect();
    let mut kernel = Kernel { name: joined_name(&members), ..Kernel::default() };
    let band = |id: BufferId| {
        let hand = hands.iter().find(|h| h.buffer == id)?;
        usize::try_from(hand.band(most) * hand.length).ok()
    };
    let (args, buffers) = parameters(&mut kernel, &members, &|id| id, &band);
    let into = std::iter::once(None).chain(hands.iter().map(Some));
    let embedded: Vec<Embedded> =
        stages.iter().zip(&buffers).zip(into).map(|((s, b), h)| Embedded::new(s, b, h, &mut kernel)).collect();
    let mut body: Vec<Stmt> = embedded.iter().flat_map(|e| e.before.clone()).collect();
    // The border of the result is filled as before.
    body.extend(embedded.last().into_iter().flat_map(|e| e.borders.clone()));
    let mut first = 0;
    for &(count, rows) in blocks {
        let block = kernel.new_var("block", Type::INDEX);
        let from = Expr::Var(block) * rows + first;
        let mut inner = vec![];
        let mut into = None;
        for (i, e) in embedded.iter().enumerate() {
            let rows = Block { rows: rows as i64, from: &from };
            inner.extend(e.block(into, hands.get(i), &rows, &mut kernel));
            into = hands.get(i);
        }
        body.push(parfor(block, count, true, inner));
        first += count * rows;
    }
    kernel.body = body;
    let mut kernel = simplify_kernel(kernel);
    kernel.in_place = in_place(&members, &buffers);
    (kernel, args)
}

/// Rows of the last stage's result that are made together.
struct Block<'e> {
    rows: i64,
    /// The first of them.
    from: &'e Expr,
}

/// A stage in the new kernel's terms.
struct Embedded {
    work: Made,
    before: Vec<Stmt>,
    borders: Vec<Stmt>,
    border: Option<Expr>,
    vars: Vec<Var>,
    /// The band that it reads.
    reads: Option<Buf>,
}

/// What makes its result.
enum Made {
    Contract(Contract),
    /// What is done for a row, and loops of one iteration around that.
    Nest {
        body: Vec<Stmt>,
        ones: Vec<Var>,
    },
}

impl Embedded {
    fn new(s: &Stage<'_>, buffers: &[Buf], into: Option<&Hand>, kernel: &mut Kernel) -> Embedded {
        let place = into.and_then(|h| s.args.iter().position(|a| *a == h.buffer));
        let reads = place.map(|i| buffers[i]);
        let vars: Vec<Var> = s.kernel.vars.iter().map(|v| kernel.new_var(&v.name, v.ty)).collect();
        let (var, buf) = (|v: Var| vars[v.0 as usize], |b: Buf| buffers[b.0 as usize]);
        let all = |from: &[&Stmt]| from.iter().map(|s| renamed((*s).clone(), &var, &buf)).collect();
        let work = match &s.work {
            Work::Contract(contract) => match renamed(Stmt::Contract(Box::new((*contract).clone())), &var, &buf) {
                Stmt::Contract(c) => Made::Contract(*c),
                _ => Made::Contract((*contract).clone()),
            },
            Work::Nest(Nest { body, ones, .. }) => {
                let body = body.iter().map(|s| renamed(s.clone(), &var, &buf)).collect();
                Made::Nest { body, ones: ones.iter().map(|v| var(*v)).collect() }
            }
        };
        Embedded { work, before: all(&s.before), borders: all(&s.borders), border: s.border.cloned(), vars, reads }
    }

    fn var(&self, v: Var) -> Var {
        self.vars[v.0 as usize]
    }

    /// Makes the rows of a block: what `into` says that it reads is a band, and so is what `out` says that it makes.
    fn block(&self, into: Option<&Hand>, out: Option<&Hand>, block: &Block<'_>, kernel: &mut Kernel) -> Vec<Stmt> {
        let whole = match (&self.work, into) {
            (Made::Contract(c), _) => c,
            (Made::Nest { body, ones }, Some(into)) => return vec![self.nest(body, ones, into, block)],
            (Made::Nest { .. }, None) => return vec![],
        };
        let mut c = whole.clone();
        let mut made = vec![];
        match (into, out) {
            (None, Some(out)) => made = self.first(&mut c, whole, out, block, kernel),
            (Some(into), out) => {
                let row = self.var(into.read);
                rows(&mut c, row, block.rows, block.from);
                if let Some(out) = out {
                    c.out_index = in_band(&whole.out_index, |a| a.base %= out.length);
                }
                // What it reads lies behind the room of the band.
                let room = into.around().1;
                for (f, whole) in [(&mut c.a, &whole.a), (&mut c.b, &whole.b)] {
                    if loaded(whole).is_some_and(|(b, _)| Some(b) == self.reads) {
                        *f = with_index(whole, &mut |index| {
                            in_band(index, |a| a.base += (room - into.first) * into.length)
                        });
                    }
                }
            }
            (None, None) => {}
        }
        made.push(Stmt::Contract(Box::new(c)));
        made
    }

    /// The rows of a nest, which reads a band.
    fn nest(&self, body: &[Stmt], ones: &[Var], into: &Hand, block: &Block<'_>) -> Stmt {
        let row = self.var(into.read);
        let at = block.from.clone() + Expr::Var(row);
        // Its own rows count from the beginning of the image, and so do those that it reads; the band begins with its room.
        let room = into.around().1;
        let begins = block.from.clone() * (into.step * into.length) + (into.first - room) * into.length;
        let moved = |e: Expr| {
            let e = ones.iter().fold(e.substitute(row, &at), |e, v| e.substitute(*v, &Expr::int(0)));
            e.rewrite(&mut |e| match e {
                Expr::Load { buf, index, lanes } if Some(buf) == self.reads => {
                    Expr::Load { buf, index: Box::new(*index - begins.clone()), lanes }
                }
                e => e,
            })
        };
        let body = body.iter().map(|s| s.clone().map_exprs(&mut |e| moved(e))).collect();
        parfor(row, usize::try_from(block.rows).unwrap_or(0), true, body)
    }

    /// The rows of the first stage, which makes `whole`, that a block needs, with what is around them.
    fn first(
        &self,
        c: &mut Contract,
        whole: &Contract,
        out: &Hand,
        block: &Block<'_>,
        kernel: &mut Kernel,
    ) -> Vec<Stmt> {
        let (n, length) = (out.rows(block.rows), out.length);
        let (above, below) = out.around();
        let row = self.var(out.made);
        // The first row that is needed, counted from the first one that is computed.
        let needed = block.from.clone() * out.step + (out.first - out.top);
        let mut done = vec![];
        let (from, to) = if above + below == 0 {
            (needed, Expr::int(0))
        } else {
            let mut bind = |name: &str, value: Expr| {
                let var = kernel.new_var(name, Type::INDEX);
                done.push(Stmt::Let { var, value });
                Expr::Var(var)
            };
            let from = bind("from", needed.clone().clamp(0, out.height - n));
            let to = bind("to", (from.clone() - needed + below).clamp(0, above + below));
            (from, to)
        };
        if let Some(value) = &self.border {
            let mut fill = |rows: (Expr, Expr), elements: (i64, i64)| {
                let (r, i) = (kernel.new_var("row", Type::INDEX), kernel.new_var("i", Type::INDEX));
                let index = Expr::Var(r) * length + Expr::Var(i);
                let store = Stmt::Store { buf: c.out, index, value: value.clone() };
                let of = |var: Var, lo: Expr, hi: Expr, body: Vec<Stmt>| Stmt::For {
                    var,
                    lo,
                    hi,
                    step: 1,
                    parallel: true,
                    body,
                };
                let along = of(i, Expr::int(elements.0), Expr::int(elements.1), vec![store]);
                done.push(of(r, rows.0, rows.1, vec![along]));
            };
            let window = || (Expr::int(below), Expr::int(below + n));
            for columns in [(0, out.inside.0), (out.inside.1, length)] {
                if columns.0 < columns.1 {
                    fill(window(), columns);
                }
            }
            if above > 0 {
                fill((Expr::int(below), to.clone()), (0, length));
            }
            if below > 0 {
                fill((to.clone() + n, Expr::int(below + n)), (0, length));
            }
        }
        rows(c, row, n, &from);
        c.out_index = in_band(&whole.out_index, |a| a.base %= length) + to * length;
        done
    }
}

/// `c` for `n` iterations of its loop `row`, from `from` on.
fn rows(c: &mut Contract, row: Var, n: i64, from: &Expr) {
    let by = from.clone() + Expr::Var(row);
    for e in [&mut c.a, &mut c.b, &mut c.init, &mut c.value, &mut c.out_index] {
        *e = std::mem::replace(e, Expr::int(0)).substitute(row, &by);
    }
    c.dims.iter_mut().filter(|d| d.var == row).for_each(|d| d.extent = n.unsigned_abs() as usize);
}

/// An affine index that `change` moves.
fn in_band(index: &Expr, change: impl FnOnce(&mut Affine)) -> Expr {
    let Some(mut a) = Affine::of(index) else { return index.clone() };
    change(&mut a);
    a.to_expr()
}

/// A factor with another index.
fn with_index(factor: &Expr, index: &mut dyn FnMut(&Expr) -> Expr) -> Expr {
    match factor {
        Expr::Cast(d, e) => with_index(e, index).cast(*d),
        Expr::Load { buf, index: i, lanes } => Expr::Load { buf: *buf, index: Box::new(index(i)), lanes: *lanes },
        e => e.clone(),
    }
}
