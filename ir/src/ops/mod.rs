//! All operators: one file each (a family of scalar functions shares one), one line each in the list below. ONNX operators
//! that are nothing but a composition of others are *functions*: a file with `onnx()` and `import()`, one line below.
//!
//! The list makes the closed enum [`Op`], the table of names for the text form, the importer's table and
//! `docs/OPERATORS.md`. See `docs/how-to/operator.md` for adding one.

use crate::import::{ImportError, Importer, OnnxNode};
use crate::lower::{LowerCx, LowerError};
use crate::op::{InferError, OnnxName, OpClass, Operator, Sample, Source, Tolerance};
use crate::{Attrs, ValueId};
use std::collections::BTreeMap;
use std::sync::LazyLock;
use tenon_base::{DType, Dim, Fact, Tensor};
use tenon_kernel::Expr;

mod conv_taps;
mod cook_toom;
mod family;
mod ml;
mod recurrent_dynamic;
mod recurrent_layer;
mod resize_late;
mod same;
pub(crate) mod util;

/// Imports one ONNX node.
pub type ImportFn = fn(&OnnxNode<'_>, &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError>;

macro_rules! ops {
    ($($file:ident :: $name:ident),* ; functions: $($function:ident),* $(,)?) => {
        $(pub mod $file;)*
        $(pub mod $function;)*

        /// Any operator, with its attributes.
        #[derive(Clone, Debug, PartialEq, Eq, Hash)]
        pub enum Op {
            $(
                #[doc = concat!("See [`", stringify!($file), "`].")]
                $name($file::$name),
            )*
        }

        $(impl From<$file::$name> for Op {
            fn from(op: $file::$name) -> Op {
                Op::$name(op)
            }
        })*

        /// The importer's table, from the list.
        pub fn importers() -> Vec<(OnnxName, ImportFn)> {
            let mut all: Vec<(OnnxName, ImportFn)> = vec![];
            $(all.extend($function::onnx().into_iter().map(|n| (n, $function::import as ImportFn)));)*
            $(all.extend($file::$name::onnx().into_iter().map(|n| (n, $file::$name::import as ImportFn)));)*
            all
        }

        /// The importer's table by name; of two with one name the first.
        static IMPORTERS: LazyLock<BTreeMap<&'static str, ImportFn>> =
            LazyLock::new(|| importers().into_iter().rev().map(|(n, import)| (n.name, import)).collect());

        /// For every file of the list: its name and the cases to test it on.
        pub fn all_samples() -> Vec<(&'static str, Vec<Sample>)> {
            vec![$((stringify!($file), $file::$name::samples())),*]
        }

        impl Operator for Op {
            fn names() -> Vec<&'static str> {
                let mut all = vec![];
                $(all.extend($file::$name::names());)*
                all
            }
            fn onnx() -> Vec<OnnxName> {
                importers().into_iter().map(|(n, _)| n).collect()
            }
            fn name(&self) -> &'static str {
                match self { $(Op::$name(op) => op.name()),* }
            }
            fn attrs(&self) -> Attrs {
                match self { $(Op::$name(op) => op.attrs()),* }
            }
            fn parse(name: &str, attrs: Attrs) -> Result<Self, String> {
                $(if $file::$name::names().contains(&name) {
                    return $file::$name::parse(name, attrs).map(Op::from);
                })*
                Err(format!("unknown operator `{name}`"))
            }
            fn import(node: &OnnxNode<'_>, cx: &mut Importer<'_>) -> Result<Vec<ValueId>, ImportError> {
                match IMPORTERS.get(node.op_type()) {
                    Some(import) => import(node, cx),
                    None => Err(ImportError::new("the operator is not supported")),
                }
            }
            fn infer(&self, ins: &[Fact]) -> Result<Vec<Fact>, InferError> {
                match self { $(Op::$name(op) => op.infer(ins)),* }
            }
            fn infer_dims(&self, ins: &[Option<Vec<Dim>>], facts: &[Fact]) -> Option<Vec<Dim>> {
                match self { $(Op::$name(op) => op.infer_dims(ins, facts)),* }
            }
            fn eval(&self, ins: &[Tensor]) -> Result<Vec<Tensor>, String> {
                match self { $(Op::$name(op) => op.eval(ins)),* }
            }
            fn class(&self) -> OpClass {
                match self { $(Op::$name(op) => op.class()),* }
            }
            fn scalar(&self, ins: &[DType], out: DType, args: &[Expr]) -> Option<Expr> {
                match self { $(Op::$name(op) => op.scalar(ins, out, args)),* }
            }
            fn source(&self, ins: &[Fact], out: &Fact, index: &[Expr]) -> Option<Source> {
                match self { $(Op::$name(op) => op.source(ins, out, index)),* }
            }
            fn channels_last(&self) -> Option<Op> {
                match self { $(Op::$name(op) => op.channels_last()),* }
            }
            fn permuted(&self, perm: &[usize], ins: &[Fact]) -> Option<Op> {
                match self { $(Op::$name(op) => op.permuted(perm, ins)),* }
            }
            fn permutes(&self, i: usize) -> bool {
                match self { $(Op::$name(op) => op.permutes(i)),* }
            }
            fn halo(&self, ins: &[Fact]) -> Option<crate::lower::Padding> {
                match self { $(Op::$name(op) => op.halo(ins)),* }
            }
            fn lower(&self, cx: &mut LowerCx<'_>) -> Result<(), LowerError> {
                match self { $(Op::$name(op) => op.lower(cx)),* }
            }
            fn tolerance(&self) -> Tolerance {
                match self { $(Op::$name(op) => op.tolerance()),* }
            }
            fn samples() -> Vec<Sample> {
                all_samples().into_iter().flat_map(|(_, s)| s).collect()
            }
        }
    };
}

