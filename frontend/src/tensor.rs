//! Tensors of the file format.

use crate::files::{self, DataFiles};
use crate::limits::{MAX_RANK, bytes_of};
use crate::proto::{OptionalProto, SequenceProto, SparseTensorProto, TensorProto};
use crate::wire;
use bytes::Bytes;
use prost::Message as _;
use std::path::Path;
use tenon_base::{DType, Diagnostic, Diagnostics, Element, Tensor};
use tenon_ir::ImportError;
use tenon_ir::import::dtype_of_code;

/// Reads a `.pb` file that holds one tensor, as in ONNX's `test_data_set_*` folders.
///
/// # Errors
/// When the file cannot be read, is not valid protobuf, holds a sequence or optional instead of a tensor, has an element type
/// that is not supported, or data that do not fit its shape.
pub fn read_tensor_file(path: &Path) -> Result<Tensor, Diagnostics> {
    let folder = path.parent();
    let result = files::map(path).and_then(|data| decode(&data, &mut DataFiles::new(folder)));
    result.map_err(|e| problem(&path.display().to_string(), e))
}

/// The same, from bytes; `name` is for messages.
///
/// # Errors
/// As [`read_tensor_file`].
pub fn read_tensor_bytes(name: &str, data: &Bytes) -> Result<Tensor, Diagnostics> {
    decode(data, &mut DataFiles::new(None)).map_err(|e| problem(name, e))
}

/// What a data file holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// A tensor; or an optional that holds one.
    Tensor(Tensor),
    /// A sequence of tensors; or an optional that holds one.
    Sequence(Vec<Tensor>),
    /// An optional that holds nothing.
    Nothing,
}

/// Reads a file that holds a value of type `ty`, in the words of [`crate::ModelInfo::types`].
///
/// # Errors
/// When the file cannot be read, or does not hold such a value.
pub fn read_data_file(path: &Path, ty: &str) -> Result<Data, Diagnostics> {
    let mut external = DataFiles::new(path.parent());
    let result = files::map(path).and_then(|data| decode_data(&data, ty, &mut external));
    result.map_err(|e| problem(&path.display().to_string(), e))
}

fn decode_data(data: &Bytes, ty: &str, external: &mut DataFiles) -> Result<Data, ImportError> {
    let wrong = |e: prost::DecodeError| ImportError::new(format!("not of type {ty}: {e}"));
    let mut sequence = |s: &SequenceProto| {
        s.tensor_values.iter().map(|t| to_tensor(t, external)).collect::<Result<_, _>>().map(Data::Sequence)
    };
    if ty.starts_with("sequence") {
        wire::check(data, wire::Message::Sequence)?;
        return sequence(&SequenceProto::decode(data.clone()).map_err(wrong)?);
    }
    if !ty.starts_with("optional") {
        return decode(data, external).map(Data::Tensor);
    }
    wire::check(data, wire::Message::Optional)?;
    let o = OptionalProto::decode(data.clone()).map_err(wrong)?;
    match (&o.tensor_value, &o.sequence_value) {
        (_, Some(s)) => sequence(s),
        (Some(t), None) => to_tensor(t, external).map(Data::Tensor),
        (None, None) => Ok(Data::Nothing),
    }
}

fn problem(name: &str, e: ImportError) -> Diagnostics {
    let mut d = Diagnostic::error(e.message).at(tenon_base::Loc::new(name), "");
    d.help = e.help;
    d.into()
}

fn decode(data: &Bytes, external: &mut DataFiles) -> Result<Tensor, ImportError> {
    wire::check(data, wire::Message::Tensor)?;
    let proto = TensorProto::decode(data.clone()).map_err(|e| ImportError::new(format!("not a tensor: {e}")))?;
    // A sequence or optional has its elements in field 3 (a tensor: `segment`, which nobody writes), and an empty one has no data.
    // Its field 2, the kind of the elements, goes up to 5. Its field 1 is a name; that of a tensor are the extents, which few
    // writers pack into one field.
    let empty =
        proto.raw_data.is_none() && proto.data_location == 0 && typed_len(&proto) == 0 && proto.data_type <= 5;
    let other = ImportError::new("not a tensor: the file holds a sequence, an optional or a tensor without data")
        .with_help("only tensors can be read; sequences and optionals are not supported");
    if proto.segment.is_some() || (empty && !proto.dims.contains(&0)) {
        return Err(other);
    }
    let starts_with_name = data.first() == Some(&0x0a);
    to_tensor(&proto, external).map_err(|e| if starts_with_name { other } else { e })
}

/// Elements in all typed fields.
pub(crate) fn typed_len(p: &TensorProto) -> usize {
    p.float_data.len() + p.int32_data.len() + p.int64_data.len() + p.double_data.len() + p.uint64_data.len()
}

