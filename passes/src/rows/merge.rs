//! One kernel of several, a block of rows at a time.

use super::form::{Form, Walk};
use std::collections::BTreeMap;
use tenon_kernel::simplify::simplify_kernel;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Access, Affine, Buf, BufferId, Contract, ContractDim, Expr, Kernel, Stmt, Tiles, Type, Var};

/// A kernel of a chain.
#[derive(Clone, Debug)]
pub(super) struct Member<'k> {
    pub(super) kernel: &'k Kernel,
    pub(super) args: &'k [BufferId],
    pub(super) form: Form,
    pub(super) walk: Walk,
}

/// A value that one member writes and the next one reads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) buffer: BufferId,
    /// Elements of a row.
    pub(super) length: usize,
    /// Bytes of an element.
    pub(super) size: usize,
}

/// How the rows are walked together.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    /// Extents and strides, in rows, of the loops around the blocks; outermost first.
    pub(super) outer: Vec<(usize, i64)>,
    /// Rows that lie within one iteration of those.
    pub(super) rows: usize,
    /// How many blocks there are of how many rows each.
    pub(super) blocks: Vec<(usize, usize)>,
}

impl Member<'_> {
    /// Whether every row of what it reads (parameter `x`) has been read for the last time before any of the same row of what it
    /// writes (`y`) is written: then the two may share their place.
    pub(super) fn shares_rows(&self, x: Buf, y: Buf) -> bool {
        if self.form.contract {
            return false;
        }
        let touches = |s: &Stmt| {
            let (mut reads, mut writes) = (false, false);
            visit_stmts(std::slice::from_ref(s), &mut |s| {
                writes |= matches!(s, Stmt::Store { buf, .. } if *buf == y);
                s.exprs(&mut |e| e.visit(&mut |e| reads |= matches!(e, Expr::Load { buf, .. } if *buf == x)));
            });
            (reads, writes)
        };
        let all: Vec<(bool, bool)> = self.row().iter().map(touches).collect();
        let last = all.iter().rposition(|t| t.0);
        let first = all.iter().position(|t| t.1);
        last.zip(first).is_some_and(|(last, first)| last < first)
    }

    /// What it does for one row, if it is no contraction.
    fn row(&self) -> &[Stmt] {
        let (mut body, mut left) = (&self.kernel.body[..], self.walk.len());
        while let [Stmt::For { var, body: inner, .. }] = body
            && (left > 0 || self.form.ones.contains(var))
        {
            left -= usize::from(!self.form.ones.contains(var));
            body = inner;
        }
        body
    }
}

