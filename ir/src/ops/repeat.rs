//! A body again and again: `for (i = 0; i < trip && cond; i++) (cond, v…, s_i…) = body(i, v…, c…)`.
//!
//! ONNX: [Loop](https://onnx.ai/onnx/operators/onnx__Loop.html) and [Scan](https://onnx.ai/onnx/operators/onnx__Scan.html),
//! all versions. A scan reads row `i` of its inputs in the body.
//!
//! Operands: `trip` (an `i64`), `cond` (a `bool`), the first values of the variables carried from one iteration to the next, and
//! whatever else the body reads. Inputs of the body: the number of the iteration (an `i64`), the carried variables, the
//! rest. Its outputs: whether to go on (a `bool`), the next values of the carried variables, and one row of each *scan
//! result*. Results: the last values of the carried variables, and the scan results with their rows stacked.
//! There are scan results only where the number of iterations is known beforehand: `trips`.

use crate::import::{ImportError, Importer, OnnxNode};
use crate::lower::{LowerCx, LowerError};
use crate::op::{InferError, OnnxName, OpClass, Operator, Sample};
use crate::{Attrs, Graph, Region, ValueId, attributes};
use tenon_base::{DType, Fact, Loc, Scalar, Shape, Tensor};

attributes! {
    /// See the module.
    pub struct Repeat {
        /// What is repeated.
        pub body: Region,
        /// How many variables are carried.
        pub carried: usize,
        /// `[n]` where exactly `n` iterations run (with fewer, the scan results end in rows of zeros); `[]` where that is
        /// not known and there are no scan results.
        pub trips: Shape,
    }
}

impl Repeat {
    fn facts(graph: &Graph, values: impl Iterator<Item = ValueId>) -> Vec<Fact> {
        values.map(|v| graph.fact(v).clone()).collect()
    }

    /// The facts of the body's inputs.
    fn inputs(&self) -> Vec<Fact> {
        let g = self.body.graph();
        Repeat::facts(g, g.inputs().iter().map(|&node| ValueId { node, port: 0 }))
    }

    /// The facts of the body's outputs.
    fn outputs(&self) -> Vec<Fact> {
        let g = self.body.graph();
        Repeat::facts(g, g.outputs().iter().map(|(_, v)| *v))
    }
}

impl Operator for Repeat {
    fn names() -> Vec<&'static str> {
        vec!["loop"]
    }

    // The importer of graphs makes it: the body is a subgraph.
    fn onnx() -> Vec<OnnxName> {
        vec![]
    }

    fn name(&self) -> &'static str {
        "loop"
    }

    fn attrs(&self) -> Attrs {
        self.to_attrs()
    }

    fn parse(_: &str, attrs: Attrs) -> Result<Self, String> {
        Repeat::from_attrs(attrs)
    }

    fn import(_: &OnnxNode<'_>, _: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
        Err(ImportError::new("the body is imported with the graph"))
    }

    fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
        let (given, made) = (self.inputs(), self.outputs());
        if given.len() < 1 + self.carried || made.len() < 1 + self.carried || self.trips.rank() > 1 {
            return Err(InferError::new(format!(
                "a body of {} inputs and {} outputs cannot carry {} variables",
                given.len(),
                made.len(),
                self.carried
            )));
        }
        if ins.len() != given.len() + 1 {
            return Err(InferError::new(format!("expected {} operands, found {}", given.len() + 1, ins.len())));
        }
        let expect = |what: &str, found: &Fact, expected: &Fact| {
            if found == expected {
                return Ok(());
            }
            Err(InferError::new(format!("{what}: expected {expected}, found {found}")))
        };
        let (number, flag) = (Fact::of(DType::I64, &[]), Fact::of(DType::Bool, &[]));
        expect("the trip count", &ins[0], &number)?;
        expect("the condition", &ins[1], &flag)?;
        expect("the number of the iteration", &given[0], &number)?;
        expect("the body's condition", &made[0], &flag)?;
        for (i, (found, expected)) in ins[2..].iter().zip(&given[1..]).enumerate() {
            expect(&format!("operand {}", i + 2), found, expected)?;
        }
        let (carried, rows) = made[1..].split_at(self.carried);
        for (i, (found, expected)) in carried.iter().zip(&given[1..]).enumerate() {
            expect(&format!("carried variable {i} after an iteration"), found, expected)?;
        }
        if self.trips.rank() == 0 && !rows.is_empty() {
            return Err(InferError::new("scan results need a known number of iterations"));
        }
        let stacked = rows.iter().map(|f| {
            Fact::new(f.dtype, Shape(self.trips.0.iter().chain(&f.shape.0).cloned().collect()))
        });
        let all: Vec<Fact> = carried.iter().cloned().chain(stacked).collect();
        if all.is_empty() {
            return Err(InferError::new("a loop without results"));
        }
        Ok(all)
    }

    fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
        let (trip, mut cond) = (ins[0].get(0).as_int(), ins[1].get(0).as_int() != 0);
        let (mut carried, rest) = (ins[2..2 + self.carried].to_vec(), &ins[2 + self.carried..]);
        let rows: Vec<Fact> = self.outputs().split_off(1 + self.carried);
        let mut scans: Vec<Vec<Scalar>> = rows.iter().map(|_| vec![]).collect();
        let mut i = 0i64;
        while i128::from(i) < trip && cond {
            let mut given = vec![Tensor::scalar(i)];
            given.extend(carried.iter().chain(rest).cloned());
            let mut made = crate::eval::run(self.body.graph(), &given).map_err(|e| e.to_string())?;
            let slices = made.split_off(1 + self.carried);
            for (all, row) in scans.iter_mut().zip(&slices) {
                all.extend(row.scalars());
            }
            cond = made[0].get(0).as_int() != 0;
            carried = made.split_off(1);
            i += 1;
        }
        let trips = self.trips.0.first().map_or(Ok(0), |d| d.as_const().ok_or("the number of iterations is symbolic"))?;
        for (row, mut all) in rows.iter().zip(scans) {
            let mut dims = vec![trips as usize];
            dims.extend(row.dims().ok_or("the shape of a scan result is symbolic")?);
            let len = dims.iter().product();
            if all.len() > len {
                return Err(format!("more than {trips} iterations"));
            }
            all.resize(len, Scalar::of_int(row.dtype, 0));
            carried.push(Tensor::from_scalars(row.dtype, &dims, all));
        }
        Ok(carried)
    }

    fn class(&self) -> OpClass {
        OpClass::Control
    }

    fn lower(&self, _: &mut LowerCx<'_>) -> Result<(), LowerError> {
        Err(LowerError("a loop is a step of the program, not a kernel".into()))
    }

    fn samples() -> Vec<Sample> {
        // The graphs are small and right; if one were not, there would be fewer samples than the tests ask for.
        [sum_of_rows(), doubling(), swap()].into_iter().flatten().collect()
    }
}

