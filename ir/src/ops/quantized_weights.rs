//! Operators of com.microsoft with weights of 8 bits or less.
//!
//! [MatMulNBits, GatherBlockQuantized, DynamicQuantizeLSTM](https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md). Weights of
//! MatMulNBits stay 4 bits wide where they are many, see [`super::nibble_matmul`]; else it is computed on the numbers that they stand for. DynamicQuantizeLSTM in integers as ONNX Runtime does it: the input of all steps is quantised by its
//! range, and the state before each step by its own.

use super::expand::Expand;
use super::gather::Gather;
use super::integer_product::{dynamic_product, narrow_difference};
use super::matmul::MatMul;
use super::nibble_matmul::{NibbleMatMul, nibbles};
use super::recurrent_layer::direction;
use super::reduce::{Kind, Reduce};
use super::transpose::Transpose;
use super::util::{apply, cast, number, part, reshape, with_constant};
use crate::op::resolve_axis;
use crate::ops::*;
use tenon_base::{Scalar, Shape};

pub(super) fn onnx() -> Vec<OnnxName> {
    ["MatMulNBits", "GatherBlockQuantized", "DynamicQuantizeLSTM"].map(|name| OnnxName { domain: "com.microsoft", name, versions: &[1] }).to_vec()
}

pub(super) fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    match node.op_type() {
        "MatMulNBits" => {
            let a = node.input(0)?;
            let shape = cx.shape(a).clone();
            if shape.rank() != 1 {
                return matmul(node, cx, a);
            }
            // A vector is one row.
            let row = reshape(cx, a, Shape(vec![Dim::Const(1), shape.0[0].clone()]))?;
            let y = matmul(node, cx, row)?[0];
            let columns = Shape(cx.shape(y).0[1..].to_vec());
            Ok(vec![reshape(cx, y, columns)?])
        }
        "GatherBlockQuantized" => rows(node, cx),
        _ => lstm(node, cx),
    }
}

/// The `bits`-wide elements of bytes, low bits first, as `u8`: a last axis of `n` becomes one of `n·8/bits`.
fn unpacked(cx: &mut Importer<'_>, x: ValueId, bits: usize) -> Result<ValueId, ImportError> {
    if bits == 8 {
        return Ok(x);
    }
    let mut to = cx.shape(x).clone();
    to.0.push(Dim::Const(1));
    let x = reshape(cx, x, to.clone())?;
    let shifts: Vec<u8> = (0..8 / bits).map(|i| (i * bits) as u8).collect();
    let shifts = cx.weight(Tensor::new(&[shifts.len()], &shifts));
    let moved = apply(cx, "shift_right", &[x, shifts])?;
    let y = with_constant(cx, "bitwise_and", moved, f64::from((1u32 << bits) - 1))?;
    to.0.pop();
    if let Some(last) = to.0.last_mut() {
        *last = last.mul(&Dim::from(8 / bits));
    }
    reshape(cx, y, to)
}

