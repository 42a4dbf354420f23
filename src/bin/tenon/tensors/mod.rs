//! Tensors in files: `.npy`, `.npz`, and ONNX's `.pb`.

mod npy;

use crate::failure::{Failure, Outcome};
use crate::output;
use npy::Head;
use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::{Path, PathBuf};
use tenon::{Fact, Tensor};

/// A tensor with the name its file gives it (empty where it gives none).
pub(crate) type Named = (String, Tensor);

/// The arrays of a file, of which only the headers have been read: whoever needs one asks for it when its type fits.
pub(crate) struct Arrays {
    path: PathBuf,
    all: Vec<Array>,
}

/// An array of a file.
pub(crate) struct Array {
    /// Its name; empty where the file gives none.
    pub(crate) name: String,
    /// Its type.
    pub(crate) fact: Fact,
    place: Place,
}

/// Where an array's elements are.
enum Place {
    /// Behind the header of a file.
    Npy(Head),
    /// In an entry of an archive.
    Npz(Head),
    /// Here: a mapped file.
    Read(Tensor),
}

impl Arrays {
    /// Reads the headers of a file; the kind is told by its ending.
    pub(crate) fn open(path: &Path) -> Outcome<Arrays> {
        let bad = |e: &dyn std::fmt::Display| Failure::bad_input(format!("cannot read {}: {e}", path.display()));
        let all = match extension(path) {
            "npy" => {
                let mut file = BufReader::new(File::open(path).map_err(|e| bad(&e))?);
                let head = Head::read(&mut file).map_err(|e| bad(&e))?;
                // A pipe has no length: of it as much is read as comes.
                if let Some(about) = file.get_ref().metadata().ok().filter(std::fs::Metadata::is_file) {
                    head.expect(about.len()).map_err(|e| bad(&e))?;
                }
                vec![Array { name: String::new(), fact: head.fact.clone(), place: Place::Npy(head) }]
            }
            "npz" => {
                let mut archive = npyz::npz::NpzArchive::open(path).map_err(|e| bad(&e))?;
                let mut names: Vec<String> = archive.array_names().map(str::to_string).collect();
                names.sort();
                let mut all = vec![];
                for name in names {
                    let head = entry_head(&mut archive, &name).map_err(|e| bad(&format!("array `{name}`: {e}")))?;
                    all.push(Array { name, fact: head.fact.clone(), place: Place::Npz(head) });
                }
                all
            }
            "pb" => {
                // The problems are kept: an element type that is not supported is told from a broken file.
                let tensor = tenon::frontend::read_tensor_file(path).map_err(tenon::Error::Model)?;
                vec![Array { name: String::new(), fact: tensor.fact(), place: Place::Read(tensor) }]
            }
            _ => return Err(bad(&"expected a .npy, .npz or .pb file")),
        };
        Ok(Arrays { path: path.to_path_buf(), all })
    }

    /// What the file holds.
    pub(crate) fn list(&self) -> &[Array] {
        &self.all
    }

    /// The array `name`, or the only one.
    pub(crate) fn one(&self, name: Option<&str>) -> Outcome<&Array> {
        let found = match name {
            Some(n) => self.all.iter().find(|a| a.name == n),
            None => self.all.first().filter(|_| self.all.len() == 1),
        };
        found.ok_or_else(|| {
            let wanted = name.map_or("one array".to_string(), |n| format!("an array `{n}`"));
            let names: Vec<String> = self.all.iter().map(|a| format!("`{}`", a.name)).collect();
            Failure::bad_input(format!(
                "{}: expected {wanted}, found {}; write FILE:ARRAY to choose",
                self.path.display(),
                if names.is_empty() { "none".to_string() } else { names.join(", ") }
            ))
        })
    }

    /// An array that must be one of `expected`, in words, and is not.
    pub(crate) fn misfit(&self, array: &Array, expected: &dyn std::fmt::Display) -> Failure {
        let name = if array.name.is_empty() { String::new() } else { format!("array `{}`: ", array.name) };
        Failure::bad_input(format!("{}: {name}expected {expected}, found {}", self.path.display(), array.fact))
    }