/// A graph under construction, for samples.
struct Body(Graph);

impl Body {
    fn input(&mut self, name: &str, dtype: DType, dims: &[usize]) -> ValueId {
        self.0.add_input(name, Fact::of(dtype, dims))
    }

    fn op(&mut self, name: &str, operands: &[ValueId]) -> Option<ValueId> {
        let op = crate::Op::parse(name, Attrs::default()).ok()?;
        self.0.add_op(op, operands, Loc::none()).ok()?.first().copied()
    }

    fn finish(mut self, carried: usize, trips: &[usize], outs: &[ValueId]) -> Repeat {
        for (i, v) in outs.iter().enumerate() {
            self.0.add_output(format!("o{i}"), *v);
        }
        Repeat { body: Region::new(self.0), carried, trips: Shape::of(trips) }
    }
}

/// Four iterations of `v += i`, with a scan result of `v·v`.
fn sum_of_rows() -> Option<Sample> {
    let mut b = Body(Graph::new("body"));
    let (i, v) = (b.input("i", DType::I64, &[]), b.input("v", DType::I64, &[3]));
    let yes = b.0.add_weight("", Tensor::scalar(true));
    let next = b.op("add", &[v, i])?;
    let square = b.op("mul", &[next, next])?;
    let op = b.finish(1, &[8], &[yes, next, square]);
    let flag: &[usize] = &[];
    Some(Sample::new(op, &[(DType::I64, flag), (DType::Bool, flag), (DType::I64, &[3])]).with_range(&[(0.0, 8.0)]))
}

/// `while v < c { v *= 2 }`
fn doubling() -> Option<Sample> {
    let mut b = Body(Graph::new("body"));
    let (_, v, c) = (b.input("i", DType::I64, &[]), b.input("v", DType::F32, &[]), b.input("c", DType::F32, &[]));
    let next = b.op("add", &[v, v])?;
    let more = b.op("less", &[next, c])?;
    let op = b.finish(1, &[], &[more, next]);
    let one: &[usize] = &[];
    let ins = [(DType::I64, one), (DType::Bool, one), (DType::F32, one), (DType::F32, one)];
    Some(Sample::new(op, &ins).with_range(&[(20.0, 40.0), (0.0, 1.0), (0.5, 1.0), (100.0, 1000.0)]))
}

/// Two variables that change places.
fn swap() -> Option<Sample> {
    let mut b = Body(Graph::new("body"));
    let (_, v, w) = (b.input("i", DType::I64, &[]), b.input("v", DType::F32, &[2]), b.input("w", DType::F32, &[2]));
    let yes = b.0.add_weight("", Tensor::scalar(true));
    let op = b.finish(2, &[], &[yes, w, v]);
    let one: &[usize] = &[];
    let ins = [(DType::I64, one), (DType::Bool, one), (DType::F32, &[2][..]), (DType::F32, &[2])];
    Some(Sample::new(op, &ins).with_range(&[(1.0, 8.0)]))
}
