//! Tree ensembles of `ai.onnx.ml`, as tables that one loop walks.
//!
//! ONNX: [TreeEnsemble](https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html) (5),
//! [TreeEnsembleRegressor](https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleRegressor.html) (1, 3),
//! [TreeEnsembleClassifier](https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsembleClassifier.html) (1, 3). Every test of a node becomes
//! `x ≤ v` or `x = v`, its children swapped where that takes it: `x < v` is `x ≤` the number before `v`, and membership in a set is a
//! row of `x = v`. Where a classifier of two classes has weights for one only, scores and label are ONNX Runtime's.

use super::ml::{self, Labels, Post};
use super::tree_ensemble::{Aggregate, TreeEnsemble, at_most, below, exactly};
use super::util::{apply, cast, table_size, with_constant};
use crate::ops::*;
use std::collections::BTreeMap;

pub(super) fn onnx() -> Vec<OnnxName> {
    vec![
        ml::on("TreeEnsemble", &[5]),
        ml::on("TreeEnsembleRegressor", &[1, 3]),
        ml::on("TreeEnsembleClassifier", &[1, 3]),
    ]
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    match node.op_type() {
        "TreeEnsemble" => ensemble(node, cx),
        "TreeEnsembleRegressor" => regressor(node, cx),
        _ => classifier(node, cx),
    }
}

/// What a node asks of its feature.
#[derive(Clone, Debug)]
enum Test {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
    Above(f64),
    Equal(f64),
    Unequal(f64),
    Member(Vec<f64>),
}

/// Where a branch leads.
#[derive(Clone, Copy, Debug)]
enum Child {
    Node(usize),
    Leaf(usize),
}

#[derive(Clone, Debug)]
struct Branch {
    feature: i64,
    test: Test,
    yes: Child,
    no: Child,
    /// NaN takes `yes` whatever the test says of it.
    missing: bool,
}

/// A forest as ONNX describes it.
#[derive(Debug, Default)]
struct Forest {
    branches: Vec<Branch>,
    roots: Vec<Child>,
    /// The targets and weights of every leaf.
    leaves: Vec<Vec<(usize, f64)>>,
    targets: usize,
    features: i64,
}

/// The forest as tables; one row a node.
#[derive(Debug, Default)]
struct Table {
    nodes: Vec<i32>,
    values: Vec<f64>,
    tests: Vec<u8>,
    roots: Vec<i32>,
}

/// A position whose jump is still to be filled in.
type Patch = Vec<usize>;

impl Table {
    fn push(&mut self, feature: i64, jump: i32, value: f64, test: u8) -> Result<(), ImportError> {
        if self.values.len() >= 1 << 28 {
            return Err(ImportError::new("the trees have more than 2^28 nodes"));
        }
        self.nodes.extend([i32::try_from(feature).unwrap_or(i32::MAX), jump]);
        self.values.push(value);
        self.tests.push(test);
        Ok(())
    }

    /// Adds the test of one node; gives the child that follows, the child that is jumped to, and the jumps to fill in.
    fn branch(&mut self, b: &Branch, dtype: DType) -> Result<(Child, Child, Patch), ImportError> {
        let nan = |jumps: bool| if jumps { 2 } else { 0 };
        let at = self.values.len();
        // The branch of NaN is `yes` where the node says so, and else what the comparison gives.
        let (value, equal, swapped, nan_jumps) = match &b.test {
            Test::AtMost(v) => (at_most(dtype, *v), 0, false, b.missing),
            Test::Below(v) => (below(dtype, *v), 0, false, b.missing),
            Test::Above(v) => (at_most(dtype, *v), 0, true, !b.missing),
            Test::AtLeast(v) => (below(dtype, *v), 0, true, !b.missing),
            Test::Equal(v) => (exactly(dtype, *v), 1, false, b.missing),
            Test::Unequal(v) => (exactly(dtype, *v), 1, true, false),
            Test::Member(set) => {
                for v in set {
                    self.push(b.feature, 1, exactly(dtype, *v), 1 | nan(b.missing))?;
                }
                let patch = (at..self.values.len()).collect();
                return Ok((b.no, b.yes, patch));
            }
        };
        self.push(b.feature, 1, value, equal | nan(nan_jumps))?;
        Ok(if swapped { (b.yes, b.no, vec![at]) } else { (b.no, b.yes, vec![at]) })
    }

