//! What a kernel of one contraction makes, row by row, and how another one reads that.

use super::nest::Nest;
use tenon_base::DType;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Affine, Buf, BufferId, Contract, ContractDim, Expr, Kernel, Program, Stmt, Var};

/// A call of a kernel that ends with what makes its result.
#[derive(Clone, Debug)]
pub(super) struct Stage<'k> {
    pub(super) kernel: &'k Kernel,
    pub(super) args: &'k [BufferId],
    pub(super) work: Work<'k>,
    /// What it does before, with other buffers.
    pub(super) before: Vec<&'k Stmt>,
    /// Statements that fill the border of its result, and what with.
    pub(super) borders: Vec<&'k Stmt>,
    pub(super) border: Option<&'k Expr>,
}

/// What makes a stage's result.
#[derive(Clone, Debug)]
pub(super) enum Work<'k> {
    Contract(&'k Contract),
    /// Loops over its rows and what is in them, as poolings have. Nothing reads that in bands.
    Nest(Nest<'k>),
}

/// Rows that one stage makes and the next one reads: the elements of a buffer, `length` a row.
#[derive(Clone, Debug)]
pub(super) struct Hand {
    pub(super) buffer: BufferId,
    pub(super) length: i64,
    /// Bytes of an element.
    pub(super) size: usize,
    /// Rows above those that are computed.
    pub(super) top: i64,
    /// How many rows are computed, and by which loop.
    pub(super) height: i64,
    pub(super) made: Var,
    /// The first element of a row that is computed, and the one behind the last.
    pub(super) inside: (i64, i64),
    /// Whether there are rows that are not computed, but read.
    pub(super) bordered: bool,
    /// The reader's loop over its own rows; row `i` needs `window` rows from `first + i * step` on, of those that there are.
    pub(super) read: Var,
    pub(super) results: i64,
    pub(super) first: i64,
    pub(super) step: i64,
    pub(super) window: i64,
}

impl<'k> Stage<'k> {
    /// Of `kernel`; `None` where it does anything else in the end, or with its result.
    pub(super) fn of(kernel: &'k Kernel, args: &'k [BufferId]) -> Option<Stage<'k>> {
        let (last, rest) = kernel.body.split_last()?;
        let work = match last {
            Stmt::Contract(contract) => Work::Contract(contract),
            s => Work::Nest(Nest::of(s)?),
        };
        let out = work.out();
        let (mut before, mut borders, mut border) = (vec![], vec![], None);
        for s in rest {
            if !touches(s, out) {
                before.push(s);
                continue;
            }
            let value = filled_with(s)?;
            if border.is_some_and(|b| b != value) {
                return None;
            }
            border = Some(value);
            borders.push(s);
        }
        let only = kernel.buffers.iter().enumerate().all(|(i, b)| {
            !matches!(b.access, tenon_kernel::Access::Out | tenon_kernel::Access::InOut) || i == out.0 as usize
        });
        (only && kernel.parts.is_none()).then_some(Stage { kernel, args, work, before, borders, border })
    }

    /// The buffer that it fills.
    pub(super) fn result(&self) -> BufferId {
        self.args[self.work.out().0 as usize]
    }

    /// Multiply-adds, or for a nest elements that it loads, two of which take as long; and of what type.
    pub(super) fn operations(&self) -> (f64, DType) {
        match &self.work {
            Work::Contract(c) => {
                let products = c.dims.iter().chain(&c.reduce).map(|d| d.extent as f64).product();
                (products, self.kernel.type_of(&c.a).elem)
            }
            Work::Nest(n) => (n.loads(), self.kernel.buffer(n.out).dtype),
        }
    }

    /// The factor that reads `buf`, if nothing else does.
    fn factor(&self, c: &'k Contract, buf: Buf) -> Option<&'k Expr> {
        let mut factors = [&c.a, &c.b].into_iter();
        factors.find(|f| loaded(f).is_some_and(|(b, _)| b == buf)).filter(|_| loads_of(&self.kernel.body, buf) == 1)
    }

    /// The rows of `length` elements that it reads of `buf`.
    fn reads(&self, buf: Buf, length: i64) -> Option<Reads> {
        let c = match &self.work {
            Work::Contract(c) => *c,
            Work::Nest(n) => return n.reads(buf, length).filter(|_| loads_of(&self.kernel.body, buf) == 1),
        };
        let (_, index) = loaded(self.factor(c, buf)?)?;
        let index = Affine::of(index)?;
        let all = terms(&index, &[&c.dims, &c.reduce])?;
        let (across, along): (Vec<_>, Vec<_>) = all.into_iter().partition(|(c, ..)| *c >= length);
        if across.iter().any(|(c, ..)| c % length != 0) || last(index.base % length, &along)? >= length {
            return None;
        }
        let of_result = |v: Var| extent(&c.dims, v).is_some();
        let (results, window): (Vec<_>, Vec<_>) = across.into_iter().partition(|(_, _, v)| of_result(*v));
        let ([(step, results, row)], true) = (&results[..], window.len() < 2) else { return None };
        let window = window.first().map_or(1, |(c, n, _)| c / length * (n - 1) + 1);
        Some(Reads { row: *row, results: *results, first: index.base / length, step: step / length, window })
    }
}

impl Work<'_> {
    /// The parameter that it fills.
    pub(super) fn out(&self) -> Buf {
        match self {
            Work::Contract(c) => c.out,
            Work::Nest(n) => n.out,
        }
    }
}

