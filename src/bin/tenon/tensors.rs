//! Tensors in files: `.npy`, `.npz`, and ONNX's `.pb`.

use crate::failure::{Failure, Outcome};
use crate::output;
use npyz::WriterBuilder;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use tenon::{DType, Tensor};

/// A tensor with the name its file gives it (empty where it gives none).
pub(crate) type Named = (String, Tensor);

/// Reads every tensor of a file; the kind is told by its ending.
pub(crate) fn read_all(path: &Path) -> Outcome<Vec<Named>> {
    let bad = |e: &dyn std::fmt::Display| Failure::bad_input(format!("cannot read {}: {e}", path.display()));
    match extension(path) {
        "npy" => {
            let file = File::open(path).map_err(|e| bad(&e))?;
            Ok(vec![(String::new(), read_npy(BufReader::new(file)).map_err(|e| bad(&e))?)])
        }
        "npz" => {
            let mut archive = npyz::npz::NpzArchive::open(path).map_err(|e| bad(&e))?;
            let mut names: Vec<String> = archive.array_names().map(str::to_string).collect();
            names.sort();
            let mut all = vec![];
            for name in names {
                let file = npyz::npz::file_name_from_array_name(&name);
                let tensor = match archive.zip_archive().by_name(&file) {
                    Ok(entry) => read_npy(entry),
                    Err(e) => Err(e.to_string()),
                };
                all.push((name.clone(), tensor.map_err(|e| bad(&format!("array `{name}`: {e}")))?));
            }
            Ok(all)
        }
        "pb" => {
            // The problems are kept: an element type that is not supported is told from a broken file.
            let tensor = tenon::frontend::read_tensor_file(path).map_err(tenon::Error::Model)?;
            Ok(vec![(String::new(), tensor)])
        }
        _ => Err(bad(&"expected a .npy, .npz or .pb file")),
    }
}

/// Reads one tensor: array `name` of the file, or its only one.
pub(crate) fn read_one(path: &Path, name: Option<&str>) -> Outcome<Tensor> {
    let mut all = read_all(path)?;
    let names = || all.iter().map(|(n, _)| format!("`{n}`")).collect::<Vec<_>>().join(", ");
    let at = match name {
        Some(n) => all.iter().position(|(m, _)| m == n),
        None => (all.len() == 1).then_some(0),
    };
    match at {
        Some(i) => Ok(all.swap_remove(i).1),
        None => {
            let wanted = name.map_or("one array".to_string(), |n| format!("an array `{n}`"));
            Err(Failure::bad_input(format!(
                "{}: expected {wanted}, found {}; write FILE:ARRAY to choose",
                path.display(),
                if all.is_empty() { "none".to_string() } else { names() }
            )))
        }
    }
}

/// Writes tensors: one to a `.npy`, any number to a `.npz`. Nothing half-written is left behind.
pub(crate) fn write(path: &Path, tensors: &[Named]) -> Outcome<()> {
    let wrong = match (extension(path), tensors) {
        ("npy", [_]) | ("npz", _) => None,
        ("npy", _) => Some(format!("{} outputs do not fit one .npy; use .npz", tensors.len())),
        _ => Some("expected the name to end in .npy or .npz".to_string()),
    };
    let written = match wrong {
        Some(what) => Err(WriteError(what)),
        None => output::write_file(path, |file| match tensors {
            [(_, t)] if extension(path) == "npy" => write_npy(file, t).map_err(WriteError),
            _ => write_npz(file, tensors).map_err(|e| WriteError(e.to_string())),
        }),
    };
    written.map_err(|WriteError(e)| Failure::bad_input(format!("cannot write {}: {e}", path.display())))
}

/// Why a file could not be written.
struct WriteError(String);

impl From<std::io::Error> for WriteError {
    fn from(e: std::io::Error) -> WriteError {
        WriteError(e.to_string())
    }
}

fn write_npz(file: &mut File, tensors: &[Named]) -> Result<(), Box<dyn std::error::Error>> {
    let mut archive = npyz::npz::NpzWriter::new(file);
    for (name, t) in tensors {
        // The writer knows how to open a member; the bytes in it are ours.
        let mut bytes = vec![];
        write_npy(&mut bytes, t)?;
        let file = npyz::npz::file_name_from_array_name(name);
        let zip = archive.zip_writer();
        zip.start_file(file, Default::default())?;
        zip.write_all(&bytes)?;
    }
    archive.zip_writer().finish()?;
    Ok(())
}

