//! Read-only data of a module, and how its code finds them.

use cranelift_codegen::ir::{Function, InstBuilder, Value, types};
use cranelift_frontend::FunctionBuilder;
use cranelift_module::{DataDescription, DataId, FuncId, Linkage, Module, ModuleError};
use target_lexicon::{Architecture, BinaryFormat};
use tenon_kernel::Program;
use tenon_target::Target;

/// What a module says; its errors are large.
pub(crate) type Placed<T> = Result<T, Box<ModuleError>>;

/// Where a block of read-only data is.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Blob {
    /// Under a symbol.
    Data(DataId),
    /// Behind a function that gives their address. In COFF objects for aarch64 the object writer has no relocation by which
    /// code could name data, but it has the one for calls: so the data follow the code of a function.
    Function(FuncId),
}

/// What a function refers to a [`Blob`] by.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BlobRef {
    Data(cranelift_codegen::ir::GlobalValue),
    Function(cranelift_codegen::ir::FuncRef),
}

/// `adr x0, .+64; ret` and padding up to the data.
pub(crate) const ADDRESS_BEHIND: [u8; 64] = {
    let mut code = [0; 64];
    let [adr, ret] = [0x1000_0200_u32.to_le_bytes(), 0xd65f_03c0_u32.to_le_bytes()];
    let mut i = 0;
    while i < 4 {
        code[i] = adr[i];
        code[i + 4] = ret[i];
        i += 1;
    }
    code
};

impl Blob {
    /// Declares data of the object called `symbol`. Call it after the kernels were declared: their numbers are fixed.
    pub(crate) fn declare<M: Module>(module: &mut M, symbol: &str, target: &Target) -> Placed<Blob> {
        let (format, arch) = (target.triple.binary_format, target.triple.architecture);
        if format == BinaryFormat::Coff && matches!(arch, Architecture::Aarch64(_)) {
            let mut sig = module.make_signature();
            sig.returns.push(cranelift_codegen::ir::AbiParam::new(types::I64));
            return Ok(Blob::Function(module.declare_function(symbol, Linkage::Local, &sig)?));
        }
        Ok(Blob::Data(module.declare_data(symbol, Linkage::Local, false, false)?))
    }

    /// Writes the data. Behind a function they are best written last, so that calls to other functions stay short.
    pub(crate) fn define<M: Module>(self, module: &mut M, bytes: Vec<u8>) -> Placed<()> {
        match self {
            Blob::Data(id) => {
                let mut data = DataDescription::new();
                data.define(bytes.into_boxed_slice());
                data.set_align(Program::ALIGN as u64);
                Ok(module.define_data(id, &data)?)
            }
            Blob::Function(id) => {
                let code = [&ADDRESS_BEHIND, bytes.as_slice()].concat();
                Ok(module.define_function_bytes(id, Program::ALIGN as u64, &code, &[])?)
            }
        }
    }

    /// Makes it known in `func`.
    pub(crate) fn in_function<M: Module>(self, module: &mut M, func: &mut Function) -> BlobRef {
        match self {
            Blob::Data(id) => BlobRef::Data(module.declare_data_in_func(id, func)),
            Blob::Function(id) => BlobRef::Function(module.declare_func_in_func(id, func)),
        }
    }
}

impl BlobRef {
    /// The address of the data.
    pub(crate) fn address(self, b: &mut FunctionBuilder<'_>) -> Value {
        match self {
            BlobRef::Data(g) => b.ins().symbol_value(types::I64, g),
            BlobRef::Function(f) => {
                let call = b.ins().call(f, &[]);
                b.inst_results(call)[0]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_gives_the_address_behind_itself() {
        // ADR (Arm ARM C6.2.11): bit 31 is 0, immlo in 30:29, 10000 in 28:24, immhi in 23:5, the register in 4:0.
        let word = u32::from_le_bytes([ADDRESS_BEHIND[0], ADDRESS_BEHIND[1], ADDRESS_BEHIND[2], ADDRESS_BEHIND[3]]);
        assert_eq!((word >> 31, word >> 24 & 31, word & 31), (0, 0b10000, 0));
        let distance = (word >> 5 & 0x7_ffff) << 2 | word >> 29 & 3;
        assert_eq!((distance as usize, ADDRESS_BEHIND.len() % Program::ALIGN), (ADDRESS_BEHIND.len(), 0));
    }
}
