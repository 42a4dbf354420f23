//! Transposes that sink towards the outputs until they meet their inverses. What puts channels last is a pass before
//! (`crate::layout`).
//!
//! Layout is part of a value's type: the two layouts of a value are two classes with transposes between them, and the
//! extraction pays for those that stay.

use super::{Rule, Why, ensure, rule};
use crate::egraph::matching::{Cx, Match};
use egg::Id;
use tenon_base::Fact;
use tenon_ir::{Op, OpClass, Operator};

/// The rules of this file.
pub(super) const RULES: &[Rule] =
    &[rule!("transpose-sinks", exact, "_@f(..xs)" => with sink, "f(T(x), T(y), c) → T(f'(x, y, T⁻¹(c)))")];

fn inverse(perm: &[usize]) -> Vec<usize> {
    let mut inv = vec![0; perm.len()];
    perm.iter().enumerate().for_each(|(i, &p)| inv[p] = i);
    inv
}

/// The permutations by which a class is transposed, with what is transposed.
fn transposed(cx: &Cx<'_>, x: Id) -> Vec<(Vec<usize>, Id)> {
    cx.nodes(x)
        .filter_map(|(op, args)| match op {
            Op::Transpose(t) if !t.perm.is_sorted() => Some((t.perm.clone(), cx.eg.find(args[0]))),
            _ => None,
        })
        .collect()
}

fn sink(cx: &mut Cx<'_>, m: &Match) -> Result<Id, Why> {
    let f = m.op("f").map(|f| cx.op(f).clone()).ok_or("no operator")?;
    ensure!(!matches!(f, Op::Transpose(_) | Op::Reshape(_)), "a move");
    let xs = m.list("xs").to_vec();
    // Views and constants aside, the first operand that is transposed says by what.
    let found = xs.iter().enumerate().filter(|(i, x)| f.permutes(*i) && !cx.is_constant(**x));
    let perm =
        found.flat_map(|(_, x)| transposed(cx, *x)).map(|(p, _)| p).next().ok_or("no operand is transposed")?;
    let facts: Vec<Fact> = xs.iter().map(|x| cx.fact(*x).cloned()).collect::<Result<_, _>>()?;
    let out = cx.dims(m.root)?;
    let class = f.class();
    let table: Vec<bool> = (0..xs.len()).map(|i| class != OpClass::Pointwise && !f.permutes(i)).collect();
    let fits = facts.iter().zip(&table).all(|(f, t)| *t || f.shape.rank() == perm.len());
    let new = match class {
        OpClass::Pointwise if out.len() == perm.len() => f.clone(),
        OpClass::Kernel | OpClass::Move if fits => {
            f.permuted(&perm, &facts).ok_or_else(|| Why::new(format!("{} has no permuted form", f.name())))?
        }
        _ => return Err("ranks differ".into()),
    };
    let (size, inv) = (out.iter().product::<usize>(), inverse(&perm));
    let mut args = vec![];
    for (x, table) in xs.iter().zip(table) {
        if table {
            args.push(*x);
            continue;
        }
        let same = transposed(cx, *x).into_iter().find(|(p, _)| *p == perm).map(|(_, inner)| inner);
        let moved = match same {
            Some(inner) => inner,
            // Constants are transposed when compiling, and small operands for little.
            None if cx.is_constant(*x) || cx.len(*x)? * 8 <= size => permuted(cx, *x, perm.len(), &inv)?,
            None => return Err("another large operand is not transposed alike".into()),
        };
        args.push(moved);
    }
    let y = cx.add(new, &args)?;
    cx.transpose(y, &perm)
}

/// `x`, given extents 1 in front up to `rank`, transposed by `perm`.
fn permuted(cx: &mut Cx<'_>, x: Id, rank: usize, perm: &[usize]) -> Result<Id, Why> {
    let dims = cx.dims(x)?;
    if dims.iter().product::<usize>() == 1 && dims.len() < rank {
        return Ok(x);
    }
    let mut wide = vec![1; rank - dims.len().min(rank)];
    wide.extend(dims);
    let x = cx.reshape(x, &wide)?;
    cx.transpose(x, perm)
}