/// Which rows of a buffer are read: for `row` of `results` those from `first + row * step` on, `window` of them at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Reads {
    pub(super) row: Var,
    pub(super) results: i64,
    pub(super) first: i64,
    pub(super) step: i64,
    pub(super) window: i64,
}

/// The buffer and index that a factor reads.
pub(super) fn loaded(factor: &Expr) -> Option<(Buf, &Expr)> {
    match factor {
        Expr::Cast(_, e) => loaded(e),
        Expr::Load { buf, index, .. } => Some((*buf, index)),
        _ => None,
    }
}

/// Places in `body` that load from `buf`.
pub(super) fn loads_of(body: &[Stmt], buf: Buf) -> usize {
    let mut loads = 0;
    visit_stmts(body, &mut |s| {
        s.exprs(&mut |e| e.visit(&mut |e| loads += usize::from(matches!(e, Expr::Load { buf: b, .. } if *b == buf))));
    });
    loads
}

fn extent(dims: &[ContractDim], v: Var) -> Option<i64> {
    dims.iter().find(|d| d.var == v).and_then(|d| i64::try_from(d.extent).ok())
}

fn touches(s: &Stmt, buf: Buf) -> bool {
    let mut written = false;
    visit_stmts(std::slice::from_ref(s), &mut |s| written |= s.written() == Some(buf));
    written || loads_of(std::slice::from_ref(s), buf) > 0
}

/// The constant that a nest of independent loops stores.
fn filled_with(s: &Stmt) -> Option<&Expr> {
    match s {
        Stmt::For { parallel: true, body, .. } => match &body[..] {
            [inner] => filled_with(inner),
            _ => None,
        },
        Stmt::Store { value: value @ Expr::Const(_), .. } => Some(value),
        _ => None,
    }
}

/// The terms of an index by loops of more than one iteration, as coefficient, iterations and variable; the largest first. `None` where one is
/// negative.
fn terms(a: &Affine, dims: &[&[ContractDim]]) -> Option<Vec<(i64, i64, Var)>> {
    let mut all = vec![];
    for (v, c) in &a.terms {
        let n = dims.iter().find_map(|d| extent(d, *v))?;
        if n > 1 {
            all.push((*c, n, *v));
        }
    }
    all.sort_unstable();
    all.reverse();
    (a.base >= 0 && all.iter().all(|(c, ..)| *c > 0)).then_some(all)
}

/// The last element that `terms` reach from element `from` of a row.
fn last(from: i64, terms: &[(i64, i64, Var)]) -> Option<i64> {
    terms.iter().try_fold(from, |sum, (c, n, _)| sum.checked_add(c.checked_mul(n - 1)?))
}

impl Hand {
    /// How `to` reads what `from` makes in `buffer`.
    pub(super) fn between(from: &Stage<'_>, to: &Stage<'_>, buffer: BufferId, program: &Program) -> Option<Hand> {
        let declared = program.buffer(buffer);
        let Work::Contract(contract) = from.work else { return None };
        let written = Affine::of(&contract.out_index)?;
        let made = terms(&written, &[&contract.dims])?;
        let (&(length, height, row), within) = made.split_first()?;
        let rows = i64::try_from(declared.len).ok()? / length;
        let (top, start) = (written.base / length, written.base % length);
        if rows * length != declared.len as i64 || top + height > rows || last(start, within)? >= length {
            return None;
        }
        // The elements of a row that are computed, without gaps.
        let mut dense = 1;
        for (c, n, _) in within.iter().rev() {
            if *c != dense {
                return None;
            }
            dense *= n;
        }
        let place = to.args.iter().position(|a| *a == buffer)?;
        let Reads { row: read, results, first, step, window } = to.reads(Buf(place as u32), length)?;
        let size = declared.dtype.size();
        let (made, inside, bordered) = (row, (start, start + dense), rows > height);
        Some(Hand { buffer, length, size, top, height, made, inside, bordered, read, results, first, step, window })
    }

    /// Rows that `results` results need together.
    pub(super) fn rows(&self, results: i64) -> i64 {
        (results - 1) * self.step + self.window
    }

    /// Rows above and below the computed ones that are read.
    pub(super) fn around(&self) -> (i64, i64) {
        let below = self.first + self.rows(self.results) - (self.top + self.height);
        ((self.top - self.first).max(0), below.max(0))
    }

    /// Rows of a band for `results` results, with room for what [`super::join`] computes beside them.
    pub(super) fn band(&self, results: i64) -> i64 {
        let (above, below) = self.around();
        self.rows(results) + above + below
    }

    /// Whether row `i` of the one is row `i` of the other, with nothing around.
    pub(super) fn is_plain(&self) -> bool {
        (self.step, self.window, self.results) == (1, 1, self.height) && self.first == self.top
    }

    /// All bytes of the buffer's computed rows.
    pub(super) fn bytes(&self) -> f64 {
        (self.length * self.height) as f64 * self.size as f64
    }
}