    /// The elements of one of these arrays; of the first axis only the first `rows` where that is given (an array that lies by
    /// columns is read whole all the same).
    pub(crate) fn read(&self, array: &Array, rows: Option<usize>) -> Outcome<Tensor> {
        let tensor = match &array.place {
            Place::Read(t) => return Ok(t.clone()),
            Place::Npy(head) => self.skip_and_read(head, rows),
            Place::Npz(head) => self.entry(&array.name, head, rows),
        };
        let name = if array.name.is_empty() { String::new() } else { format!("array `{}`: ", array.name) };
        tensor.map_err(|e| Failure::bad_input(format!("cannot read {}: {name}{e}", self.path.display())))
    }

    fn skip_and_read(&self, head: &Head, rows: Option<usize>) -> Result<Tensor, String> {
        let mut file = BufReader::new(File::open(&self.path).map_err(|e| e.to_string())?);
        std::io::copy(&mut file.by_ref().take(head.header), &mut std::io::sink()).map_err(|e| e.to_string())?;
        head.elements(&mut file, rows)
    }

    fn entry(&self, name: &str, head: &Head, rows: Option<usize>) -> Result<Tensor, String> {
        let mut archive = npyz::npz::NpzArchive::open(&self.path).map_err(|e| e.to_string())?;
        let file = npyz::npz::file_name_from_array_name(name);
        let mut entry = archive.zip_archive().by_name(&file).map_err(|e| e.to_string())?;
        std::io::copy(&mut entry.by_ref().take(head.header), &mut std::io::sink()).map_err(|e| e.to_string())?;
        let tensor = head.elements(&mut entry, rows)?;
        // At the end the checksum is compared.
        let whole = tensor.bytes().len() == head.data;
        if whole && entry.read(&mut [0]).map_err(|e| e.to_string())? > 0 {
            return Err(format!("expected {} bytes of data, as its header says, found more", head.data));
        }
        Ok(tensor)
    }
}

/// The header of array `name`, which the archive's directory must agree with.
fn entry_head(archive: &mut npyz::npz::NpzArchive<BufReader<File>>, name: &str) -> Result<Head, String> {
    let file = npyz::npz::file_name_from_array_name(name);
    let mut entry = archive.zip_archive().by_name(&file).map_err(|e| e.to_string())?;
    let size = entry.size();
    let head = Head::read(&mut entry)?;
    head.expect(size)?;
    if size > head.header + head.data as u64 {
        let (said, found) = (head.data, size - head.header);
        return Err(format!("expected {said} bytes of data, as its header says, found {found}"));
    }
    Ok(head)
}

/// Reads one tensor: array `name` of the file, or its only one.
pub(crate) fn read_one(path: &Path, name: Option<&str>) -> Outcome<Tensor> {
    let arrays = Arrays::open(path)?;
    arrays.read(arrays.one(name)?, None)
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
            [(_, t)] if extension(path) == "npy" => npy::write(file, t).map_err(WriteError),
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
        npy::write(&mut bytes, t)?;
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

#[cfg(test)]
mod tests {
    use super::*;

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
        let back = Arrays::open(&path).unwrap();
        assert_eq!(back.list().len(), 3);
        for ((n, t), a) in all.iter().zip(back.list()) {
            let u = back.read(a, None).unwrap();
            assert_eq!((n, t.fact(), t.bytes()), (&a.name, u.fact(), u.bytes()));
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
    fn an_entry_of_another_size_than_its_header_says_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("more.npz");
        let mut bytes = vec![];
        npy::write(&mut bytes, &Tensor::new(&[2], &[1f32, 2.0])).unwrap();
        for (len, told) in [(bytes.len() + 4, "found 12"), (bytes.len() - 4, "cut off"), (bytes.len(), "")] {
            bytes.resize(len, 0);
            let mut archive = npyz::npz::NpzWriter::new(File::create(&path).unwrap());
            archive.zip_writer().start_file("x.npy", Default::default()).unwrap();
            archive.zip_writer().write_all(&bytes).unwrap();
            archive.zip_writer().finish().unwrap();
            let found = read_one(&path, None);
            match told {
                "" => assert_eq!(found.unwrap().shape(), [2]),
                _ => {
                    let e = found.unwrap_err().message;
                    assert!(e.contains(told) && e.contains("more.npz") && e.contains("`x`"), "{e}");
                }
            }
        }
    }
}