    /// Where NaN jumps at some nodes and not at others, and nothing else tells tests apart: those where it does look at a copy of the
    /// features in which it is -∞, so that all tests are alike. Gives the features that the table then tests.
    fn missing_apart(&mut self, cx: &mut Importer<'_>, x: ValueId) -> Result<ValueId, ImportError> {
        let inner = |i: &usize| self.nodes[2 * i] >= 0;
        let jumps = (0..self.tests.len()).filter(inner).filter(|i| self.tests[*i] == 2).count();
        let alike = (0..self.tests.len()).filter(inner).all(|i| self.tests[i] & 1 == 0 && !self.values[i].is_nan());
        let features = cx.shape(x).0[1].as_const().and_then(|f| i32::try_from(f).ok()).filter(|f| *f < 1 << 20);
        let (Some(features), true) = (features, alike && jumps > 0 && jumps < (0..self.tests.len()).filter(inner).count())
        else {
            return Ok(x);
        };
        for i in 0..self.tests.len() {
            if self.nodes[2 * i] >= 0 && self.tests[i] == 2 {
                self.nodes[2 * i] += features;
            }
        }
        self.tests.fill(0);
        let number = apply(cx, "equal", &[x, x])?;
        let low = super::util::number(cx, cx.dtype(x), f64::NEG_INFINITY);
        let known = cx.op(super::where_::Where {}, &[number, x, low])?;
        cx.op(super::concat::Concat { axis: 1 }, &[x, known])
    }

    fn lay_out(forest: &Forest, dtype: DType, dense: bool) -> Result<Table, ImportError> {
        let mut out = Table::default();
        // Every node of a tree is reached once; more is a cycle, or a great deal shared.
        let mut budget = 8 * (forest.branches.len() + forest.leaves.len()) + 1024;
        for root in &forest.roots {
            out.roots.push(out.values.len() as i32);
            let mut work: Vec<(Child, Patch)> = vec![(*root, vec![])];
            while let Some((child, patch)) = work.pop() {
                budget = budget.checked_sub(1).ok_or_else(|| ImportError::new("the nodes of a tree form a cycle"))?;
                let here = out.values.len();
                for at in patch {
                    out.nodes[2 * at + 1] = (here - at) as i32;
                }
                match child {
                    Child::Leaf(l) => {
                        let (target, weight) = forest.leaves[l].first().copied().unwrap_or((0, 0.0));
                        let (jump, value) = if dense { (l as i32, 0.0) } else { (target as i32, weight) };
                        out.push(-1, jump, value, 0)?;
                    }
                    Child::Node(n) => {
                        let (next, jumped, patch) = out.branch(&forest.branches[n], dtype)?;
                        work.push((jumped, patch));
                        work.push((next, vec![]));
                    }
                }
            }
        }
        Ok(out)
    }
}

impl Forest {
    fn check(&self, count: Option<i64>) -> Result<(), ImportError> {
        if self.targets == 0 || self.targets > 1 << 20 {
            return Err(ImportError::new(format!("expected 1 to 2^20 targets, found {}", self.targets)));
        }
        if self.roots.is_empty() {
            return Err(ImportError::new("the ensemble has no trees"));
        }
        if let Some(l) = self.leaves.iter().flatten().find(|(t, _)| *t >= self.targets) {
            return Err(ImportError::new(format!("a leaf has target {}, there are {}", l.0, self.targets)));
        }
        if let Some(b) = self.branches.iter().find(|b| b.feature < 0 || count.is_some_and(|c| b.feature >= c)) {
            return Err(ImportError::new(format!(
                "a node tests feature {}, the operand has {}",
                b.feature,
                count.map_or_else(|| "more than 0".to_string(), |c| c.to_string())
            )));
        }
        Ok(())
    }