/// `A · dequantised(B)ᵀ`, B by blocks along K.
fn matmul(node: &OnnxNode<'_>, cx: &mut Importer<'_>, a: ValueId) -> Result<Vec<ValueId>, ImportError> {
    let attr = |name: &str, default: i64| -> Result<usize, ImportError> {
        let v = node.int(name, default)?;
        let n = usize::try_from(v).ok().filter(|n| (1..1 << 30).contains(n));
        n.ok_or_else(|| ImportError::new(format!("{name}: expected a positive integer, found {v}")))
    };
    let (k, n, bits, block) = (attr("K", 0)?, attr("N", 0)?, attr("bits", 4)?, attr("block_size", 32)?);
    if ![2, 4, 8].contains(&bits) || block * bits % 8 != 0 {
        return Err(ImportError::new(format!("expected 2, 4 or 8 bits in blocks of whole bytes, found {bits} in blocks of {block}")));
    }
    if node.opt_input(4).is_some() {
        return Err(ImportError::new("`g_idx`: reordered columns are not supported"));
    }
    let dtype = cx.dtype(a);
    let blocks = k.div_ceil(block);
    if bits == 4
        && let Some(y) = packed(node, cx, a, [k, n, block])?
    {
        return Ok(vec![with_bias(node, cx, y)?]);
    }
    let b = node.input(1)?;
    let b = reshape(cx, b, Shape::of(&[n, blocks, block * bits / 8]))?;
    let b = unpacked(cx, b, bits)?;
    let b = cast(cx, b, dtype)?;
    let scales = cast(cx, node.input(2)?, dtype)?;
    let scales = reshape(cx, scales, Shape::of(&[n, blocks, 1]))?;
    let zeros = match node.opt_input(3) {
        None => number(cx, dtype, f64::from(1u32 << (bits - 1))),
        Some(z) if cx.dtype(z).is_float() => {
            let z = cast(cx, z, dtype)?;
            reshape(cx, z, Shape::of(&[n, blocks, 1]))?
        }
        Some(z) => {
            // Packed along the blocks of a row, with unused bits at its end.
            let bytes = (blocks * bits).div_ceil(8);
            let z = reshape(cx, z, Shape::of(&[n, bytes]))?;
            let z = unpacked(cx, z, bits)?;
            let z = part(cx, z, 1, 0, blocks)?;
            let z = cast(cx, z, dtype)?;
            reshape(cx, z, Shape::of(&[n, blocks, 1]))?
        }
    };
    let w = apply(cx, "sub", &[b, zeros])?;
    let w = apply(cx, "mul", &[w, scales])?;
    let w = reshape(cx, w, Shape::of(&[n, blocks * block]))?;
    let w = part(cx, w, 1, 0, k)?;
    let y = cx.op(MatMul { trans_a: false, trans_b: true }, &[a, w])?;
    Ok(vec![with_bias(node, cx, y)?])
}

/// The product `y`, with the bias that MatMulNBits has.
fn with_bias(node: &OnnxNode<'_>, cx: &mut Importer<'_>, y: ValueId) -> Result<ValueId, ImportError> {
    node.opt_input(5).map_or(Ok(y), |bias| apply(cx, "add", &[y, bias]))
}

/// Weights from which on they stay packed: fewer are sooner multiplied as floats.
const PACKED: usize = 1 << 14;

