//! Sequences and optionals, which exist at import only: a sequence is a list of values, an optional is its element or
//! nothing.

use crate::body::{Made, Session, Site, Slot};
use crate::control::subgraph;
use tenon_base::{Dim, Shape, Tensor};
use tenon_ir::ops::concat::Concat;
use tenon_ir::ops::gather::Gather;
use tenon_ir::ops::reshape::Reshape;
use tenon_ir::ops::slice::Slice;
use tenon_ir::{ImportError, ValueId};

/// A sequence may have this many elements.
const MAX_ITEMS: usize = 1 << 14;

impl<'p> Session<'p> {
    /// An operator on sequences or optionals.
    pub(crate) fn list_operator(&mut self, site: Site<'_, 'p>) -> Made<'p> {
        let Site { node: n, attrs, operands, loc, .. } = site;
        let int = |name: &str, default: i64| attrs.get(name).and_then(|a| a.i).unwrap_or(default);
        let one = |s: Slot<'p>| Ok(Some(vec![s]));
        let empty = |s: Option<&Slot<'p>>| matches!(s, None | Some(Slot::Absent | Slot::Nothing));
        match n.op_type.as_str() {
            "SequenceEmpty" => {
                let made = self.list(vec![]);
                one(made)
            }
            "SequenceConstruct" => {
                let items = operands.iter().map(|s| value(s).map(Slot::Value)).collect::<Result<_, _>>()?;
                let made = self.list(items);
                one(made)
            }
            "SequenceLength" => {
                let n = self.items(operands)?.len() as i64;
                let made = self.weight(Tensor::scalar(n));
                one(Slot::Value(made))
            }
            "SequenceInsert" => {
                let mut items = self.items(operands)?;
                let new = value(operands.get(1).unwrap_or(&Slot::Absent))?;
                let at = self.position(operands.get(2), items.len(), items.len() + 1, items.len(), loc)?;
                if items.len() >= MAX_ITEMS {
                    return Err(ImportError::new(format!("a sequence of more than {MAX_ITEMS} elements")));
                }
                items.insert(at, Slot::Value(new));
                let made = self.list(items);
                one(made)
            }
            "SequenceErase" => {
                let mut items = self.items(operands)?;
                if items.is_empty() {
                    return Err(ImportError::new("there is no element to erase"));
                }
                let at = self.position(operands.get(1), items.len(), items.len(), items.len() - 1, loc)?;
                items.remove(at);
                let made = self.list(items);
                one(made)
            }
            "SequenceAt" => self.at(operands, loc),
            "SplitToSequence" => self.split(operands, int("axis", 0), int("keepdims", 1) != 0, loc),
            "ConcatFromSequence" => self.join(operands, int("axis", 0), int("new_axis", 0) != 0, loc),
            "SequenceMap" => self.map(site),
            "Optional" => {
                one(operands.first().copied().filter(|s| !matches!(s, Slot::Absent)).unwrap_or(Slot::Nothing))
            }
            "OptionalHasElement" => {
                let made = self.weight(Tensor::scalar(!empty(operands.first())));
                one(Slot::Value(made))
            }
            _ if empty(operands.first()) => Err(ImportError::new("the optional is empty")),
            _ => one(operands[0]),
        }
    }

    fn items(&self, operands: &[Slot<'p>]) -> Result<Vec<Slot<'p>>, ImportError> {
        match operands.first() {
            Some(Slot::List(i)) => Ok(self.lists[*i].clone()),
            Some(_) => Err(ImportError::new("expected a sequence, found a tensor")),
            None => Err(ImportError::new("the sequence is missing")),
        }
    }

    /// A position among `n`: negative ones count from the end of `len` elements; `default` where it is left out.
    fn position(
        &mut self,
        slot: Option<&Slot<'p>>,
        len: usize,
        n: usize,
        default: usize,
        loc: &str,
    ) -> Result<usize, ImportError> {
        let v = match slot {
            None | Some(Slot::Absent) => return Ok(default),
            Some(s) => value(s)?,
        };
        let at = self.importer(loc).constant_ints(v, "position")?;
        let [at] = at[..] else {
            return Err(ImportError::new(format!("position: expected one number, found {}", at.len())));
        };
        let from_start = if at < 0 { at.saturating_add(len as i64) } else { at };
        usize::try_from(from_start).ok().filter(|i| *i < n).ok_or_else(|| {
            ImportError::new(format!("position {at} is out of range for a sequence of {len} elements"))
        })
    }

    /// One element; of a sequence of equal types its position may be computed at run time.
    fn at(&mut self, operands: &[Slot<'p>], loc: &str) -> Made<'p> {
        let items = self.items(operands)?;
        let at = value(operands.get(1).unwrap_or(&Slot::Absent))?;
        let position = self.importer(loc).constant_ints(at, "position");
        match position {
            Ok(p) => {
                let n = items.len() as i64;
                let i = match p[..] {
                    [i] => usize::try_from(if i < 0 { i + n } else { i }).ok().filter(|i| *i < items.len()),
                    _ => None,
                };
                let i = i.ok_or_else(|| ImportError::new(format!("no element {p:?} in a sequence of {n}")))?;
                Ok(Some(vec![items[i]]))
            }
            Err(e) => {
                let values = items.iter().map(value).collect::<Result<Vec<_>, _>>()?;
                let fact = |v: &ValueId| self.top.graph.fact(*v).clone();
                let scalar = self.top.graph.fact(at).shape.rank() == 0;
                if !scalar || values.is_empty() || values.iter().any(|v| fact(v) != fact(&values[0])) {
                    return Err(e);
                }
                let all = self.stack_front(&values, loc)?;
                Ok(Some(vec![Slot::Value(self.op(loc, Gather { axis: 0 }, &[all, at])?)]))
            }
        }
    }

    fn split(&mut self, operands: &[Slot<'p>], axis: i64, keep: bool, loc: &str) -> Made<'p> {
        let x = value(operands.first().unwrap_or(&Slot::Absent))?;
        let shape = self.top.graph.fact(x).shape.clone();
        let axis = tenon_ir::op::resolve_axis(axis, shape.rank())?;
        let n = shape.0[axis].as_const().filter(|n| *n <= MAX_ITEMS as i64);
        let n = n.ok_or_else(|| {
            ImportError::new(format!(
                "axis {axis}: the extent {} must be known, and at most {MAX_ITEMS}",
                shape.0[axis]
            ))
        })?;
        let (sizes, squeeze) = match operands.get(1) {
            None | Some(Slot::Absent) => (vec![1; n as usize], !keep),
            Some(s) => {
                let v = value(s)?;
                let given = self.importer(loc).constant(v, "split")?.clone();
                let ints = given.to_i64();
                let sizes = match ints[..] {
                    [part] if given.shape().is_empty() && part > 0 => {
                        (0..n).step_by(part as usize).map(|at| part.min(n - at)).collect()
                    }
                    _ => ints,
                };
                (sizes, false)
            }
        };
        if sizes.iter().any(|s| *s < 0) || sizes.iter().try_fold(0i64, |a, s| a.checked_add(*s)) != Some(n) {
            return Err(ImportError::new(format!("split: expected parts of {n} elements in all, found {sizes:?}")));
        }
        let (mut items, mut start) = (vec![], 0);
        for size in sizes {
            let mut op = Slice { starts: vec![0; shape.rank()], steps: vec![1; shape.rank()], to: shape.clone() };
            op.starts[axis] = if size == 0 { 0 } else { start };
            op.to.0[axis] = Dim::Const(size);
            let mut v = self.op(loc, op, &[x])?;
            if squeeze {
                let mut to = shape.clone();
                to.0.remove(axis);
                v = self.op(loc, Reshape { to }, &[v])?;
            }
            items.push(Slot::Value(v));
            start += size;
        }
        let made = self.list(items);
        Ok(Some(vec![made]))
    }

    fn join(&mut self, operands: &[Slot<'p>], axis: i64, new: bool, loc: &str) -> Made<'p> {
        let mut values = self.items(operands)?.iter().map(value).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = values.first() else { return Err(ImportError::new("the sequence is empty")) };
        let rank = self.top.graph.fact(*first).shape.rank() + usize::from(new);
        let axis = tenon_ir::op::resolve_axis(axis, rank)?;
        if new {
            for v in &mut values {
                let mut to: Shape = self.top.graph.fact(*v).shape.clone();
                if to.rank() + 1 != rank {
                    return Err(ImportError::new("the elements have different ranks"));
                }
                to.0.insert(axis, Dim::Const(1));
                *v = self.op(loc, Reshape { to }, &[*v])?;
            }
        }
        let made = if let [one] = values[..] { one } else { self.op(loc, Concat { axis }, &values)? };
        Ok(Some(vec![Slot::Value(made)]))
    }

    /// The body for every element of the first sequence.
    fn map(&mut self, site: Site<'_, 'p>) -> Made<'p> {
        let Site { attrs, operands, loc, body, .. } = site;
        let g = subgraph(attrs, "body")?;
        let n = self.items(operands)?.len();
        if g.input.len() != operands.len() {
            return Err(ImportError::new(format!(
                "the body has {} inputs for {} operands",
                g.input.len(),
                operands.len()
            )));
        }
        let inner = body.enter(loc)?;
        let mut results: Vec<Vec<Slot<'p>>> = vec![vec![]; g.output.len()];
        for k in 0..n {
            let mut given = vec![];
            for s in operands {
                given.push(match s {
                    Slot::List(i) => {
                        *self.lists[*i].get(k).ok_or_else(|| ImportError::new("the sequences differ in length"))?
                    }
                    s => *s,
                });
            }
            let Some(made) = self.inline(g, given, "body", &inner)? else { return Ok(None) };
            results.iter_mut().zip(made).for_each(|(all, s)| all.push(s));
        }
        let lists = results.into_iter().map(|items| self.list(items)).collect();
        Ok(Some(lists))
    }
}

/// The tensor in `slot`.
pub(crate) fn value(slot: &Slot<'_>) -> Result<ValueId, ImportError> {
    match slot {
        Slot::Value(v) => Ok(*v),
        Slot::List(_) => Err(ImportError::new("expected a tensor, found a sequence")),
        Slot::Nothing => Err(ImportError::new("expected a tensor, found an empty optional")),
        _ => Err(ImportError::new("expected a tensor, which is missing")),
    }
}
