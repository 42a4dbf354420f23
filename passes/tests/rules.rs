//! Every rewrite of the normaliser: it fires on its case, keeps the meaning there on drawn tensors, and leaves its near
//! miss alone.

use std::collections::BTreeSet;
use tenon_base::{DType, Fact, Loc, Shape, Tensor};
use tenon_ir::ops::binary::Binary;
use tenon_ir::ops::cast::Cast;
use tenon_ir::ops::concat::Concat;
use tenon_ir::ops::conv::{Conv, Layout};
use tenon_ir::ops::matmul::MatMul;
use tenon_ir::ops::reshape::Reshape;
use tenon_ir::ops::transpose::Transpose;
use tenon_ir::{Graph, Op, ValueId};
use tenon_passes::normalize::{Class, normalize_watched, rules};
use tenon_passes::pipeline::Math;

struct Case {
    rule: &'static str,
    fires: fn(&mut Net) -> ValueId,
    near_miss: fn(&mut Net) -> ValueId,
}

struct Net(Graph);

impl Net {
    fn input(&mut self, dims: &[usize]) -> ValueId {
        let name = format!("x{}", self.0.inputs().len());
        self.0.add_input(name, Fact::of(DType::F32, dims))
    }

    fn weight(&mut self, dims: &[usize], seed: usize) -> ValueId {
        self.0.add_weight("", drawn(dims, seed))
    }

    fn fill(&mut self, dims: &[usize], v: f32) -> ValueId {
        let n = dims.iter().product();
        self.0.add_weight("", Tensor::new(dims, &vec![v; n]))
    }

    fn op(&mut self, op: impl Into<Op>, ins: &[ValueId]) -> ValueId {
        self.0.add_op(op, ins, Loc::none()).expect("well typed")[0]
    }

    fn bin(&mut self, name: &str, a: ValueId, b: ValueId) -> ValueId {
        self.op(Binary::named(name).expect("a function"), &[a, b])
    }

    fn reshape(&mut self, x: ValueId, to: &[usize]) -> ValueId {
        self.op(Reshape { to: Shape::of(to) }, &[x])
    }

    fn transpose(&mut self, x: ValueId, perm: &[usize]) -> ValueId {
        self.op(Transpose { perm: perm.to_vec() }, &[x])
    }

    fn conv(&mut self, bias: bool) -> ValueId {
        let x = self.input(&[1, 2, 5, 5]);
        let mut ins = vec![x, self.weight(&[4, 2, 3, 3], 1)];
        if bias {
            ins.push(self.weight(&[4], 2));
        }
        let op = Conv {
            kernel: vec![3, 3],
            strides: vec![1, 1],
            dilations: vec![1, 1],
            pads: vec![1; 4],
            group: 1,
            layout: Layout::ChannelsFirst,
            fill: None,
        };
        self.op(op, &ins)
    }
}

fn drawn(dims: &[usize], seed: usize) -> Tensor {
    let n: usize = dims.iter().product();
    let v: Vec<f32> = (0..n).map(|i| ((i * 53 + seed * 97) % 211) as f32 / 100.0 - 1.05).collect();
    Tensor::new(dims, &v)
}

