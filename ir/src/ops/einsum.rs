//! Einsum: products of operands summed over named axes. ONNX: [Einsum](https://onnx.ai/onnx/operators/onnx__Einsum.html) (12).
//!
//! Axes that only one operand has and the result has not are summed at once. Operands are then taken together two by two, from
//! the left: axes of both that are still needed are the batch of a matrix product, those that are not are its sum.

use super::matmul::MatMul;
use super::nearest::Nearest;
use super::reduce::{Kind, Reduce};
use super::transpose::Transpose;
use super::util::{apply, reshape};
use crate::ops::*;
use tenon_base::Shape;

/// The axes that an ellipsis stands for are labelled from the last one on, beginning with this.
const ELLIPSIS: u32 = 0xE000;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![OnnxName { domain: "", name: "Einsum", versions: &[12] }]
}

/// A value with a label for every axis.
#[derive(Clone)]
struct Term {
    value: ValueId,
    labels: Vec<char>,
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let equation: String = node.str("equation", "")?.chars().filter(|c| !c.is_whitespace()).collect();
    let operands = node.all_inputs()?;
    let (left, right) = match equation.split_once("->") {
        Some((l, r)) => (l, Some(r)),
        None => (equation.as_str(), None),
    };
    let texts: Vec<&str> = left.split(',').collect();
    if texts.len() != operands.len() || operands.is_empty() {
        return Err(ImportError::new(format!("{equation:?} has {} terms, the node {}", texts.len(), operands.len())));
    }
    let mut terms = vec![];
    for (text, &value) in texts.iter().zip(&operands) {
        let labels = labels(text, Some(cx.rank(value))).ok_or_else(|| {
            ImportError::new(format!("term {text:?} of {equation:?} does not fit an operand of {}", cx.fact(value)))
        })?;
        terms.push(Term { value, labels });
    }
    let output = match right {
        Some(text) => {
            // The ellipsis of the result stands for as many axes as the longest of the operands.
            let axes = terms.iter().map(|t| t.labels.iter().filter(|l| is_ellipsis(**l)).count()).max().unwrap_or(0);
            let named = text.replace("...", "").chars().count();
            let rank = if text.contains("...") { named + axes } else { named };
            let known = |l: &char| terms.iter().any(|t| t.labels.contains(l));
            labels(text, Some(rank))
                .filter(|all| all.iter().all(known) && (1..all.len()).all(|i| !all[..i].contains(&all[i])))
                .ok_or_else(|| {
                    ImportError::new(format!("{text:?} of {equation:?}: expected labels of the operands, each once"))
                })?
        }
        None => implicit_output(&terms),
    };
    for i in 0..terms.len() {
        terms[i] = without_ones(cx, &terms, i)?;
    }
    let mut terms = terms.into_iter();
    let first = terms.next().ok_or_else(|| ImportError::new("expected at least one operand, found none"))?;
    let rest: Vec<Term> = terms.collect();
    let mut acc = first;
    for (i, next) in std::iter::once(None).chain(rest.iter().map(Some)).enumerate() {
        let later: Vec<char> = rest[i..].iter().flat_map(|t| t.labels.iter().copied()).chain(output.iter().copied()).collect();
        if let Some(next) = next {
            // What neither the other operand nor anything later has is summed before the product.
            let mut needed = later.clone();
            needed.extend(&acc.labels);
            let next = simplify(cx, next.clone(), &needed)?;
            let mut needed = later.clone();
            needed.extend(&next.labels);
            acc = simplify(cx, acc, &needed)?;
            acc = combine(cx, acc, next, &later)?;
        } else {
            // The next operand's labels are in `later`.
            acc = simplify(cx, acc, &later)?;
        }
    }
    let acc = simplify(cx, acc, &output)?;
    Ok(vec![arrange(cx, &acc, &output)?])
}

/// Term `i` without the axes of one element that are broadcast: another term has them longer.
fn without_ones(cx: &mut Importer<'_>, terms: &[Term], i: usize) -> Result<Term, ImportError> {
    let term = &terms[i];
    let dims = cx.shape(term.value).0.clone();
    let one = Dim::Const(1);
    let longer = |label: char| {
        terms.iter().any(|t| t.labels.iter().zip(&cx.shape(t.value).0).any(|(l, d)| *l == label && *d != one))
    };
    let kept: Vec<usize> = (0..dims.len()).filter(|&a| dims[a] != one || !longer(term.labels[a])).collect();
    let to = Shape(kept.iter().map(|&a| dims[a].clone()).collect());
    let labels = kept.iter().map(|&a| term.labels[a]).collect();
    Ok(Term { value: reshape(cx, term.value, to)?, labels })
}

