//! Constants of the e-graph: handles, equal content once; what is large stays an expression until the choice is made.
//!
//! A rewrite that scales weights by a constant adds a node on two constants. If the result is small it is computed at once
//! and stored by content, so that equal constants made by different rules are one class: this is what keeps
//! rules from adding ever new versions of a bias. Large results are *lazy*: the operator and its operands, computed
//! once, after extraction, and only if chosen.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use tenon_base::{Fact, Tensor};
use tenon_ir::effort::effort;
use tenon_ir::{Op, OpClass, Operator};

/// A constant of one [`Constants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConstId(u32);

/// Results are computed at once where at most so many elements are looked at: biases, scales, shapes.
const SMALL: u64 = 1 << 12;
/// Elements looked at for one result at most.
const MOST: u64 = 1 << 28;
/// Data of at most so many elements are compared by content.
const COMPARED: usize = 1 << 16;
/// With at most so many whose samples are equal.
const CANDIDATES: usize = 16;

#[derive(Clone, Debug)]
enum Value {
    Data { name: String, tensor: Tensor },
    Lazy { op: Op, args: Vec<ConstId>, port: usize, fact: Fact },
}

/// All constants of an e-graph.
#[derive(Clone, Debug, Default)]
pub struct Constants {
    values: Vec<Value>,
    /// The one number of all elements.
    uniform: Vec<Option<f64>>,
    /// By hash.
    found: BTreeMap<u64, Vec<ConstId>>,
    /// Lazy results computed so far.
    computed: BTreeMap<ConstId, Tensor>,
}

fn hash(of: impl Hash) -> u64 {
    let mut h = DefaultHasher::new();
    of.hash(&mut h);
    h.finish()
}

/// What tells different data apart almost always: all of it where it is short, else parts from everywhere. Reading all weights for this
/// would take longer than the choice of the kernels.
fn sample(bytes: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    const PART: usize = 16;
    const PARTS: usize = 64;
    let apart = (bytes.len() / PARTS).max(PART);
    let last = &bytes[bytes.len().saturating_sub(PART)..];
    (bytes.chunks(apart).map(|c| &c[..PART.min(c.len())]).collect::<Vec<&[u8]>>(), last)
}

fn same_data(a: &Tensor, b: &Tensor) -> bool {
    a.fact() == b.fact() && (a.bytes().as_ptr() == b.bytes().as_ptr() || a.bytes() == b.bytes())
}

impl Constants {
    /// The handle of `tensor`; of content known already, the same.
    pub fn data(&mut self, name: &str, tensor: Tensor) -> ConstId {
        let small = tensor.len() <= COMPARED;
        // Large data is only compared with itself, by its place in memory.
        let place = tensor.bytes().as_ptr() as usize;
        let key = if small {
            hash((tensor.fact(), sample(tensor.bytes())))
        } else {
            hash((tensor.fact(), place, tensor.len()))
        };
        for &id in self.found.get(&key).into_iter().flatten().take(CANDIDATES) {
            if matches!(&self.values[id.0 as usize], Value::Data { tensor: t, .. } if same_data(t, &tensor)) {
                return id;
            }
        }
        let id = ConstId(self.values.len() as u32);
        self.uniform.push(if small { uniform(&tensor) } else { None });
        self.values.push(Value::Data { name: name.to_string(), tensor });
        self.found.entry(key).or_default().push(id);
        id
    }

    /// Result `port` of `op` on constants, which has the fact `fact`; `None` if the operator cannot be evaluated.
    pub fn apply(&mut self, op: &Op, args: &[ConstId], port: usize, fact: &Fact) -> Option<ConstId> {
        // What may take any time is no constant: loops, and operators that look at each operand element again and again.
        let facts: Vec<Fact> = args.iter().map(|a| self.fact(*a)).collect();
        let work = effort(op, &facts, std::slice::from_ref(fact));
        if op.class() == OpClass::Control || work > MOST {
            return None;
        }
        let data: Option<Vec<Tensor>> = args.iter().map(|a| self.small(*a).cloned()).collect();
        if let Some(ins) = data.filter(|_| work <= SMALL) {
            let t = op.eval(&ins).ok()?.into_iter().nth(port)?;
            return Some(self.data("", t));
        }
        let key = hash((op, args, port));
        for &id in self.found.get(&key).into_iter().flatten() {
            if let Value::Lazy { op: o, args: a, port: p, .. } = &self.values[id.0 as usize]
                && (o, &a[..], *p) == (op, args, port)
            {
                return Some(id);
            }
        }
        let id = ConstId(self.values.len() as u32);
        self.uniform.push(None);
        self.values.push(Value::Lazy { op: op.clone(), args: args.to_vec(), port, fact: fact.clone() });
        self.found.entry(key).or_default().push(id);
        Some(id)
    }