const CASES: &[Case] = &[
    Case {
        rule: "reshape-noop",
        fires: |n| {
            let x = n.input(&[2, 3]);
            n.reshape(x, &[2, 3])
        },
        near_miss: |n| {
            let x = n.input(&[2, 3]);
            n.reshape(x, &[3, 2])
        },
    },
    Case {
        rule: "reshape-reshape",
        fires: |n| {
            let x = n.input(&[2, 6]);
            let y = n.reshape(x, &[3, 4]);
            n.reshape(y, &[12])
        },
        near_miss: |n| {
            let x = n.input(&[2, 6]);
            let y = n.reshape(x, &[3, 4]);
            let y = n.transpose(y, &[1, 0]);
            n.reshape(y, &[12])
        },
    },
    Case {
        rule: "transpose-is-view",
        fires: |n| {
            let x = n.input(&[2, 1, 3]);
            n.transpose(x, &[1, 0, 2])
        },
        near_miss: |n| {
            let x = n.input(&[2, 1, 3]);
            n.transpose(x, &[2, 1, 0])
        },
    },
    Case {
        rule: "transpose-transpose",
        fires: |n| {
            let x = n.input(&[2, 3, 4]);
            let y = n.transpose(x, &[2, 0, 1]);
            n.transpose(y, &[0, 2, 1])
        },
        near_miss: |n| {
            let x = n.input(&[2, 3, 4]);
            let y = n.transpose(x, &[2, 0, 1]);
            let y = n.bin("add", y, x_like(y));
            n.transpose(y, &[0, 2, 1])
        },
    },
    Case {
        rule: "shuffle-concat",
        fires: |n| {
            let x = n.input(&[2, 3]);
            let y = n.op(Concat { axis: 1 }, &[x, x_like(x)]);
            let y = n.reshape(y, &[2, 2, 3]);
            n.transpose(y, &[0, 2, 1])
        },
        near_miss: |n| {
            let x = n.input(&[2, 3]);
            let y = n.op(Concat { axis: 1 }, &[x, x_like(x)]);
            let y = n.reshape(y, &[2, 3, 2]);
            n.transpose(y, &[0, 2, 1])
        },
    },
    Case {
        rule: "cast-noop",
        fires: |n| {
            let x = n.input(&[3]);
            n.op(Cast::to(DType::F32), &[x])
        },
        near_miss: |n| {
            let x = n.input(&[3]);
            n.op(Cast::to(DType::F64), &[x])
        },
    },
    Case {
        rule: "neutral-operand",
        fires: |n| {
            let x = n.input(&[3]);
            let one = n.fill(&[1], 1.0);
            n.bin("mul", x, one)
        },
        // The constant makes the result larger; and x + 0 would turn -0 into 0.
        near_miss: |n| {
            let x = n.input(&[3]);
            let one = n.fill(&[2, 1], 1.0);
            let y = n.bin("mul", x, one);
            let zero = n.fill(&[1], 0.0);
            n.bin("add", y, zero)
        },
    },
    Case {
        rule: "constant-right",
        fires: |n| {
            let x = n.input(&[3]);
            let c = n.weight(&[3], 4);
            n.bin("mul", c, x)
        },
        near_miss: |n| {
            let x = n.input(&[3]);
            let c = n.weight(&[3], 4);
            n.bin("sub", c, x)
        },
    },
    Case {
        rule: "merge-constants",
        fires: |n| {
            let x = n.input(&[2, 3]);
            let (c, d) = (n.weight(&[3], 4), n.weight(&[1], 5));
            let y = n.bin("add", x, c);
            n.bin("add", y, d)
        },
        // The inner sum is used twice.
        near_miss: |n| {
            let x = n.input(&[2, 3]);
            let (c, d) = (n.weight(&[3], 4), n.weight(&[1], 5));
            let y = n.bin("add", x, c);
            let z = n.bin("add", y, d);
            n.bin("mul", z, y)
        },
    },
    Case {
        rule: "distribute-constant",
        fires: |n| {
            let x = n.input(&[2, 6]);
            let w = n.weight(&[6, 3], 1);
            let y = n.op(MatMul { trans_a: false, trans_b: false }, &[x, w]);
            let (c, d) = (n.weight(&[3], 4), n.weight(&[3], 5));
            let y = n.bin("add", y, c);
            n.bin("mul", y, d)
        },
        // Nothing to absorb the product.
        near_miss: |n| {
            let x = n.input(&[2, 3]);
            let (c, d) = (n.weight(&[3], 4), n.weight(&[3], 5));
            let y = n.bin("add", x, c);
            n.bin("mul", y, d)
        },
    },
    Case {
        rule: "conv-scale",
        fires: |n| {
            let y = n.conv(true);
            let s = n.weight(&[1, 4, 1, 1], 7);
            n.bin("mul", y, s)
        },
        // Per column, not per channel.
        near_miss: |n| {
            let y = n.conv(true);
            let s = n.weight(&[1, 1, 1, 5], 7);
            n.bin("mul", y, s)
        },
    },
    Case {
        rule: "conv-bias",
        fires: |n| {
            let y = n.conv(false);
            let t = n.weight(&[4, 1, 1], 7);
            n.bin("add", y, t)
        },
        // Not a constant.
        near_miss: |n| {
            let y = n.conv(false);
            let t = n.input(&[4, 1, 1]);
            n.bin("add", y, t)
        },
    },
    Case {
        rule: "conv-pad",
        fires: |n| padded_conv(n, &[0, 0, 1, 0, 0, 0, 2, 1]),
        // The padding adds channels of zeros as well.
        near_miss: |n| padded_conv(n, &[0, 1, 1, 0, 0, 0, 2, 1]),
    },
    Case {
        rule: "conv-unreached",
        fires: |n| dilated_conv(n, 6),
        // The outer taps reach the image's border.
        near_miss: |n| dilated_conv(n, 4),
    },
    Case {
        rule: "matmul-scale",
        fires: |n| {
            let x = n.input(&[2, 6]);
            let w = n.weight(&[3, 6], 1);
            let y = n.op(MatMul { trans_a: false, trans_b: true }, &[x, w]);
            let s = n.weight(&[3], 5);
            n.bin("mul", y, s)
        },
        // The right factor is no constant.
        near_miss: |n| {
            let x = n.input(&[2, 6]);
            let w = n.input(&[3, 6]);
            let y = n.op(MatMul { trans_a: false, trans_b: true }, &[x, w]);
            let s = n.weight(&[3], 5);
            n.bin("mul", y, s)
        },
    },
];

