//! FlexAttention: attention whose scores and weights a model changes by graphs of its own.
//!
//! ONNX: FlexAttention (ai.onnx.preview, 1): `prob_mod(softmax(score_mod(scale · Q · Kᵀ))) · V` over `[B, H, L, E]`, every head of K and V
//! for as many of Q in a row as there are. The graphs are inlined, so that the passes see nothing but ordinary operators.

use crate::body::{Made, Session, Site, Slot};
use crate::control::subgraph;
use crate::lists::value;
use tenon_base::{DType, Scalar, Tensor};
use tenon_ir::import::dtype_of_code;
use tenon_ir::ops::attention::repeat_heads;
use tenon_ir::ops::binary::Binary;
use tenon_ir::ops::cast::Cast;
use tenon_ir::ops::matmul::MatMul;
use tenon_ir::ops::softmax::Softmax;
use tenon_ir::{ImportError, ValueId};

impl<'p> Session<'p> {
    /// The operator; see the module.
    pub(crate) fn flex_attention(&mut self, site: Site<'_, 'p>) -> Made<'p> {
        let Site { attrs, operands, loc, body, .. } = site;
        let operand = |i: usize| value(operands.get(i).unwrap_or(&Slot::Absent));
        let (q, k, v) = (operand(0)?, operand(1)?, operand(2)?);
        let mut cx = self.importer(loc);
        if [q, k, v].iter().any(|v| cx.rank(*v) != 4) {
            return Err(ImportError::new(format!(
                "expected operands of rank 4, found {}, {} and {}",
                cx.shape(q),
                cx.shape(k),
                cx.shape(v)
            )));
        }
        let narrow = cx.dtype(q);
        let within = match attrs.get("softmax_precision") {
            Some(a) => dtype_of_code(a.i.unwrap_or(1))?,
            None if narrow == DType::F64 => narrow,
            None => DType::F32,
        };
        if !narrow.is_float() || !within.is_float() {
            return Err(ImportError::new(format!("expected floats, found {narrow} and a softmax in {within}")));
        }
        let to = |cx: &mut tenon_ir::Importer<'_>, v: ValueId, d: DType| {
            if cx.dtype(v) == d { Ok(v) } else { cx.op(Cast::to(d), &[v]) }
        };
        let (q, k, v) = (to(&mut cx, q, within)?, to(&mut cx, k, within)?, to(&mut cx, v, within)?);
        let (hq, hk) = (cx.shape(q).0[1].clone(), cx.shape(k).0[1].clone());
        if let (Some(a), Some(b)) = (hq.as_const(), hk.as_const())
            && (b < 1 || a % b != 0)
        {
            return Err(ImportError::new(format!("{a} heads of Q are no multiple of the {b} of K and V")));
        }
        let (k, v) = (repeat_heads(&mut cx, k, &hq, &hk)?, repeat_heads(&mut cx, v, &hq, &hk)?);
        let scale = match (attrs.get("scale"), cx.shape(q).0[3].as_const()) {
            (Some(a), _) => f64::from(a.f.unwrap_or(1.0)),
            (None, Some(size)) => 1.0 / (size as f64).sqrt(),
            (None, None) => return Err(ImportError::new("the head size must be known").with_pins(&cx.shape(q).0[3])),
        };
        let scores = cx.op(MatMul { trans_a: false, trans_b: true }, &[q, k])?;
        let scale = cx.weight(Tensor::full(&[], Scalar::of_f64(within, scale)));
        let mul = Binary::named("mul").ok_or_else(|| ImportError::new("no product"))?;
        let mut x = cx.op(mul, &[scores, scale])?;
        for name in ["score_mod", "prob_mod"] {
            if name == "prob_mod" {
                x = self.importer(loc).op(Softmax { axis: 3, log: false }, &[x])?;
            }
            if attrs.get(name).is_none() {
                continue;
            }
            let g = subgraph(attrs, name)?;
            let inner = body.enter(loc)?;
            let Some(changed) = self.inline(g, vec![Slot::Value(x)], name, &inner)? else { return Ok(None) };
            let [changed] = changed[..] else {
                return Err(ImportError::new(format!("`{name}`: expected one output, found {}", changed.len())));
            };
            let changed = value(&changed)?;
            let cx = self.importer(loc);
            if cx.fact(changed) != cx.fact(x) {
                return Err(ImportError::new(format!("`{name}` makes {} of {}", cx.fact(changed), cx.fact(x))));
            }
            x = changed;
        }
        let mut cx = self.importer(loc);
        let y = cx.op(MatMul { trans_a: false, trans_b: false }, &[x, v])?;
        let y = to(&mut cx, y, narrow)?;
        Ok(Some(vec![Slot::Value(y)]))
    }
}
