//! One step of an optimizer, for models that train.
//!
//! ONNX, domain ai.onnx.preview.training: [Adagrad](https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Adagrad.html),
//! [Adam](https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Adam.html),
//! [Momentum](https://onnx.ai/onnx/operators/onnx_aionnxpreviewtraining_Momentum.html) (1). Operands are the rate, the number of steps
//! done, then all tensors, all their gradients and all of each state; results in the same order, without the gradients.

use super::util::{apply, cast, number, with_constant};
use super::where_::Where;
use crate::ops::*;

pub(super) fn onnx() -> Vec<OnnxName> {
    ["Adagrad", "Adam", "Momentum"].map(|name| OnnxName { domain: "ai.onnx.preview.training", name, versions: &[1] }).to_vec()
}

/// One node under import.
struct Step<'a, 'n> {
    node: &'a OnnxNode<'n>,
    rate: ValueId,
    steps: ValueId,
}

impl Step<'_, '_> {
    fn real(&self, name: &str, default: f64) -> Result<f64, ImportError> {
        Ok(self.node.opt_float(name)?.map_or(default, f64::from))
    }

    /// `scale·a + b`
    fn scaled_sum(cx: &mut Importer<'_>, scale: f64, a: ValueId, b: ValueId) -> Result<ValueId, ImportError> {
        let a = with_constant(cx, "mul", a, scale)?;
        apply(cx, "add", &[a, b])
    }

    /// `1 - base^steps` of the dtype of `like`.
    fn bias(&self, cx: &mut Importer<'_>, base: f64, like: ValueId) -> Result<ValueId, ImportError> {
        let t = cast(cx, self.steps, cx.dtype(like))?;
        let b = number(cx, cx.dtype(like), base);
        let p = apply(cx, "pow", &[b, t])?;
        let p = apply(cx, "neg", &[p])?;
        with_constant(cx, "add", p, 1.0)
    }

    /// Whether no step was done yet.
    fn first(&self, cx: &mut Importer<'_>) -> Result<ValueId, ImportError> {
        with_constant(cx, "equal", self.steps, 0.0)
    }

    fn adagrad(&self, cx: &mut Importer<'_>, x: ValueId, g: ValueId, h: ValueId) -> Result<[ValueId; 2], ImportError> {
        let dtype = cx.dtype(x);
        let t = cast(cx, self.steps, dtype)?;
        let decay = with_constant(cx, "mul", t, self.real("decay_factor", 0.0)?)?;
        let decay = with_constant(cx, "add", decay, 1.0)?;
        let rate = apply(cx, "div", &[self.rate, decay])?;
        let square = apply(cx, "mul", &[g, g])?;
        let h = apply(cx, "add", &[h, square])?;
        let root = apply(cx, "sqrt", &[h])?;
        let below = with_constant(cx, "add", root, self.real("epsilon", 1e-6)?)?;
        let g = apply(cx, "mul", &[rate, g])?;
        let change = apply(cx, "div", &[g, below])?;
        Ok([apply(cx, "sub", &[x, change])?, h])
    }

    fn adam(&self, cx: &mut Importer<'_>, x: ValueId, g: ValueId, v: ValueId, h: ValueId) -> Result<[ValueId; 3], ImportError> {
        let (alpha, beta) = (self.real("alpha", 0.9)?, self.real("beta", 0.999)?);
        let fresh = with_constant(cx, "mul", g, 1.0 - alpha)?;
        let v = Self::scaled_sum(cx, alpha, v, fresh)?;
        let square = apply(cx, "mul", &[g, g])?;
        let fresh = with_constant(cx, "mul", square, 1.0 - beta)?;
        let h = Self::scaled_sum(cx, beta, h, fresh)?;
        let (a, b) = (self.bias(cx, alpha, x)?, self.bias(cx, beta, x)?);
        let b = apply(cx, "sqrt", &[b])?;
        let corrected = apply(cx, "mul", &[self.rate, b])?;
        let corrected = apply(cx, "div", &[corrected, a])?;
        let first = self.first(cx)?;
        let rate = cx.op(Where {}, &[first, self.rate, corrected])?;
        let root = apply(cx, "sqrt", &[h])?;
        let below = with_constant(cx, "add", root, self.real("epsilon", 1e-6)?)?;
        let step = apply(cx, "mul", &[rate, v])?;
        let step = apply(cx, "div", &[step, below])?;
        let x = apply(cx, "sub", &[x, step])?;
        let x = with_constant(cx, "mul", x, 1.0 - self.real("norm_coefficient_post", 0.0)?)?;
        Ok([x, v, h])
    }

    fn momentum(&self, cx: &mut Importer<'_>, x: ValueId, g: ValueId, v: ValueId) -> Result<[ValueId; 2], ImportError> {
        let alpha = self.real("alpha", 0.0)?;
        let first = self.first(cx)?;
        let (one, beta) = (number(cx, cx.dtype(x), 1.0), number(cx, cx.dtype(x), self.real("beta", 0.0)?));
        let beta = cx.op(Where {}, &[first, one, beta])?;
        let fresh = apply(cx, "mul", &[beta, g])?;
        let v = Self::scaled_sum(cx, alpha, v, fresh)?;
        let direction = match self.node.str("mode", "standard")? {
            "standard" => v,
            "nesterov" => Self::scaled_sum(cx, alpha, v, g)?,
            other => return Err(ImportError::new(format!("mode: expected standard or nesterov, found {other:?}"))),
        };
        let step = apply(cx, "mul", &[self.rate, direction])?;
        Ok([apply(cx, "sub", &[x, step])?, v])
    }
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let all = node.all_inputs()?;
    let kinds = if node.op_type() == "Adam" { 4 } else { 3 };
    let [rate, steps, rest @ ..] = &all[..] else {
        return Err(ImportError::new("expected a rate, a count of steps and tensors"));
    };
    let n = rest.len() / kinds;
    if n == 0 || rest.len() != n * kinds {
        return Err(ImportError::new(format!("expected {kinds} operands for each tensor, found {}", rest.len())));
    }
    let step = Step { node, rate: *rate, steps: *steps };
    let norm = step.real("norm_coefficient", 0.0)?;
    let mut outs = vec![vec![]; kinds - 1];
    for i in 0..n {
        let of = |kind: usize| rest[kind * n + i];
        let (x, g) = (of(0), Step::scaled_sum(cx, norm, of(0), of(1))?);
        let made = match node.op_type() {
            "Adagrad" => step.adagrad(cx, x, g, of(2))?.to_vec(),
            "Adam" => step.adam(cx, x, g, of(2), of(3))?.to_vec(),
            _ => step.momentum(cx, x, g, of(2))?.to_vec(),
        };
        for (list, v) in outs.iter_mut().zip(made) {
            list.push(v);
        }
    }
    Ok(outs.concat())
}