    /// Adds the operator for x `[N, F]`: scores `[N, targets]` without base values.
    fn import(mut self, cx: &mut Importer<'_>, x: ValueId, aggregate: Aggregate) -> Result<ValueId, ImportError> {
        let dtype = cx.dtype(x);
        self.features = self.branches.iter().map(|b| b.feature + 1).max().unwrap_or(0);
        self.check(cx.shape(x).0[1].as_const())?;
        // Weights for one target come first, so that a leaf with none adds nothing to the first.
        let dense = aggregate != Aggregate::Sum && self.leaves.iter().any(Vec::is_empty)
            || self.leaves.iter().any(|l| l.len() > 1);
        let mut table = Table::lay_out(&self, dtype, dense)?;
        let x = table.missing_apart(cx, x)?;
        let n = table.values.len();
        let tested = || table.tests.iter().zip(table.nodes.chunks(2)).filter(|(_, n)| n[0] >= 0).map(|(t, _)| *t);
        let nan_jumps = tested().next().is_some_and(|t| t & 2 != 0);
        let tests = tested().any(|t| t & 1 != 0 || (t & 2 != 0) != nan_jumps);
        let mut operands = vec![
            x,
            cx.weight(Tensor::new(&[n, 2], &table.nodes)),
            cx.weight(Tensor::from_f64(dtype, &[n], &table.values)),
            cx.weight(Tensor::new(&[table.roots.len()], &table.roots)),
        ];
        if dense {
            let rest = match aggregate {
                Aggregate::Sum => 0.0,
                Aggregate::Min => f64::INFINITY,
                Aggregate::Max => f64::NEG_INFINITY,
            };
            let mut all = vec![rest; table_size(&[self.leaves.len(), self.targets], "the leaves' weights")?];
            for (row, leaf) in all.chunks_mut(self.targets).zip(&self.leaves) {
                for (t, w) in leaf {
                    row[*t] = match aggregate {
                        Aggregate::Sum => row[*t] + w,
                        Aggregate::Min => row[*t].min(*w),
                        Aggregate::Max => row[*t].max(*w),
                    };
                }
            }
            operands.push(cx.weight(Tensor::from_f64(dtype, &[self.leaves.len(), self.targets], &all)));
        }
        if tests {
            operands.push(cx.weight(Tensor::new(&[n], &table.tests)));
        }
        let nan_jumps = nan_jumps && !tests;
        cx.op(TreeEnsemble { targets: self.targets, aggregate, dense, nan_jumps, tests }, &operands)
    }
}

fn wrong_length(name: &str, found: usize, expected: usize) -> ImportError {
    ImportError::new(format!("attribute `{name}`: expected {expected} elements, found {found}"))
}

/// The list, of `n` elements; where it is not there, of `default`.
fn list(node: &OnnxNode<'_>, name: &str, n: usize, default: Option<i64>) -> Result<Vec<i64>, ImportError> {
    let found = ml::ints(node, name)?;
    match default {
        Some(d) if found.is_empty() => Ok(vec![d; n]),
        _ if found.len() == n => Ok(found),
        _ => Err(wrong_length(name, found.len(), n)),
    }
}

/// A position below `n`.
fn position(v: i64, n: usize, what: &str) -> Result<usize, ImportError> {
    let found = usize::try_from(v).ok().filter(|v| *v < n);
    found.ok_or_else(|| ImportError::new(format!("{what} {v} does not exist: there are {n}")))
}