fn is_ellipsis(label: char) -> bool {
    label as u32 >= ELLIPSIS
}

/// The labels of a term, its ellipsis standing for what is left of `rank` axes.
fn labels(text: &str, rank: Option<usize>) -> Option<Vec<char>> {
    let plain = |s: &str| s.chars().all(|c| c.is_ascii_alphabetic()).then(|| s.chars().collect::<Vec<char>>());
    let Some((before, after)) = text.split_once("...") else {
        return plain(text).filter(|l| rank.is_none_or(|r| r == l.len()));
    };
    let (mut all, after) = (plain(before)?, plain(after)?);
    let hidden = rank?.checked_sub(all.len() + after.len())?;
    for i in (0..hidden).rev() {
        all.push(char::from_u32(ELLIPSIS + i as u32)?);
    }
    all.extend(after);
    Some(all)
}

/// The ellipsis, then the labels that occur once, in alphabetical order.
fn implicit_output(terms: &[Term]) -> Vec<char> {
    let all: Vec<char> = terms.iter().flat_map(|t| t.labels.iter().copied()).collect();
    let mut hidden: Vec<char> = all.iter().copied().filter(|l| is_ellipsis(*l)).collect();
    hidden.sort_unstable_by(|a, b| b.cmp(a));
    hidden.dedup();
    let once = |l: &char| !is_ellipsis(*l) && all.iter().filter(|o| *o == l).count() == 1;
    let mut named: Vec<char> = all.iter().copied().filter(once).collect();
    named.sort_unstable();
    hidden.extend(named);
    hidden
}

/// Takes the diagonal of axes with one label, and sums over those that are not `needed`.
fn simplify(cx: &mut Importer<'_>, mut t: Term, needed: &[char]) -> Result<Term, ImportError> {
    while let Some((i, j)) = repeated(&t.labels) {
        t = diagonal(cx, t, i, j)?;
    }
    let axes: Vec<usize> = (0..t.labels.len()).filter(|&a| !needed.contains(&t.labels[a])).collect();
    if axes.is_empty() {
        return Ok(t);
    }
    let sum = cx.op(Reduce { kind: Kind::Sum, axes: axes.clone() }, &[t.value])?;
    let keep = |a: &usize| !axes.contains(a);
    let dims = cx.shape(t.value).0.clone();
    let to = (0..dims.len()).filter(keep).map(|a| dims[a].clone()).collect();
    let labels = (0..dims.len()).filter(keep).map(|a| t.labels[a]).collect();
    Ok(Term { value: reshape(cx, sum, Shape(to))?, labels })
}

fn repeated(labels: &[char]) -> Option<(usize, usize)> {
    (0..labels.len()).find_map(|j| labels[..j].iter().position(|l| *l == labels[j]).map(|i| (i, j)))
}

/// Axes `i` and `j` become one, at the end.
fn diagonal(cx: &mut Importer<'_>, t: Term, i: usize, j: usize) -> Result<Term, ImportError> {
    let dims = cx.shape(t.value).0.clone();
    let n = match (dims[i].as_usize(), dims[j].as_usize()) {
        (Some(a), Some(b)) if a == b => a,
        _ => {
            let (label, a, b) = (t.labels[i], &dims[i], &dims[j]);
            return Err(ImportError::new(format!("label {label}: expected equal, known extents, found {a} and {b}")));
        }
    };
    let mut order: Vec<usize> = (0..dims.len()).filter(|a| *a != i && *a != j).collect();
    let mut labels: Vec<char> = order.iter().map(|&a| t.labels[a]).collect();
    let mut to: Vec<Dim> = order.iter().map(|&a| dims[a].clone()).collect();
    order.extend([i, j]);
    let value = permute(cx, t.value, order)?;
    to.push(Dim::from(n * n));
    let value = reshape(cx, value, Shape(to.clone()))?;
    labels.push(t.labels[i]);
    let every = Nearest { axes: vec![to.len() - 1], to: vec![n], mul: vec![n + 1], add: vec![0], div: vec![1] };
    Ok(Term { value: cx.op(every, &[value])?, labels })
}