/// The product with weights that stay 4 bits wide, if they are known, many, and in whole blocks.
fn packed(
    node: &OnnxNode<'_>,
    cx: &mut Importer<'_>,
    a: ValueId,
    [k, n, block]: [usize; 3],
) -> Result<Option<ValueId>, ImportError> {
    if !matches!(cx.dtype(a), DType::F32 | DType::F16) || !k.is_multiple_of(block) || k.saturating_mul(n) < PACKED {
        return Ok(None);
    }
    let (blocks, known) = (k / block, |cx: &Importer<'_>, v: ValueId| cx.known(v).cloned());
    let (Some(b), Some(scales)) = (known(cx, node.input(1)?), known(cx, node.input(2)?)) else { return Ok(None) };
    let zeros = match node.opt_input(3).map(|z| known(cx, z)) {
        None => None,
        Some(None) => return Ok(None),
        Some(z) => z,
    };
    let row_of_zeros = blocks.div_ceil(2);
    let fits = b.dtype() == DType::U8
        && b.len() == n * k / 2
        && scales.len() == n * blocks
        && zeros.as_ref().is_none_or(|z| z.len() == n * if z.dtype().is_float() { blocks } else { row_of_zeros });
    if !fits {
        return Ok(None); // told where the parts are put together one by one
    }
    let half = |byte: u8, odd: bool| if odd { byte >> 4 } else { byte & 0xf };
    let bytes = b.bytes();
    let weight = |k_: usize, n_: usize| half(bytes[(n_ * k + k_) / 2], k_ % 2 == 1) as i8 - 8;
    let scale = scales.to_f64();
    let zero: Option<Vec<f64>> = zeros.map(|z| match z.dtype().is_float() {
        true => z.to_f64(),
        false => {
            let packed = |at: usize| half(z.bytes()[at / blocks * row_of_zeros + at % blocks / 2], at % blocks % 2 == 1);
            (0..n * blocks).map(|at| f64::from(packed(at))).collect()
        }
    });
    let parts = nibbles(
        [k, n, blocks],
        weight,
        |b, n| scale[n * blocks + b] as f32,
        |b, n| zero.as_ref().map_or(0.0, |z| (z[n * blocks + b] - 8.0) as f32),
    );
    let mut operands = vec![a, cx.weight(parts.weights), cx.weight(parts.scales)];
    operands.extend(parts.zeros.map(|z| cx.weight(z)));
    Ok(Some(cx.op(NibbleMatMul { columns: n, block }, &operands)?))
}

/// `(data[indices] - zero) · scale`, scales by blocks along an axis: rows are chosen before they are unpacked, so that a table stays as
/// small as it is.
fn rows(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let (data, indices, scales) = (node.input(0)?, node.input(1)?, node.input(2)?);
    let rank = cx.rank(data);
    let gathered = resolve_axis(node.int("gather_axis", 0)?, rank)?;
    let quantized = resolve_axis(node.int("quantize_axis", 1)?, rank)?;
    let (block, bits) = (node.int("block_size", 128)?, node.int("bits", 4)?);
    let block = usize::try_from(block).ok().filter(|b| (1..1 << 30).contains(b));
    let block = block.ok_or_else(|| ImportError::new("block_size: expected a positive integer"))?;
    let packed = cx.dtype(data) == DType::U8 && bits == 4;
    if gathered == quantized || packed && (gathered + 1 == rank || quantized + 1 != rank) {
        return Err(ImportError::new(format!("axis {gathered} cannot be chosen along where axis {quantized} is quantised")));
    }
    if cx.rank(scales) != rank || ![4, 8].contains(&bits) {
        let found = cx.shape(scales);
        return Err(ImportError::new(format!("expected 4 or 8 bits and scales of rank {rank}, found {bits} and {found}")));
    }
    let axis = if gathered < quantized { quantized + cx.rank(indices) - 1 } else { quantized };
    let dtype = cx.dtype(scales);
    let gather = Gather { axis: gathered };
    let chosen = |cx: &mut Importer<'_>, v: ValueId| -> Result<ValueId, ImportError> {
        let v = cx.op(gather.clone(), &[v, indices])?;
        if packed { unpacked(cx, v, 4) } else { Ok(v) }
    };
    let q = chosen(cx, data)?;
    let extent = cx.shape(q).0[axis].clone();
    let extent = extent.as_usize().ok_or_else(|| ImportError::new(format!("an axis of blocks has {extent} elements")))?;
    let blocks = extent.div_ceil(block);
    // One number a block, as often as it has elements.
    let spread = |cx: &mut Importer<'_>, v: ValueId| -> Result<ValueId, ImportError> {
        let v = part(cx, v, axis, 0, blocks)?;
        let mut to = cx.shape(v).clone();
        to.0.insert(axis + 1, Dim::Const(1));
        let v = reshape(cx, v, to.clone())?;
        to.0[axis + 1] = Dim::from(block);
        let v = cx.op(Expand { to: to.clone() }, &[v])?;
        to.0.remove(axis + 1);
        to.0[axis] = Dim::from(blocks * block);
        let v = reshape(cx, v, to)?;
        part(cx, v, axis, 0, extent)
    };
    let mut y = cast(cx, q, dtype)?;
    let zero = match node.opt_input(3) {
        Some(z) => {
            let z = chosen(cx, z)?;
            let z = cast(cx, z, dtype)?;
            Some(spread(cx, z)?)
        }
        None if cx.dtype(data) == DType::U8 => Some(number(cx, dtype, f64::from(1u32 << (bits - 1)))),
        None => None,
    };
    if let Some(z) = zero {
        y = apply(cx, "sub", &[y, z])?;
    }
    let s = cx.op(gather.clone(), &[scales, indices])?;
    let s = spread(cx, s)?;
    Ok(vec![apply(cx, "mul", &[y, s])?])
}