/// The forest of opset 5.
fn ensemble(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let tensor = |name: &str| -> Result<Option<&Tensor>, ImportError> { node.opt_tensor(name) };
    let splits = tensor("nodes_splits")?.ok_or_else(|| ImportError::new("`nodes_splits` is missing"))?.to_f64();
    let n = splits.len();
    let modes = tensor("nodes_modes")?.ok_or_else(|| ImportError::new("`nodes_modes` is missing"))?.to_i64();
    if modes.len() != n {
        return Err(wrong_length("nodes_modes", modes.len(), n));
    }
    let lists = ["nodes_featureids", "nodes_truenodeids", "nodes_trueleafs", "nodes_falsenodeids", "nodes_falseleafs"];
    let [features, yes, yes_leaf, no, no_leaf] = lists.map(|name| list(node, name, n, None));
    let (features, yes, yes_leaf, no, no_leaf) = (features?, yes?, yes_leaf?, no?, no_leaf?);
    let missing = list(node, "nodes_missing_value_tracks_true", n, Some(0))?;
    let weights = tensor("leaf_weights")?.ok_or_else(|| ImportError::new("`leaf_weights` is missing"))?.to_f64();
    let targets = list(node, "leaf_targetids", weights.len(), None)?;
    let members = tensor("membership_values")?.map(Tensor::to_f64).unwrap_or_default();
    // The sets of all nodes with one, in order, NaN after each.
    let mut sets = members.split(|v| v.is_nan()).map(<[f64]>::to_vec);
    let child = |id: i64, leaf: i64| -> Result<Child, ImportError> {
        Ok(if leaf != 0 {
            Child::Leaf(position(id, weights.len(), "leaf")?)
        } else {
            Child::Node(position(id, n, "node")?)
        })
    };
    let mut forest = Forest::default();
    for i in 0..n {
        let v = splits[i];
        let test = match modes[i] {
            0 => Test::AtMost(v),
            1 => Test::Below(v),
            2 => Test::AtLeast(v),
            3 => Test::Above(v),
            4 => Test::Equal(v),
            5 => Test::Unequal(v),
            6 => Test::Member(sets.next().ok_or_else(|| ImportError::new("`membership_values` has too few sets"))?),
            other => return Err(ImportError::new(format!("nodes_modes: expected 0 to 6, found {other}"))),
        };
        forest.branches.push(Branch {
            feature: features[i],
            test,
            yes: child(yes[i], yes_leaf[i])?,
            no: child(no[i], no_leaf[i])?,
            missing: missing[i] != 0,
        });
    }
    for r in ml::ints(node, "tree_roots")? {
        let root = position(r, n, "root")?;
        // A tree that is one leaf is written as a node whose branches are the same leaf.
        let b = &forest.branches[root];
        forest.roots.push(match (b.yes, b.no) {
            (Child::Leaf(a), Child::Leaf(b)) if a == b => Child::Leaf(a),
            _ => Child::Node(root),
        });
    }
    forest.targets = usize::try_from(node.int("n_targets", 1)?).unwrap_or(0);
    for (t, w) in targets.iter().zip(&weights) {
        forest.leaves.push(vec![(position(*t, forest.targets, "target")?, *w)]);
    }
    let trees = forest.roots.len();
    let dtype = ml::computed_in(cx, x);
    let (rows, given) = (ml::rows(cx, x, dtype)?, cx.dtype(x));
    let (aggregate, average) = match node.int("aggregate_function", 1)? {
        0 => (Aggregate::Sum, true),
        1 => (Aggregate::Sum, false),
        2 => (Aggregate::Min, false),
        3 => (Aggregate::Max, false),
        other => return Err(ImportError::new(format!("aggregate_function: expected 0 to 3, found {other}"))),
    };
    let mut y = forest.import(cx, rows, aggregate)?;
    if average {
        y = with_constant(cx, "div", y, trees as f64)?;
    }
    let post = match node.int("post_transform", 0)? {
        0 => Post::None,
        1 => Post::Softmax,
        2 => Post::Logistic,
        3 => Post::SoftmaxZero,
        4 => Post::Probit,
        other => return Err(ImportError::new(format!("post_transform: expected 0 to 4, found {other}"))),
    };
    let y = post.of(cx, y)?;
    Ok(vec![cast(cx, y, if given.is_float() { given } else { DType::F32 })?])
}

/// The forest of the older operators, whose leaves' weights are in the lists that begin with `prefix`.
fn older(node: &OnnxNode<'_>, prefix: &str, targets: usize) -> Result<Forest, ImportError> {
    let ids = ml::ints(node, "nodes_nodeids")?;
    let n = ids.len();
    let [trees, features, yes, no] =
        ["nodes_treeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids"].map(|l| list(node, l, n, None));
    let (trees, features, yes, no) = (trees?, features?, yes?, no?);
    let missing = list(node, "nodes_missing_value_tracks_true", n, Some(0))?;
    let (modes, values) = (ml::strings(node, "nodes_modes")?, ml::floats(node, "nodes_values")?);
    if modes.len() != n || values.len() != n {
        return Err(ImportError::new(format!(
            "expected {n} nodes_modes and nodes_values, found {} and {}",
            modes.len(),
            values.len()
        )));
    }
    let mut forest = Forest { targets, ..Forest::default() };
    // Where each node stands: leaves and branches are numbered apart.
    let mut places: BTreeMap<(i64, i64), Child> = BTreeMap::new();
    let (mut branches, mut seen) = (vec![], BTreeMap::new());
    for i in 0..n {
        let place = if modes[i] == "LEAF" {
            forest.leaves.push(vec![]);
            Child::Leaf(forest.leaves.len() - 1)
        } else {
            branches.push(i);
            Child::Node(branches.len() - 1)
        };
        if places.insert((trees[i], ids[i]), place).is_some() {
            return Err(ImportError::new(format!("tree {} has two nodes {}", trees[i], ids[i])));
        }
        // The first node of a tree is its root.
        if seen.insert(trees[i], ()).is_none() {
            forest.roots.push(place);
        }
    }
    let find = |tree: i64, id: i64| {
        let missing = || ImportError::new(format!("tree {tree} has no node {id}"));
        places.get(&(tree, id)).copied().ok_or_else(missing)
    };
    for i in branches {
        let v = values[i];
        let test = match modes[i].as_str() {
            "BRANCH_LEQ" => Test::AtMost(v),
            "BRANCH_LT" => Test::Below(v),
            "BRANCH_GTE" => Test::AtLeast(v),
            "BRANCH_GT" => Test::Above(v),
            "BRANCH_EQ" => Test::Equal(v),
            "BRANCH_NEQ" => Test::Unequal(v),
            other => return Err(ImportError::new(format!("nodes_modes: {other:?} is not known"))),
        };
        let (yes, no) = (find(trees[i], yes[i])?, find(trees[i], no[i])?);
        forest.branches.push(Branch { feature: features[i], test, yes, no, missing: missing[i] != 0 });
    }
    let weights = ml::floats(node, &format!("{prefix}_weights"))?;
    let [of_tree, of_node, of_target] =
        ["treeids", "nodeids", "ids"].map(|l| list(node, &format!("{prefix}_{l}"), weights.len(), None));
    let (of_tree, of_node, of_target) = (of_tree?, of_node?, of_target?);
    for (i, w) in weights.iter().enumerate() {
        // Weights of nodes that are no leaves are never looked at.
        if let Child::Leaf(l) = find(of_tree[i], of_node[i])? {
            forest.leaves[l].push((position(of_target[i], targets, "target")?, *w));
        }
    }
    Ok(forest)
}