fn permute(cx: &mut Importer<'_>, v: ValueId, perm: Vec<usize>) -> Result<ValueId, ImportError> {
    if perm.is_sorted() { Ok(v) } else { cx.op(Transpose { perm }, &[v]) }
}

/// `t` with its axes in the order of `labels`, all of which it has.
fn arrange(cx: &mut Importer<'_>, t: &Term, labels: &[char]) -> Result<ValueId, ImportError> {
    let find = |l: &char| t.labels.iter().position(|o| o == l);
    let perm: Option<Vec<usize>> = labels.iter().map(find).collect();
    let perm = perm.filter(|p| p.len() == t.labels.len());
    permute(cx, t.value, perm.ok_or_else(|| ImportError::new("the labels of the equation do not fit each other"))?)
}

/// The product of two terms, summed over their common labels that are not needed later.
fn combine(cx: &mut Importer<'_>, a: Term, b: Term, later: &[char]) -> Result<Term, ImportError> {
    let pick = |t: &Term, f: &dyn Fn(char) -> bool| -> Vec<char> { t.labels.iter().copied().filter(|l| f(*l)).collect() };
    let batch = pick(&a, &|l| b.labels.contains(&l) && later.contains(&l));
    let summed = pick(&a, &|l| b.labels.contains(&l) && !later.contains(&l));
    let left = pick(&a, &|l| !b.labels.contains(&l));
    let right = pick(&b, &|l| !a.labels.contains(&l));
    let extents = |cx: &Importer<'_>, t: &Term, labels: &[char]| -> Vec<Dim> {
        let of = |l: &char| t.labels.iter().position(|o| o == l).map(|i| cx.shape(t.value).0[i].clone());
        labels.iter().filter_map(of).collect()
    };
    let (batch_a, batch_b) = (extents(cx, &a, &batch), extents(cx, &b, &batch));
    let (left_dims, right_dims) = (extents(cx, &a, &left), extents(cx, &b, &right));
    let labels = [&batch[..], &left, &right].concat();
    if summed.is_empty() {
        // Nothing is summed: a product by broadcasting, the left operand as it is.
        let has = |l: &char| b.labels.contains(l);
        let common: Vec<char> = a.labels.iter().copied().filter(has).collect();
        let of_a = [cx.shape(a.value).0.clone(), vec![Dim::Const(1); right.len()]].concat();
        let x = reshape(cx, a.value, Shape(of_a))?;
        let mut dims = extents(cx, &b, &common).into_iter();
        let mut of_b: Vec<Dim> =
            a.labels.iter().filter_map(|l| if has(l) { dims.next() } else { Some(Dim::Const(1)) }).collect();
        of_b.extend(right_dims);
        let y = arrange(cx, &b, &[&common[..], &right].concat())?;
        let y = reshape(cx, y, Shape(of_b))?;
        return Ok(Term { value: apply(cx, "mul", &[x, y])?, labels: [&a.labels[..], &right].concat() });
    }
    let product = |dims: &[Dim]| Shape(dims.to_vec()).numel();
    let (m, n) = (product(&left_dims), product(&right_dims));
    let (k_a, k_b) = (product(&extents(cx, &a, &summed)), product(&extents(cx, &b, &summed)));
    // A matrix that is stored the other way round is read so.
    let trans_a = a.labels == [&batch[..], &summed, &left].concat() && !left.is_empty();
    let trans_b = b.labels != [&batch[..], &summed, &right].concat();
    let x = if trans_a { a.value } else { arrange(cx, &a, &[&batch[..], &left, &summed].concat())? };
    let y = if trans_b {
        arrange(cx, &b, &[&batch[..], &right, &summed].concat())?
    } else {
        b.value
    };
    let matrix = |batch: Vec<Dim>, r: &Dim, c: &Dim, trans: bool| {
        let (r, c) = if trans { (c, r) } else { (r, c) };
        Shape([batch, vec![r.clone(), c.clone()]].concat())
    };
    let x = reshape(cx, x, matrix(batch_a, &m, &k_a, trans_a))?;
    let y = reshape(cx, y, matrix(batch_b, &k_b, &n, trans_b))?;
    let z = cx.op(MatMul { trans_a, trans_b }, &[x, y])?;
    let mut to = cx.shape(z).0[..batch.len()].to_vec();
    to.extend(left_dims);
    to.extend(right_dims);
    Ok(Term { value: reshape(cx, z, Shape(to))?, labels })
}
