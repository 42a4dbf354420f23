//! The object engine: what an application would link, linked.

use super::link;
use crate::{Compiled, Error};
use std::ffi::c_void;
use tenon_base::Tensor;
use tenon_cranelift::AlignedBuf;
use tenon_kernel::Program;
use tenon_runtime::Pool;

type Run = unsafe extern "C" fn(*const *const u8, *const *mut u8, *mut u8, *const c_void) -> i32;

/// A model's object, linked into a shared library and loaded.
#[derive(Debug)]
pub(super) struct Linked {
    library: libloading::Library,
    symbol: String,
    pool: Option<Pool>,
    // Dropped after the library: fields drop in order.
    _folder: tempfile::TempDir,
}

impl Linked {
    /// Compiles, links with the system's C compiler and loads.
    pub(super) fn new(c: &Compiled) -> Result<Linked, Error> {
        let folder = tempfile::tempdir().map_err(Error::io("create", std::env::temp_dir()))?;
        let object = folder.path().join("model.o");
        let library = folder.path().join(format!("model{}", std::env::consts::DLL_SUFFIX));
        std::fs::write(&object, c.object()?).map_err(Error::io("write", &object))?;
        let cc = link::compiler(&c.target, true);
        let name = library.to_string_lossy().into_owned();
        link::link(&cc, &c.target, folder.path(), &["-shared", "-nostdlib", "-o", &name, "model.o"])?;
        // SAFETY: the library was just made from our own object, which has no initialisers.
        let library = unsafe { libloading::Library::new(&library) }.map_err(|e| Error::Link(e.to_string()))?;
        Ok(Linked {
            library,
            symbol: format!("{}_run", c.program.name),
            pool: crate::jit::pool_for(&c.program),
            _folder: folder,
        })
    }

    /// Runs on `inputs`, which have been checked against `program`.
    pub(super) fn run(
        &self,
        program: &Program,
        inputs: &[Tensor],
        states: &mut Vec<Tensor>,
    ) -> Result<Vec<Tensor>, Error> {
        // SAFETY: the entry point has this signature by the artifact's contract (`tenon-abi`).
        let run: libloading::Symbol<'_, Run> =
            unsafe { self.library.get(self.symbol.as_bytes()) }.map_err(|e| Error::Link(e.to_string()))?;
        let aligned: Vec<AlignedBuf> = inputs.iter().map(|t| holding(t.bytes())).collect();
        let ins: Vec<*const u8> = aligned.iter().map(|b| b.as_slice().as_ptr()).collect();
        let mut outs: Vec<AlignedBuf> =
            program.outputs.iter().map(|o| AlignedBuf::new(crate::jit::bytes_of(o))).collect();
        let out_ptrs: Vec<*mut u8> = outs.iter_mut().map(|b| b.as_mut_slice().as_mut_ptr()).collect();
        let mut arena = AlignedBuf::new(program.arena_bytes);
        crate::jit::put_states(program, states, arena.as_mut_slice());
        let env = crate::jit::env_of(self.pool.as_ref());
        let env: *const c_void = (&raw const env).cast();
        // SAFETY: every pointer is valid for the bytes the program's facts state, aligned to 64; outputs and arena are
        // exclusively ours; the environment's pool lives as long as `self`.
        let status = unsafe { run(ins.as_ptr(), out_ptrs.as_ptr(), arena.as_mut_slice().as_mut_ptr(), env) };
        if status != 0 {
            return Err(Error::Run(format!("the linked model returned status {status}")));
        }
        *states = crate::jit::get_states(program, arena.as_slice())?;
        crate::jit::to_tensors(program, &outs)
    }
}

/// A copy of `bytes` at an address aligned for any element.
pub(super) fn holding(bytes: &[u8]) -> AlignedBuf {
    let mut b = AlignedBuf::new(bytes.len());
    b.as_mut_slice().copy_from_slice(bytes);
    b
}