ops! {
    activation::Activation,
    arg_reduce::ArgReduce,
    binary::Binary,
    bitcast::BitCast,
    branch::Branch,
    cast::Cast,
    choose::Choose,
    clip::Clip,
    concat::Concat,
    conv::Conv,
    conv_transpose::ConvTranspose,
    cumulate::Cumulate,
    cut::Cut,
    dequantize::Dequantize,
    det::Det,
    expand::Expand,
    gather::Gather,
    gather_elements::GatherElements,
    gather_nd::GatherNd,
    gelu::Gelu,
    grid_sample::GridSample,
    is_inf::IsInf,
    layer_norm::LayerNorm,
    linear_attention::LinearAttention,
    lookup::Lookup,
    matmul::MatMul,
    nearest::Nearest,
    nibble_matmul::NibbleMatMul,
    nonzero::NonZero,
    pad::Pad,
    pair_coupling::PairCoupling,
    pool::Pool,
    quantize::Quantize,
    recurrent::Recurrent,
    reduce::Reduce,
    repeat::Repeat,
    requantize::Requantize,
    resample::Resample,
    reshape::Reshape,
    reverse_sequence::ReverseSequence,
    roi_align::RoiAlign,
    scatter_elements::ScatterElements,
    scatter_nd::ScatterNd,
    slice::Slice,
    softmax::Softmax,
    suppress::Suppress,
    symbolic::Symbolic,
    top_k::TopK,
    transpose::Transpose,
    tree_ensemble::TreeEnsemble,
    trilu::Trilu,
    unary::Unary,
    unique::Unique,
    where_::Where,
    winograd_conv::WinogradConv,
    winograd_weight::WinogradWeight;

    // ONNX operators that become others at import: `onnx()` and `import()`, nothing else.
    functions:
    attention,
    batch_norm,
    compress,
    deform_conv,
    depth_to_space,
    dropout,
    dynamic_quantize,
    einsum,
    eye_like,
    fused,
    global_lp_pool,
    hardmax,
    historical,
    integer_product,
    linear_models,
    losses,
    lp_norm,
    lrn,
    ml_features,
    ms_attention,
    one_hot,
    optimizers,
    placement,
    quantized,
    quantized_weights,
    random,
    recurrent_mixing,
    resize,
    rotary,
    shape,
    skip_norm,
    spectral,
    split,
    svm,
    tfidf,
    trees,
}