fn extension(path: &Path) -> &str {
    path.extension().and_then(|e| e.to_str()).unwrap_or("")
}

fn read_npy(mut r: impl Read) -> Result<Tensor, String> {
    let head = read_head(&mut r)?;
    let header = npyz::NpyHeader::from_reader(&head[..]).map_err(|e| e.to_string())?;
    read_array(&header, r)
}

/// Bytes of a header at most.
const LONGEST_HEAD: usize = 1 << 16;

/// The header of an array, as bytes. The numbers in it are looked at first: `npyz` multiplies extents without care.
fn read_head(r: &mut impl Read) -> Result<Vec<u8>, String> {
    let mut head = vec![0; 10];
    let mut fill = |head: &mut Vec<u8>, from: usize, len: usize| {
        head.resize(from + len, 0);
        r.read_exact(&mut head[from..]).map_err(|e| format!("no header: {e}"))
    };
    fill(&mut head, 0, 10)?;
    // The length of the text: two bytes in the first version of the format, four in later ones.
    let len = if head[6] < 2 {
        u16::from_le_bytes([head[8], head[9]]).into()
    } else {
        fill(&mut head, 10, 2)?;
        u32::from_le_bytes([head[8], head[9], head[10], head[11]])
    } as usize;
    if len > LONGEST_HEAD {
        return Err(format!("a header of {len} bytes"));
    }
    let begin = head.len();
    fill(&mut head, begin, len)?;
    let text = String::from_utf8_lossy(&head[begin..]).into_owned();
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let mut product = 1u64;
    for number in words.filter(|w| w.starts_with(|c: char| c.is_ascii_digit())) {
        let extent: u64 = number.parse().map_err(|_| format!("`{number}` is not an extent"))?;
        product = product.checked_mul(extent.max(1)).filter(|p| *p < 1 << 60).ok_or("the array is too large")?;
    }
    Ok(head)
}

fn read_array(header: &npyz::NpyHeader, r: impl Read) -> Result<Tensor, String> {
    let descr = header.dtype().descr();
    let descr = descr.trim_matches('\'');
    let (order, kind) = descr.split_at(1.min(descr.len()));
    let dtype = NUMPY.iter().find(|(_, k)| *k == kind).map(|(d, _)| *d).ok_or_else(|| {
        let known = NUMPY.map(|(_, k)| k).join(", ");
        format!("dtype {descr} is not supported (supported: {known})")
    })?;
    let shape: Vec<usize> = header
        .shape()
        .iter()
        .map(|&d| usize::try_from(d).map_err(|_| format!("extent {d} is too large")))
        .collect::<Result<_, _>>()?;
    let len = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d)).ok_or("the array is too large")?;
    // `take` bounds what is read; the buffer grows with what is there, not with what the header claims.
    let mut bytes = vec![];
    r.take(len as u64).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
    if bytes.len() != len {
        return Err(format!("the file is cut off: expected {len} bytes of data, found {}", bytes.len()));
    }
    if order == ">" && dtype.size() > 1 {
        bytes.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
    }
    if header.order() == npyz::Order::Fortran && shape.len() > 1 {
        bytes = row_major(&bytes, &shape, dtype.size());
    }
    Tensor::from_bytes(dtype, &shape, bytes.into()).map_err(|e| e.to_string())
}

/// numpy's names without the byte order.
const NUMPY: [(DType, &str); 12] = [
    (DType::F32, "f4"),
    (DType::F64, "f8"),
    (DType::F16, "f2"),
    (DType::I8, "i1"),
    (DType::I16, "i2"),
    (DType::I32, "i4"),
    (DType::I64, "i8"),
    (DType::U8, "u1"),
    (DType::U16, "u2"),
    (DType::U32, "u4"),
    (DType::U64, "u8"),
    (DType::Bool, "b1"),
];