/// A convolution of an input of five channels that are there or padded, padded by `pads`.
fn padded_conv(n: &mut Net, pads: &[i64]) -> ValueId {
    let x = n.input(&[1, 5 - pads[1] as usize, 6, 6]);
    let pad = tenon_ir::ops::pad::Pad {
        mode: tenon_ir::ops::pad::Mode::Constant,
        pads: pads.to_vec(),
        value: tenon_base::Real(0.0),
    };
    let x = n.op(pad, &[x]);
    let w = n.weight(&[4, 5, 3, 3], 1);
    let op = Conv {
        kernel: vec![3, 3],
        strides: vec![2, 2],
        dilations: vec![1, 1],
        pads: vec![0, 1, 0, 0],
        group: 1,
        layout: Layout::ChannelsFirst,
        fill: None,
    };
    n.op(op, &[x, w])
}

/// Three by three taps that are `step` apart, on an image of five by four, padded so that the result is of this size too.
fn dilated_conv(n: &mut Net, step: usize) -> ValueId {
    let x = n.input(&[1, 2, 5, 4]);
    let w = n.weight(&[3, 2, 3, 3], 1);
    let op = Conv {
        kernel: vec![3, 3],
        strides: vec![1, 1],
        dilations: vec![step, step.min(3)],
        pads: vec![step, step.min(3), step, step.min(3)],
        group: 1,
        layout: Layout::ChannelsFirst,
        fill: None,
    };
    n.op(op, &[x, w])
}

/// The value itself: something of its own shape to add.
fn x_like(v: ValueId) -> ValueId {
    v
}

fn build(f: fn(&mut Net) -> ValueId) -> Graph {
    let mut n = Net(Graph::new("case"));
    let y = f(&mut n);
    n.0.add_output("y", y);
    n.0
}

/// Normalises and gives the rules that fired, after comparing the results before and after.
fn normalized(graph: &Graph) -> BTreeSet<&'static str> {
    let inputs: Vec<Tensor> = graph
        .inputs()
        .iter()
        .enumerate()
        .map(|(i, &node)| drawn(&graph.fact(ValueId { node, port: 0 }).dims().expect("known"), i + 11))
        .collect();
    let before = tenon_ir::eval::run(graph, &inputs).expect("runs");
    let mut fired = BTreeSet::new();
    let mut after = graph.clone();
    normalize_watched(&mut after, Math::Default, &mut |rule, _| {
        fired.insert(rule.name);
    })
    .expect("ends");
    let found = tenon_ir::eval::run(&after, &inputs).expect("runs");
    let exact = rules().iter().filter(|r| fired.contains(r.name)).all(|r| r.class == Class::Exact);
    for (a, b) in found[0].to_f64().iter().zip(before[0].to_f64()) {
        let close = if exact { *a == b } else { (a - b).abs() <= 1e-5 * (1.0 + b.abs()) };
        assert!(close, "{fired:?}: {a} against {b}");
    }
    fired
}

#[test]
fn every_rule_fires_on_its_case_and_not_on_its_near_miss() {
    for case in CASES {
        assert!(normalized(&build(case.fires)).contains(case.rule), "`{}` did not fire", case.rule);
        assert!(!normalized(&build(case.near_miss)).contains(case.rule), "`{}` fired on its near miss", case.rule);
    }
}

#[test]
fn every_rule_has_a_case() {
    let covered: BTreeSet<&str> = CASES.iter().map(|c| c.rule).collect();
    let all: BTreeSet<&str> = rules().iter().map(|r| r.name).collect();
    assert_eq!(covered, all);
}

#[test]
fn strict_mathematics_keeps_the_order_of_sums() {
    let mut g = build(|n| {
        let x = n.input(&[3]);
        let (c, d) = (n.weight(&[3], 4), n.weight(&[3], 5));
        let y = n.bin("add", x, c);
        n.bin("add", y, d)
    });
    let fired = normalize_watched(&mut g, Math::Strict, &mut |_, _| {}).expect("ends");
    assert_eq!(fired, 0);
}