/// The tensor, over the bytes of the file where they are stored raw.
pub(crate) fn to_tensor(p: &TensorProto, external: &mut DataFiles) -> Result<Tensor, ImportError> {
    if p.data_type == 0 {
        return Err(ImportError::new("its element type is not given"));
    }
    let dtype = dtype_of_code(i64::from(p.data_type))?;
    if p.segment.is_some() {
        return Err(ImportError::new("tensors split into segments are not supported"));
    }
    let (shape, bytes) = extents(dtype, &p.dims)?;
    let n = bytes / dtype.size();
    let typed = typed_len(p);
    let data = match (p.data_location, &p.raw_data) {
        (1, _) => unpacked(from_external(p, packed_len(dtype, n), external)?, dtype, n),
        (0, Some(raw)) if typed == 0 => {
            expect_bytes(packed_len(dtype, n), raw.len(), dtype, &p.dims)?;
            unpacked(raw.clone(), dtype, n)
        }
        (0, Some(_)) => return Err(ImportError::new("it has both raw and typed data")),
        (0, None) => unpacked(from_typed(p, dtype, n)?, dtype, n),
        (other, _) => return Err(ImportError::new(format!("data location {other} is not known"))),
    };
    let data = if dtype == DType::Bool { normalised(data) } else { data };
    Tensor::from_bytes(dtype, &shape, data).map_err(|e| ImportError::new(e.to_string()))
}

/// The bytes of a sparse tensor made dense.
pub(crate) fn dense_bytes(s: &SparseTensorProto) -> Result<usize, ImportError> {
    let code = s.values.as_ref().map_or(0, |v| v.data_type);
    Ok(extents(dtype_of_code(i64::from(code))?, &s.dims)?.1)
}

/// A sparse tensor made dense: zeros but for its values.
pub(crate) fn to_dense(s: &SparseTensorProto, external: &mut DataFiles) -> Result<Tensor, ImportError> {
    let (Some(values), Some(indices)) = (&s.values, &s.indices) else {
        return Err(ImportError::new("expected values and indices"));
    };
    let (values, indices) = (to_tensor(values, external)?, to_tensor(indices, external)?);
    let dtype = values.dtype();
    let (shape, bytes) = extents(dtype, &s.dims)?;
    let (count, rank) = (values.len(), shape.len());
    // One number is a position in the tensor as a list.
    let width = match indices.shape() {
        [n] if *n == count => 1,
        [n, r] if *n == count && *r == rank => rank,
        other => {
            return Err(ImportError::new(format!(
                "expected indices of shape [{count}] or [{count},{rank}] for {count} values of {dtype}{:?}, found {other:?}",
                s.dims
            )));
        }
    };
    let limits = if indices.shape().len() == 1 { vec![shape.iter().product()] } else { shape.clone() };
    let size = dtype.size();
    let mut data = vec![0u8; bytes];
    let at = indices.to_i64();
    for i in 0..count {
        let index = &at[i * width..(i + 1) * width];
        let mut flat = 0usize;
        for (&x, &limit) in index.iter().zip(&limits) {
            let inside = usize::try_from(x).ok().filter(|x| *x < limit);
            flat = flat * limit
                + inside.ok_or_else(|| ImportError::new(format!("its index {index:?} is not in {:?}", s.dims)))?;
        }
        data[flat * size..(flat + 1) * size].copy_from_slice(&values.bytes()[i * size..(i + 1) * size]);
    }
    Tensor::from_bytes(dtype, &shape, data.into()).map_err(|e| ImportError::new(e.to_string()))
}

/// The extents as sizes, and the bytes they ask for.
fn extents(dtype: DType, dims: &[i64]) -> Result<(Vec<usize>, usize), ImportError> {
    if dims.len() > MAX_RANK {
        return Err(ImportError::new(format!("it has {} axes; at most {MAX_RANK} are supported", dims.len())));
    }
    if let Some(d) = dims.iter().find(|d| **d < 0) {
        return Err(ImportError::new(format!("its shape {dims:?} has the negative extent {d}")));
    }
    let too_large = || ImportError::new(format!("its shape {dims:?} asks for more than 2^40 bytes"));
    let bytes = bytes_of(dtype, dims.iter().copied()).ok_or_else(too_large)?;
    let bytes = if dims.contains(&0) { 0 } else { bytes };
    let shape = dims.iter().map(|&d| usize::try_from(d)).collect::<Result<Vec<_>, _>>().map_err(|_| too_large())?;
    Ok((shape, usize::try_from(bytes).map_err(|_| too_large())?))
}

fn expect_bytes(expected: usize, found: usize, dtype: DType, dims: &[i64]) -> Result<(), ImportError> {
    if expected == found {
        return Ok(());
    }
    Err(ImportError::new(format!("expected {expected} bytes of data for {dtype}{dims:?}, found {found}")))
}