/// Column-major elements in row-major order.
fn row_major(bytes: &[u8], shape: &[usize], size: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut index = vec![0; shape.len()];
    for _ in 0..bytes.len() / size {
        let at = index.iter().zip(shape).rev().fold(0, |at, (i, d)| at * d + i);
        out.extend_from_slice(&bytes[at * size..(at + 1) * size]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            if index[axis] < shape[axis] {
                break;
            }
            index[axis] = 0;
        }
    }
    out
}

fn write_npy(mut w: impl Write, t: &Tensor) -> Result<(), String> {
    // numpy has no names for what is only stored: the bits are written.
    let kind = NUMPY.iter().find(|(d, _)| *d == t.dtype().carrier()).map(|(_, k)| *k).unwrap_or_default();
    let order = if t.dtype().size() == 1 { '|' } else { '<' };
    let descr = format!("{order}{kind}").parse().map_err(|e| format!("dtype: {e}"))?;
    let shape: Vec<u64> = t.shape().iter().map(|&d| d as u64).collect();
    npyz::WriteOptions::new_header_only()
        .dtype(npyz::DType::Plain(descr))
        .shape(&shape)
        .writer(&mut w)
        .write_header_only()
        .map_err(|e| e.to_string())?;
    w.write_all(t.bytes()).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extents_that_cannot_be_are_told() {
        let read = |shape: &str| {
            let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
            let mut file = b"\x93NUMPY\x01\x00".to_vec();
            file.extend((text.len() as u16).to_le_bytes());
            file.extend(text.as_bytes());
            file.extend([0; 8]);
            read_npy(&file[..])
        };
        assert_eq!(read("(1, 2)").unwrap().shape(), [1, 2]);
        for (shape, why) in [
            ("(4294967296, 4294967296)", "too large"),
            ("(4294967296, 4294967296, 0)", "too large"),
            ("(99999999999999999999999,)", "not an extent"),
            ("(0x7fffffffffffffff, 8)", "not an extent"),
            ("(1000000, 1000000)", "cut off"),
            ("(-1,)", "negative"),
        ] {
            let e = read(shape).unwrap_err();
            assert!(e.contains(why), "{shape}: {e}");
        }
        assert!(read_npy(&b"\x93NUMPY\x02\x00\xff\xff\xff\xff"[..]).unwrap_err().contains("header"));
        assert!(read_npy(&b"\x93NUM"[..]).unwrap_err().contains("header"));
    }

    #[test]
    fn npz_and_npy_come_back_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let all = [
            ("a".to_string(), Tensor::new(&[2, 3], &[1f32, -2.5, 3.0, f32::NAN, 5.0, 6.0])),
            ("b".to_string(), Tensor::new(&[], &[7i64])),
            ("c".to_string(), Tensor::new(&[2], &[true, false])),
        ];
        let path = folder.path().join("all.npz");
        write(&path, &all).unwrap();
        let back = read_all(&path).unwrap();
        assert_eq!(back.len(), 3);
        for ((n, t), (m, u)) in all.iter().zip(&back) {
            assert_eq!((n, t.fact(), t.bytes()), (m, u.fact(), u.bytes()));
        }
        let path = folder.path().join("one.npy");
        write(&path, &all[..1]).unwrap();
        assert_eq!(read_one(&path, None).unwrap().bytes(), all[0].1.bytes());
        assert!(write(&path, &all).unwrap_err().message.contains(".npz"));
    }

    #[test]
    fn a_choice_of_arrays_needs_a_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("two.npz");
        let t = Tensor::new(&[1], &[1u8]);
        write(&path, &[("x".into(), t.clone()), ("y".into(), t)]).unwrap();
        assert!(read_one(&path, None).unwrap_err().message.contains("`x`, `y`"));
        assert!(read_one(&path, Some("y")).is_ok());
        assert!(read_one(&path, Some("z")).unwrap_err().message.contains("array `z`"));
    }

    #[test]
    fn column_major_is_turned() {
        let bytes = [0u8, 3, 1, 4, 2, 5]; // [[0,1,2],[3,4,5]] by columns
        assert_eq!(row_major(&bytes, &[2, 3], 1), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_cut_off_file_is_an_error() {
        let mut bytes = vec![];
        write_npy(&mut bytes, &Tensor::new(&[4], &[1f32; 4])).unwrap();
        bytes.truncate(bytes.len() - 3);
        assert!(read_npy(&bytes[..]).unwrap_err().contains("cut off"));
    }
}