fn add_base(cx: &mut Importer<'_>, y: ValueId, base: &[f64]) -> Result<ValueId, ImportError> {
    if base.iter().all(|b| *b == 0.0) {
        return Ok(y);
    }
    let base = ml::vector(cx, cx.dtype(y), base);
    apply(cx, "add", &[y, base])
}

fn regressor(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let dtype = ml::computed_in(cx, x);
    let targets = usize::try_from(node.int("n_targets", 1)?).unwrap_or(0);
    let forest = older(node, "target", targets)?;
    let trees = forest.roots.len();
    let (aggregate, average) = match node.str("aggregate_function", "SUM")? {
        "SUM" => (Aggregate::Sum, false),
        "AVERAGE" => (Aggregate::Sum, true),
        "MIN" => (Aggregate::Min, false),
        "MAX" => (Aggregate::Max, false),
        other => return Err(ImportError::new(format!("aggregate_function: {other:?} is not known"))),
    };
    let rows = ml::rows(cx, x, dtype)?;
    let mut y = forest.import(cx, rows, aggregate)?;
    if average {
        y = with_constant(cx, "div", y, trees as f64)?;
    }
    let base = ml::floats(node, "base_values")?;
    if !base.is_empty() && base.len() != targets {
        return Err(wrong_length("base_values", base.len(), targets));
    }
    y = add_base(cx, y, &base)?;
    y = Post::read(node)?.of(cx, y)?;
    Ok(vec![cast(cx, y, DType::F32)?])
}

fn classifier(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let x = node.input(0)?;
    let dtype = ml::computed_in(cx, x);
    let labels = Labels::read(node, "classlabels_int64s")?;
    let classes = labels.len();
    if classes == 0 {
        return Err(ImportError::new("expected classlabels_int64s or classlabels_strings, found neither"));
    }
    let mut forest = older(node, "class", classes)?;
    let post = Post::read(node)?;
    let base = ml::floats(node, "base_values")?;
    if !base.is_empty() && base.len() != classes && (base.len() != 1 || classes > 2) {
        return Err(wrong_length("base_values", base.len(), classes));
    }
    let rows = ml::rows(cx, x, dtype)?;
    let mut weights = forest.leaves.iter().flatten();
    let first = weights.next().map_or(0, |(t, _)| *t);
    let one = classes == 2 && weights.all(|(t, _)| *t == first);
    let (position, scores) = if one {
        let positive = forest.leaves.iter().flatten().all(|(_, w)| *w >= 0.0);
        forest.targets = 1;
        forest.leaves.iter_mut().flatten().for_each(|(t, _)| *t = 0);
        let s = forest.import(cx, rows, Aggregate::Sum)?;
        let s = add_base(cx, s, base.last().map_or(&[], std::slice::from_ref))?;
        if base.len() == 2 {
            // With a base for each class both scores exist from the beginning, as opposites.
            let other = apply(cx, "neg", &[s])?;
            let both = cx.op(super::concat::Concat { axis: 1 }, &[other, s])?;
            (ml::above(cx, s, if positive { 0.5 } else { 0.0 })?, post.of(cx, both)?)
        } else {
            ml::two_classes(cx, s, positive, post)?
        }
    } else {
        let y = forest.import(cx, rows, Aggregate::Sum)?;
        let y = add_base(cx, y, &base)?;
        (ml::best(cx, y)?, post.of(cx, y)?)
    };
    let label = labels.of(cx, position)?;
    Ok(vec![label, cast(cx, scores, DType::F32)?])
}
