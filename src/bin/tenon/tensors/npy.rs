//! One array in numpy's format: a header that says what it is, then its elements.
//!
//! What a header claims is compared with what is there before room is made, so a small file never takes much memory.

use npyz::WriterBuilder;
use std::io::{Read, Write};
use tenon::{DType, Fact, Tensor};

/// What a header says.
#[derive(Clone, Debug)]
pub(super) struct Head {
    /// Element type and extents.
    pub(super) fact: Fact,
    shape: Vec<usize>,
    /// Bytes of the header, and of the elements behind it.
    pub(super) header: u64,
    pub(super) data: usize,
    big_endian: bool,
    column_major: bool,
}

/// Bytes of a header at most.
const LONGEST_HEAD: usize = 1 << 16;

impl Head {
    /// Reads a header; `r` is at the first element then.
    pub(super) fn read(r: &mut impl Read) -> Result<Head, String> {
        let head = header_bytes(r)?;
        let header = npyz::NpyHeader::from_reader(&head[..]).map_err(|e| e.to_string())?;
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
        let data = shape.iter().try_fold(dtype.size(), |n, &d| n.checked_mul(d)).ok_or("the array is too large")?;
        Ok(Head {
            fact: Fact::of(dtype, &shape),
            header: head.len() as u64,
            data,
            big_endian: order == ">" && dtype.size() > 1,
            column_major: header.order() == npyz::Order::Fortran && shape.len() > 1,
            shape,
        })
    }

    /// Compares what the header asks for with the bytes of the whole file or entry.
    pub(super) fn expect(&self, found: u64) -> Result<(), String> {
        let found = found.saturating_sub(self.header);
        if found < self.data as u64 {
            return Err(format!("the file is cut off: expected {} bytes of data, found {found}", self.data));
        }
        Ok(())
    }

    /// The elements, from a reader that is at the first; only the first `rows` of the first axis where that is given.
    pub(super) fn elements(&self, r: &mut impl Read, rows: Option<usize>) -> Result<Tensor, String> {
        let mut shape = self.shape.clone();
        // Of an array that lies by columns a row is everywhere.
        let cut = rows.filter(|_| !self.column_major);
        if let (Some(rows), Some(first)) = (cut, shape.first_mut()) {
            *first = rows.min(*first);
        }
        let dtype = self.fact.dtype;
        let len = shape.iter().product::<usize>() * dtype.size();
        let mut bytes = room(len)?;
        r.take(len as u64).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if bytes.len() != len {
            return Err(format!("the file is cut off: expected {len} bytes of data, found {}", bytes.len()));
        }
        if self.big_endian {
            bytes.chunks_exact_mut(dtype.size()).for_each(<[u8]>::reverse);
        }
        if self.column_major {
            bytes = row_major(&bytes, &shape, dtype.size())?;
        }
        Tensor::from_bytes(dtype, &shape, bytes.into()).map_err(|e| e.to_string())
    }
}

/// An empty list with room for `len` bytes.
fn room(len: usize) -> Result<Vec<u8>, String> {
    let mut bytes = vec![];
    bytes.try_reserve_exact(len).map_err(|_| format!("there is no memory for its {len} bytes"))?;
    Ok(bytes)
}

/// The header of an array, as bytes. The numbers in it are looked at first: `npyz` multiplies extents without care.
fn header_bytes(r: &mut impl Read) -> Result<Vec<u8>, String> {
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
fn row_major(bytes: &[u8], shape: &[usize], size: usize) -> Result<Vec<u8>, String> {
    let mut out = room(bytes.len())?;
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
    Ok(out)
}

/// Writes `t` with its header.
pub(super) fn write(mut w: impl Write, t: &Tensor) -> Result<(), String> {
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

    fn read(file: &[u8]) -> Result<Tensor, String> {
        let mut r = file;
        let head = Head::read(&mut r)?;
        head.expect(file.len() as u64)?;
        head.elements(&mut r, None)
    }

    #[test]
    fn extents_that_cannot_be_are_told() {
        let of = |shape: &str| {
            let text = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}\n");
            let mut file = b"\x93NUMPY\x01\x00".to_vec();
            file.extend((text.len() as u16).to_le_bytes());
            file.extend(text.as_bytes());
            file.extend([0; 8]);
            read(&file)
        };
        assert_eq!(of("(1, 2)").unwrap().shape(), [1, 2]);
        for (shape, why) in [
            ("(4294967296, 4294967296)", "too large"),
            ("(4294967296, 4294967296, 0)", "too large"),
            ("(99999999999999999999999,)", "not an extent"),
            ("(0x7fffffffffffffff, 8)", "not an extent"),
            ("(1000000, 1000000)", "cut off"),
            ("(-1,)", "negative"),
        ] {
            let e = of(shape).unwrap_err();
            assert!(e.contains(why), "{shape}: {e}");
        }
        assert!(read(b"\x93NUMPY\x02\x00\xff\xff\xff\xff").unwrap_err().contains("header"));
        assert!(read(b"\x93NUM").unwrap_err().contains("header"));
    }

    #[test]
    fn column_major_is_turned() {
        let bytes = [0u8, 3, 1, 4, 2, 5]; // [[0,1,2],[3,4,5]] by columns
        assert_eq!(row_major(&bytes, &[2, 3], 1).unwrap(), [0, 1, 2, 3, 4, 5]);
    }

    #[test]
    fn a_cut_off_file_is_an_error() {
        let mut bytes = vec![];
        write(&mut bytes, &Tensor::new(&[4], &[1f32; 4])).unwrap();
        bytes.truncate(bytes.len() - 3);
        assert!(read(&bytes).unwrap_err().contains("cut off"));
    }

    #[test]
    fn rows_alone_are_read() {
        let mut bytes = vec![];
        write(&mut bytes, &Tensor::new(&[3, 2], &[0i32, 1, 2, 3, 4, 5])).unwrap();
        let mut r = &bytes[..];
        let head = Head::read(&mut r).unwrap();
        assert_eq!(head.elements(&mut r, Some(2)).unwrap(), Tensor::new(&[2, 2], &[0i32, 1, 2, 3]));
        assert_eq!(r.len(), 8, "the last row is not looked at");
    }
}
