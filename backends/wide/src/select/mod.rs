//! Selection: kernel IR to instructions over virtual registers.
//!
//! A virtual vector is a row of registers ([`value::Val`]). Loads and constants stay memory operands until an
//! instruction needs them in a register, so that what is used once costs no instruction of its own.

mod address;
mod arith;
mod build;
mod cast;
mod compare;
mod dot;
mod expr;
mod integer;
mod memory;
mod resize;
mod saturate;
mod scalar;
mod shuffle;
mod stmt;
mod tiles;
mod value;

use crate::Unsupported;
use crate::isa::Isa;
use crate::lir::{Arg, Base, Function, GENERAL, Mem, Op};
use regalloc2::{Block, PReg, RegClass, VReg};
use std::collections::{BTreeMap, HashMap};
use tenon_base::DType;
use tenon_kernel::codegen::address::Addresses;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::tiles::multiplies_tiles;
use tenon_kernel::{Expr, Kernel, Stmt, Var};
use value::{Binding, Row};

/// The state of selecting one kernel.
pub(crate) struct Select<'k> {
    kernel: &'k Kernel,
    isa: Isa,
    func: Function,
    /// The block that instructions go to.
    here: Block,
    /// The address of each buffer.
    buffers: Vec<VReg>,
    /// Variables in scope.
    vars: Vec<Option<Binding>>,
    /// Occurrences of each variable not yet selected: at 0 its register is free.
    uses: Vec<u32>,
    /// Occurrences of the variable that a statement defines.
    uses_of: HashMap<*const Stmt, u32>,
    /// Loops around the present statement.
    depth: u32,
    /// The variable that the present statement sets: what it held is free.
    setting: Option<Var>,
    addresses: Addresses<VReg>,
    /// Vectors of bytes taken apart, by block, type and register: see [`dot`].
    parts: Vec<((Block, DType, Row), [Row; 2])>,
    /// Bytes of each constant.
    constants: Vec<Vec<u8>>,
    constant_ids: HashMap<Vec<u8>, u32>,
    /// Where constants are in the pool, by bytes.
    pool: BTreeMap<Vec<u8>, u32>,
    /// The sizes that tiles have from the beginning, where all products agree on them.
    tile_shape: Option<tiles::Shape>,
    /// The first thing that there is no code for.
    missing: Option<Unsupported>,
}

/// Hardware numbers of the registers that hold the first parameters.
const PARAMETERS: [usize; 6] = [7, 6, 2, 1, 8, 9];

/// The instructions of `kernel`.
pub(crate) fn select(kernel: &Kernel, isa: Isa) -> Result<Function, Unsupported> {
    let mut func = Function::default();
    let here = func.block();
    func.order.push(here);
    let mut s = Select {
        kernel,
        isa,
        func,
        here,
        buffers: vec![],
        vars: vec![None; kernel.vars.len()],
        uses: vec![u32::MAX; kernel.vars.len()],
        uses_of: count_uses(kernel),
        depth: 0,
        setting: None,
        addresses: Addresses::new(kernel),
        parts: vec![],
        constants: vec![],
        constant_ids: HashMap::new(),
        pool: BTreeMap::new(),
        tile_shape: tiles::shape_of_all(kernel),
        missing: None,
    };
    s.parameters();
    if let Some(shape) = s.tile_shape {
        s.configure_tiles(shape);
    }
    s.block(&kernel.body);
    if multiplies_tiles(kernel) {
        s.push(Op::TileRelease, []);
    }
    s.push(Op::Return, []);
    match s.missing {
        Some(m) => Err(m),
        None => {
            s.func.finish();
            Ok(s.func)
        }
    }
}

impl Select<'_> {
    fn parameters(&mut self) {
        let n = self.kernel.buffers.len();
        self.buffers = (0..n).map(|_| self.func.reg(GENERAL)).collect();
        let mut parameters = self.buffers.clone();
        if let Some(p) = self.kernel.parts {
            // Which part runs, behind the buffers.
            let part = self.func.reg(GENERAL);
            parameters.push(part);
            self.addresses.define_opaque(p.var);
            self.bind_index(p.var, Row::Reg(part));
        }
        let in_registers: Vec<Arg> =
            parameters.iter().zip(PARAMETERS).map(|(v, p)| Arg::DefIn(*v, PReg::new(p, RegClass::Int))).collect();
        self.push(Op::Params, in_registers);
        for (i, v) in parameters.iter().enumerate().skip(PARAMETERS.len()) {
            // Above the saved frame pointer and the return address.
            let disp = 16 + 8 * (i - PARAMETERS.len()) as i32;
            let m = Mem { base: Base::Frame, index: None, disp, broadcast: false };
            self.push(Op::Load { bytes: 8, signed: false }, [Arg::Def(*v), Arg::Mem(m)]);
        }
    }

    /// Notes that there is no code for `what`. Selection goes on with any value; the result is not used.
    fn unsupported(&mut self, what: impl Into<String>) {
        self.missing.get_or_insert_with(|| Unsupported::Operation(what.into()));
    }
}

/// By definition, in text order.
fn count_uses(kernel: &Kernel) -> HashMap<*const Stmt, u32> {
    let mut present: Vec<Option<*const Stmt>> = vec![None; kernel.vars.len()];
    let mut uses = HashMap::new();
    visit_stmts(&kernel.body, &mut |s| {
        s.exprs(&mut |e| {
            e.visit(&mut |e| {
                if let Expr::Var(v) = e
                    && let Some(definition) = present[v.0 as usize]
                {
                    *uses.entry(definition).or_insert(0) += 1;
                }
            });
        });
        if let Stmt::Let { var, .. } | Stmt::Declare { var, .. } = s {
            present[var.0 as usize] = Some(std::ptr::from_ref(s));
        }
    });
    uses
}