/// One kernel that does what `members` do one after the other, and its arguments. Links that `shared` names lie in the place of
/// another one.
pub(super) fn merge(
    members: &[Member<'_>],
    links: &[Link],
    shared: &BTreeMap<BufferId, BufferId>,
    shape: &Shape,
) -> (Kernel, Vec<BufferId>) {
    let most = shape.most();
    let home = |id: BufferId| shared.get(&id).copied().unwrap_or(id);
    let block = |id: BufferId| links.iter().find(|l| l.buffer == id).map(|l| most * l.length);
    let of: Vec<(&Kernel, &[BufferId])> = members.iter().map(|m| (m.kernel, m.args)).collect();
    let mut kernel = Kernel { name: joined_name(&of), ..Kernel::default() };
    let (args, buffers) = parameters(&mut kernel, &of, &home, &block);
    let all: Vec<Embedded> =
        members.iter().zip(&buffers).map(|(m, b)| Embedded::new(m, b, links, &mut kernel)).collect();
    let outer: Vec<Var> = shape.outer.iter().map(|_| kernel.new_var("outer", Type::INDEX)).collect();
    let mut body = vec![];
    let mut first = 0;
    for &(count, rows) in &shape.blocks {
        let block = kernel.new_var("block", Type::INDEX);
        let from = Expr::Var(block) * rows + first;
        let inner = all.iter().map(|m| m.rows(&shape.outer, &outer, &from, rows)).collect();
        body.push(parfor(block, count, true, inner));
        first += count * rows;
    }
    for (var, (extent, _)) in outer.iter().zip(&shape.outer).rev() {
        body = vec![parfor(*var, *extent, true, body)];
    }
    kernel.body = body;
    let mut kernel = simplify_kernel(kernel);
    kernel.in_place = in_place(&of, &buffers);
    (kernel, args)
}

/// Adds parameters for `members`, kernels and their arguments: what they read, what the last one writes, blocks of what they hand each other
/// (`block`: elements) and other scratch buffers. Blocks lie where `home` says. Gives the arguments, and which parameter each of each member
/// has become.
pub(crate) fn parameters(
    kernel: &mut Kernel,
    members: &[(&Kernel, &[BufferId])],
    home: &dyn Fn(BufferId) -> BufferId,
    block: &dyn Fn(BufferId) -> Option<usize>,
) -> (Vec<BufferId>, Vec<Vec<Buf>>) {
    let mut known: BTreeMap<BufferId, Buf> = BTreeMap::new();
    let mut args = vec![];
    let mut buffers: Vec<Vec<Buf>> = members.iter().map(|(_, args)| vec![Buf(0); args.len()]).collect();
    for turn in 0..3 {
        for ((member, of), to) in members.iter().zip(&mut buffers) {
            for ((id, b), to) in of.iter().zip(&member.buffers).zip(to) {
                let handed = block(*id);
                let own = match (b.access, handed) {
                    (_, Some(_)) | (Access::Scratch, _) => 2,
                    (Access::In, None) => 0,
                    (Access::Out | Access::InOut, None) => 1,
                };
                if own != turn {
                    continue;
                }
                let id = home(*id);
                let (name, len, access) = match handed {
                    Some(len) => ("rows", len, Access::Scratch),
                    None => (b.name.as_str(), b.len, b.access),
                };
                *to = *known.entry(id).or_insert_with(|| {
                    args.push(id);
                    kernel.new_buffer(name, b.dtype, len, access)
                });
            }
        }
    }
    (args, buffers)
}

/// The name of a kernel that does what `members` do: theirs, without their numbers.
pub(crate) fn joined_name(members: &[(&Kernel, &[BufferId])]) -> String {
    let stem = |k: &Kernel| k.name.rsplit_once('_').map_or(k.name.as_str(), |(s, _)| s).to_string();
    members.iter().map(|(k, _)| stem(k)).collect::<Vec<String>>().join("_")
}

/// What the last member may do in place it still may, if no other one reads that. `buffers` is what parameters have become.
pub(crate) fn in_place(members: &[(&Kernel, &[BufferId])], buffers: &[Vec<Buf>]) -> Vec<(Buf, Buf)> {
    let Some(((last, args), others)) = members.split_last() else { return vec![] };
    let elsewhere = |id: &BufferId| others.iter().any(|(_, args)| args.contains(id));
    let at = |b: Buf| buffers[others.len()][b.0 as usize];
    let pairs = last.in_place.iter().filter(|(x, _)| !elsewhere(&args[x.0 as usize]));
    pairs.map(|(x, y)| (at(*x), at(*y))).filter(|(x, y)| x != y).collect()
}

/// A member whose variables and buffers are those of the new kernel.
struct Embedded {
    /// The contraction, or what it does for one row.
    body: Vec<Stmt>,
    /// The loops over rows: variable, iterations, stride in rows.
    walk: Vec<(Var, usize, i64)>,
    /// Loops of one iteration.
    ones: Vec<Var>,
    /// The row within a block.
    row: Var,
    /// Blocks of links, and the elements of their rows.
    places: BTreeMap<Buf, i64>,
    /// Whether it writes rows where it has read them.
    shares: bool,
}

impl Embedded {
    fn new(m: &Member<'_>, buffers: &[Buf], links: &[Link], kernel: &mut Kernel) -> Embedded {
        let vars: Vec<Var> = m.kernel.vars.iter().map(|v| kernel.new_var(&v.name, v.ty)).collect();
        let (var, buf) = (|v: Var| vars[v.0 as usize], |b: Buf| buffers[b.0 as usize]);
        let from = if m.form.contract { &m.kernel.body[..] } else { m.row() };
        let body = from.iter().map(|s| renamed(s.clone(), &var, &buf)).collect();
        let walk = m.walk.iter().map(|(v, s)| (var(*v), m.form.extent(*v).unwrap_or(1), *s)).collect();
        let ones = m.form.ones.iter().map(|v| var(*v)).collect();
        let linked: Vec<(Buf, i64)> = m
            .args
            .iter()
            .zip(buffers)
            .filter_map(|(id, b)| Some((*b, links.iter().find(|l| l.buffer == *id)?.length as i64)))
            .collect();
        let places: BTreeMap<Buf, i64> = linked.iter().copied().collect();
        let shares = places.len() < linked.len();
        Embedded { body, walk, ones, row: kernel.new_var("row", Type::INDEX), places, shares }
    }

    /// What it does for `rows` rows from row `from` of the iteration of loops `around`, which are called `outer`.
    fn rows(&self, around: &[(usize, i64)], outer: &[Var], from: &Expr, rows: usize) -> Stmt {
        let mut at: Vec<(Var, Expr)> = self.ones.iter().map(|v| (*v, Expr::int(0))).collect();
        for (v, extent, stride) in &self.walk {
            let inside = |s: i64| s >= *stride && s < stride * *extent as i64;
            let parts = around.iter().zip(outer).filter(|((_, s), _)| inside(*s));
            let e = parts.fold(Expr::int(0), |e, ((_, s), o)| e + Expr::Var(*o) * (s / stride));
            at.push((*v, if *stride == 1 { e + from.clone() + Expr::Var(self.row) } else { e }));
        }
        match &self.body[..] {
            [Stmt::Contract(c)] => {
                let mut c = self.contract((**c).clone(), &at);
                c.dims.retain(|d| !at.iter().any(|(v, _)| *v == d.var));
                c.dims.insert(0, ContractDim { var: self.row, extent: rows });
                Stmt::Contract(Box::new(c))
            }
            body => {
                let body = body.iter().map(|s| self.stmt(s.clone(), &at)).collect();
                // An iteration that writes over the row it has read depends on who wrote that.
                parfor(self.row, rows, !self.shares, body)
            }
        }
    }

    /// `s` with links in their blocks, and loops over rows where they are.
    fn stmt(&self, s: Stmt, at: &[(Var, Expr)]) -> Stmt {
        let all = |body: Vec<Stmt>| body.into_iter().map(|s| self.stmt(s, at)).collect();
        match s {
            Stmt::Store { buf, index, value } => {
                Stmt::Store { buf, index: self.place(buf, index, at), value: self.at_row(value, at) }
            }
            Stmt::For { var, lo, hi, step, parallel, body } => {
                let (lo, hi) = (self.at_row(lo, at), self.at_row(hi, at));
                Stmt::For { var, lo, hi, step, parallel, body: all(body) }
            }
            Stmt::If { cond, then, otherwise } => {
                Stmt::If { cond: self.at_row(cond, at), then: all(then), otherwise: all(otherwise) }
            }
            Stmt::While { cond, body } => Stmt::While { cond: self.at_row(cond, at), body: all(body) },
            Stmt::Contract(c) => Stmt::Contract(Box::new(self.contract(*c, at))),
            s => s.map_exprs(&mut |e| self.at_row(e, at)),
        }
    }

    fn contract(&self, c: Contract, at: &[(Var, Expr)]) -> Contract {
        let Contract { dims, reduce, acc, init, a, b, out, out_index, value } = c;
        let out_index = self.place(out, out_index, at);
        let [init, a, b, value] = [init, a, b, value].map(|e| self.at_row(e, at));
        Contract { dims, reduce, acc, init, a, b, out, out_index, value }
    }

    /// Where element `index` of `buf` is now.
    fn place(&self, buf: Buf, index: Expr, at: &[(Var, Expr)]) -> Expr {
        match self.places.get(&buf) {
            Some(length) => self.in_block(&index, *length),
            None => self.at_row(index, at),
        }
    }

    /// `index`, an element of a link, in its block.
    fn in_block(&self, index: &Expr, length: i64) -> Expr {
        let Some(mut a) = Affine::of(index) else { return index.clone() };
        let walked = |v: &Var| self.walk.iter().any(|w| w.0 == *v) || self.ones.contains(v);
        a.terms.retain(|v, _| !walked(v));
        Expr::Var(self.row) * length + a.to_expr()
    }

    /// `e` with loads from links in their blocks, and loops over rows where they are.
    fn at_row(&self, e: Expr, at: &[(Var, Expr)]) -> Expr {
        let e = e.rewrite(&mut |e| match e {
            Expr::Load { buf, index, lanes } => {
                let index = match self.places.get(&buf) {
                    Some(length) => Box::new(self.in_block(&index, *length)),
                    None => index,
                };
                Expr::Load { buf, index, lanes }
            }
            e => e,
        });
        at.iter().fold(e, |e, (v, by)| e.substitute(*v, by))
    }
}

/// `s` with other variables and buffers.
pub(crate) fn renamed(s: Stmt, var: &dyn Fn(Var) -> Var, buf: &dyn Fn(Buf) -> Buf) -> Stmt {
    let s = s.map_exprs(&mut |e| {
        e.rewrite(&mut |e| match e {
            Expr::Var(v) => Expr::Var(var(v)),
            Expr::Load { buf: b, index, lanes } => Expr::Load { buf: buf(b), index, lanes },
            e => e,
        })
    });
    names(s, var, buf)
}

/// The same for what statements define and write.
fn names(s: Stmt, to: &dyn Fn(Var) -> Var, place: &dyn Fn(Buf) -> Buf) -> Stmt {
    let all = |body: Vec<Stmt>| body.into_iter().map(|s| names(s, to, place)).collect();
    let dims = |dims: Vec<ContractDim>| dims.into_iter().map(|d| ContractDim { var: to(d.var), ..d }).collect();
    match s {
        Stmt::Let { var, value } => Stmt::Let { var: to(var), value },
        Stmt::Declare { var, value } => Stmt::Declare { var: to(var), value },
        Stmt::Set { var, value } => Stmt::Set { var: to(var), value },
        Stmt::Store { buf, index, value } => Stmt::Store { buf: place(buf), index, value },
        Stmt::Prefetch { buf, index } => Stmt::Prefetch { buf: place(buf), index },
        Stmt::For { var, lo, hi, step, parallel, body } => {
            Stmt::For { var: to(var), lo, hi, step, parallel, body: all(body) }
        }
        Stmt::If { cond, then, otherwise } => Stmt::If { cond, then: all(then), otherwise: all(otherwise) },
        Stmt::While { cond, body } => Stmt::While { cond, body: all(body) },
        Stmt::Contract(c) => {
            let Contract { dims: d, reduce, acc, init, a, b, out, out_index, value } = *c;
            let (d, reduce, acc, out) = (dims(d), dims(reduce), to(acc), place(out));
            Stmt::Contract(Box::new(Contract { dims: d, reduce, acc, init, a, b, out, out_index, value }))
        }
        Stmt::Tiles(t) => {
            let (out, reduce) = (place(t.out), dims(t.reduce));
            Stmt::Tiles(Box::new(Tiles { out, reduce, ..*t }))
        }
    }
}

pub(crate) fn parfor(var: Var, n: usize, parallel: bool, body: Vec<Stmt>) -> Stmt {
    Stmt::For { var, lo: Expr::int(0), hi: n.into(), step: 1, parallel, body }
}