/// An LSTM with weights of bytes: computed in integers if they are known, else dequantised first.
fn lstm(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
    let mut inputs: Vec<Option<ValueId>> = (0..12).map(|i| node.opt_input(i)).collect();
    let known = [1, 2, 8, 9, 10, 11].iter().all(|i| node.opt_input(*i).is_none_or(|v| cx.known(v).is_some()));
    for (weight, scale) in [(1, 8), (2, 10)] {
        if known && weight == 1 {
            continue; // a product of integers takes them as they are
        }
        let (mut w, s) = (node.input(weight)?, node.input(scale)?);
        let shape = cx.shape(w).clone();
        if shape.rank() != 3 {
            return Err(ImportError::new(format!("operand {weight}: expected weights of rank 3, found {shape}")));
        }
        // One number for each direction, or for each of its columns.
        let per = |cx: &mut Importer<'_>, v: ValueId| -> Result<ValueId, ImportError> {
            let s = cx.shape(v).0.clone();
            let columns = s.get(1).cloned().unwrap_or(Dim::Const(1));
            reshape(cx, v, Shape(vec![s.first().cloned().unwrap_or(Dim::Const(1)), Dim::Const(1), columns]))
        };
        let zero = node.opt_input(scale + 1).map(|z| per(cx, z)).transpose()?;
        if known && let Some(bytes) = cx.known(w) {
            let none = Tensor::full(&[1], Scalar::of_int(bytes.dtype(), 0));
            let zero = zero.and_then(|z| cx.known(z)).unwrap_or(&none);
            let centred = narrow_difference(bytes, zero)?;
            w = cx.weight(centred);
        } else {
            w = cast(cx, w, DType::F32)?;
            if let Some(z) = zero {
                let z = cast(cx, z, DType::F32)?;
                w = apply(cx, "sub", &[w, z])?;
            }
            let s = per(cx, s)?;
            w = apply(cx, "mul", &[w, s])?;
        }
        inputs[weight] = Some(cx.op(Transpose { perm: vec![0, 2, 1] }, &[w])?);
    }
    super::recurrent_layer::import(&node.with_inputs(&inputs), cx)
}

/// What one direction of a layer has beside weights of integers, of which the recurrent ones have no zero point.
#[derive(Clone, Copy, Debug)]
pub(super) struct DynamicWeights {
    input: ValueId,
    input_zero: Option<ValueId>,
    recurrent: ValueId,
}

impl DynamicWeights {
    /// Those of direction `d` of `count`; `None` for a layer of floats.
    pub(super) fn of(
        node: &OnnxNode<'_>,
        cx: &mut Importer<'_>,
        d: usize,
        count: usize,
    ) -> Result<Option<DynamicWeights>, ImportError> {
        if !cx.dtype(node.input(2)?).is_int() {
            return Ok(None);
        }
        let input = direction(cx, node.input(8)?, d, count)?;
        let input_zero = node.opt_input(9).map(|z| direction(cx, z, d, count)).transpose()?;
        let recurrent = direction(cx, node.input(10)?, d, count)?;
        Ok(Some(DynamicWeights { input, input_zero, recurrent }))
    }

    /// What the input `x` of all steps contributes, by weights `[I, G·H]`.
    pub(super) fn input(&self, cx: &mut Importer<'_>, x: ValueId, w: ValueId) -> Result<ValueId, ImportError> {
        dynamic_product(cx, x, w, self.input, self.input_zero)
    }

    /// Operands of the recurrence beside the weights `r` `[G·H, H]`: scales and sums of their rows.
    pub(super) fn recurrent(&self, cx: &mut Importer<'_>, r: ValueId) -> Result<[ValueId; 2], ImportError> {
        let rows = cx.shape(r).0[0].clone();
        let scale = if cx.shape(self.recurrent).numel() == Dim::Const(1) {
            let one = reshape(cx, self.recurrent, Shape(vec![]))?;
            cx.op(Expand { to: Shape(vec![rows.clone()]) }, &[one])?
        } else {
            self.recurrent
        };
        let wide = cast(cx, r, DType::I32)?;
        let sums = cx.op(Reduce { kind: Kind::Sum, axes: vec![1] }, &[wide])?;
        Ok([scale, reshape(cx, sums, Shape(vec![rows]))?])
    }
}