    /// Its data, if it is small and known already.
    pub fn small(&self, id: ConstId) -> Option<&Tensor> {
        match &self.values[id.0 as usize] {
            Value::Data { tensor, .. } if tensor.len() <= COMPARED => Some(tensor),
            _ => None,
        }
    }

    /// The number that all its elements are.
    pub fn uniform(&self, id: ConstId) -> Option<f64> {
        self.uniform[id.0 as usize]
    }

    /// Whether it is still an expression.
    pub fn is_lazy(&self, id: ConstId) -> bool {
        matches!(self.values[id.0 as usize], Value::Lazy { .. })
    }

    /// Its dtype and shape.
    pub fn fact(&self, id: ConstId) -> Fact {
        match &self.values[id.0 as usize] {
            Value::Data { tensor, .. } => tensor.fact(),
            Value::Lazy { fact, .. } => fact.clone(),
        }
    }

    /// The name the model gave it, or nothing.
    pub fn name(&self, id: ConstId) -> &str {
        match &self.values[id.0 as usize] {
            Value::Data { name, .. } => name,
            Value::Lazy { .. } => "",
        }
    }

    /// Its data, computed now if it was not before.
    ///
    /// # Errors
    /// What the operator says that cannot be evaluated.
    pub fn materialize(&mut self, id: ConstId) -> Result<Tensor, String> {
        // Depth first without recursion: chains of lazy constants may be long.
        let mut stack = vec![id];
        while let Some(&top) = stack.last() {
            if self.known(top).is_some() {
                stack.pop();
                continue;
            }
            let Value::Lazy { op, args, port, .. } = &self.values[top.0 as usize] else {
                return Err("no value".into());
            };
            let missing: Vec<ConstId> = args.iter().copied().filter(|a| self.known(*a).is_none()).collect();
            if !missing.is_empty() {
                stack.extend(missing);
                continue;
            }
            let ins: Vec<Tensor> = args.iter().filter_map(|a| self.known(*a).cloned()).collect();
            let out = op.eval(&ins)?.into_iter().nth(*port).ok_or("the operator has no such result")?;
            self.computed.insert(top, out);
            stack.pop();
        }
        self.known(id).cloned().ok_or_else(|| "no value".to_string())
    }

    /// Its data, if it is data or was computed.
    pub fn known(&self, id: ConstId) -> Option<&Tensor> {
        match &self.values[id.0 as usize] {
            Value::Data { tensor, .. } => Some(tensor),
            Value::Lazy { .. } => self.computed.get(&id),
        }
    }
}

/// The one number of a tensor whose elements are all equal.
fn uniform(t: &Tensor) -> Option<f64> {
    let (bytes, size) = (t.bytes(), t.dtype().size());
    (!t.is_empty() && bytes[size..] == bytes[..bytes.len() - size]).then(|| t.get(0).as_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_ir::ops::binary::Binary;

    fn mul() -> Op {
        Binary::named("mul").expect("a function").into()
    }

    #[test]
    fn equal_content_is_one_constant() {
        let mut c = Constants::default();
        let a = c.data("a", Tensor::new(&[2], &[1.0f32, 2.0]));
        let b = c.data("b", Tensor::new(&[2], &[1.0f32, 2.0]));
        assert_eq!(a, b);
        assert_ne!(a, c.data("c", Tensor::new(&[1, 2], &[1.0f32, 2.0])));
        // Computed in two ways.
        let two = c.data("", Tensor::new(&[1], &[2.0f32]));
        let four = c.apply(&mul(), &[two, two], 0, &c.fact(two)).expect("computed");
        assert_eq!(four, c.data("", Tensor::new(&[1], &[4.0f32])));
        assert_eq!(c.uniform(four), Some(4.0));
    }

    #[test]
    fn large_results_are_computed_when_asked_for() {
        let mut c = Constants::default();
        let n = SMALL as usize + 1;
        let big = c.data("w", Tensor::new(&[n], &vec![3.0f32; n]));
        let two = c.data("", Tensor::scalar(2.0f32));
        let fact = c.fact(big);
        let once = c.apply(&mul(), &[big, two], 0, &fact).expect("lazy");
        assert_eq!(c.apply(&mul(), &[big, two], 0, &fact), Some(once));
        let twice = c.apply(&mul(), &[once, two], 0, &fact).expect("lazy");
        assert!(c.is_lazy(once) && c.small(once).is_none());
        assert_eq!(c.materialize(twice).expect("computed").get(n - 1).as_f64(), 12.0);
    }
}