/// Bytes of `n` elements in the file, where several of less than a byte share one.
fn packed_len(dtype: DType, n: usize) -> usize {
    if dtype.bits() < 8 { (n * dtype.bits()).div_ceil(8) } else { n * dtype.size() }
}

/// One element a byte, from bytes that hold several, the first in the low bits.
fn unpacked(data: Bytes, dtype: DType, n: usize) -> Bytes {
    let bits = dtype.bits();
    if bits >= 8 {
        return data;
    }
    let unsigned = !dtype.is_signed_int();
    let element = |i: usize| {
        let code = data[i * bits / 8] >> (i * bits % 8) & ((1 << bits) - 1);
        let sign = code >> (bits - 1) != 0 && !unsigned;
        if sign { code | (0xffu8 << bits) } else { code }
    };
    (0..n).map(element).collect()
}

/// Booleans are stored as 0 and 1; other bytes count as true.
fn normalised(data: Bytes) -> Bytes {
    if data.iter().all(|b| *b <= 1) { data } else { data.iter().map(|b| u8::from(*b != 0)).collect() }
}

fn from_typed(p: &TensorProto, dtype: DType, n: usize) -> Result<Bytes, ImportError> {
    // Which field holds which element type is fixed by the format.
    let (field, found) = match dtype {
        DType::F32 => ("float_data", p.float_data.len()),
        DType::F64 => ("double_data", p.double_data.len()),
        DType::I64 => ("int64_data", p.int64_data.len()),
        DType::U32 | DType::U64 => ("uint64_data", p.uint64_data.len()),
        _ => ("int32_data", p.int32_data.len()),
    };
    // Each number holds a byte of the packed form.
    let n = if dtype.bits() < 8 { packed_len(dtype, n) } else { n };
    if found != n {
        let other = typed_len(p) - found;
        let note = if other > 0 { format!(" (and {other} in fields of other types)") } else { String::new() };
        return Err(ImportError::new(format!(
            "expected {n} elements in `{field}` for {dtype}{:?}, found {found}{note}",
            p.dims
        )));
    }
    let mut out = Vec::with_capacity(n * dtype.size());
    match dtype {
        DType::F32 => p.float_data.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        DType::F64 => p.double_data.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        DType::I64 => p.int64_data.iter().for_each(|v| out.extend_from_slice(&v.to_le_bytes())),
        DType::U32 | DType::U64 => narrow(&p.uint64_data, dtype, &mut out)?,
        // The bits of the half, in the low 16 bits.
        DType::F16 => narrow(&p.int32_data, DType::U16, &mut out)?,
        DType::Bool => out.extend(p.int32_data.iter().map(|v| u8::from(*v != 0))),
        // Bits as well; a packed byte may be written as a signed one.
        DType::BF16 => narrow(&p.int32_data, DType::U16, &mut out)?,
        d if d.is_stored() => out.extend(p.int32_data.iter().map(|v| *v as u8)),
        _ => narrow(&p.int32_data, dtype, &mut out)?,
    }
    Ok(out.into())
}

/// Appends integers stored in a wider field.
fn narrow<T: Element + Into<i128>>(values: &[T], dtype: DType, out: &mut Vec<u8>) -> Result<(), ImportError> {
    let (lo, hi) = dtype.int_range().unwrap_or((i128::MIN, i128::MAX));
    for &v in values {
        let v: i128 = v.into();
        if v < lo || v > hi {
            return Err(ImportError::new(format!("its element {v} does not fit {dtype}")));
        }
        out.extend_from_slice(&v.to_le_bytes()[..dtype.size()]);
    }
    Ok(())
}

/// `bytes` bytes of the file that `external_data` names.
fn from_external(p: &TensorProto, bytes: usize, external: &mut DataFiles) -> Result<Bytes, ImportError> {
    let entry = |key: &str| p.external_data.iter().find(|e| e.key == key).map(|e| e.value.as_str());
    let number = |key: &str| {
        let parse = |v: &str| {
            v.trim().parse::<usize>().map_err(|_| {
                ImportError::new(format!("its external data's `{key}` is `{v}`: expected a non-negative number"))
            })
        };
        entry(key).map(parse).transpose()
    };
    let location = entry("location").ok_or_else(|| ImportError::new("its external data have no `location`"))?;
    let offset = number("offset")?.unwrap_or(0);
    if let Some(length) = number("length")?
        && length != bytes
    {
        return Err(ImportError::new(format!("expected {bytes} bytes of external data, found `length` {length}")));
    }
    let file = external.get(location)?;
    let end = offset.checked_add(bytes).filter(|end| *end <= file.len()).ok_or_else(|| {
        ImportError::new(format!(
            "expected {bytes} bytes at {offset} of `{location}`, but that file has {} bytes",
            file.len()
        ))
        .with_help("the data file may be cut short; fetch or export it again")
    })?;
    Ok(file.slice(offset..end))
}
