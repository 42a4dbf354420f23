//! Addresses near to what is accessed, so that displacements have one byte.
//!
//! A displacement within reach takes one byte in place of four. The accesses of a tile lie further apart: rows and lines of an image
//! share one address, with constants that differ. Here those of a block that are near to each other, but not to their address,
//! get one of their own in their middle:
//!
//! ```text
//! fma %a, [%p + 0x4b00] … fma %d, [%p + 0x7800]
//! ```
//! becomes
//! ```text
//! lea %q, [%p + 0x6b00]
//! fma %a, [%q - 0x2000] … fma %d, [%q + 0xd00]
//! ```
//!
//! Only the longer encoding counts in units of the operand, so that one byte reaches far. Of the shorter one's accesses too few would be near
//! to each other, and more addresses in registers would do more harm.

use crate::isa::Isa;
use crate::lir::{Arg, Base, BlockData, Function, GENERAL, Inst, Mem, Op, Width};
use regalloc2::VReg;
use std::collections::BTreeMap;

/// Accesses for which an address of 7 bytes, and an instruction, pay.
const FEWEST: usize = 4;

/// Accesses that can share an address: base, index with its scale, what one byte counts, and what the displacements leave when divided by it.
type Group = (usize, Option<(usize, u8)>, i32, i32);

/// An access: displacement, instruction, and which of its operands.
type Access = (i32, usize, usize);

/// Gives accesses of `func` nearer addresses.
pub(crate) fn near(func: &mut Function, isa: &Isa) {
    for b in 0..func.blocks.len() {
        // An instruction more in an innermost loop may wait for the multipliers, or keep them waiting.
        if func.blocks[b].hot {
            continue;
        }
        let groups = far(&func.blocks[b], isa);
        let mut before: BTreeMap<usize, Vec<Inst>> = BTreeMap::new();
        for ((_, _, unit, _), mut all) in groups {
            all.sort_unstable();
            let mut rest = &all[..];
            while let Some(&(first, ..)) = rest.first() {
                let Some(middle) = first.checked_add(128 * unit) else { break };
                let reached = rest.iter().take_while(|a| reaches(a.0 - middle, unit)).count();
                if reached < FEWEST {
                    rest = &rest[1..];
                    continue;
                }
                let (these, others) = rest.split_at(reached);
                rest = others;
                let address = func.reg(GENERAL);
                let mut made = None;
                for &(_, i, k) in these {
                    if let Arg::Mem(m) = &mut func.blocks[b].insts[i].args[k] {
                        let from = Mem { index: None, disp: middle, broadcast: false, ..*m };
                        made.get_or_insert(from);
                        *m = Mem { base: Base::Reg(address), disp: m.disp - middle, ..*m };
                    }
                }
                let at = these.iter().map(|a| a.1).min();
                if let (Some(m), Some(at)) = (made, at) {
                    let args = [Arg::Def(address), Arg::Mem(m)].into_iter().collect();
                    before.entry(at).or_default().push(Inst { op: Op::Lea, args });
                }
            }
        }
        if !before.is_empty() {
            let insts = std::mem::take(&mut func.blocks[b].insts);
            let with = |(i, inst)| before.remove(&i).unwrap_or_default().into_iter().chain([inst]);
            func.blocks[b].insts = insts.into_iter().enumerate().flat_map(with).collect();
        }
    }
}

/// Whether a displacement of one byte that counts `unit` bytes can be `by`.
fn reaches(by: i32, unit: i32) -> bool {
    by % unit == 0 && i8::try_from(by / unit).is_ok()
}

/// The accesses of `block` whose displacements have four bytes.
fn far(block: &BlockData, isa: &Isa) -> BTreeMap<Group, Vec<Access>> {
    let mut groups: BTreeMap<Group, Vec<Access>> = BTreeMap::new();
    let number = |v: VReg| v.vreg();
    for (i, inst) in block.insts.iter().enumerate() {
        for (k, arg) in inst.args.iter().enumerate() {
            let Arg::Mem(m) = arg else { continue };
            let Base::Reg(base) = m.base else { continue };
            let unit = unit(inst.op, m, isa);
            if unit > 1 && !reaches(m.disp, unit) {
                let group = (number(base), m.index.map(|(v, s)| (number(v), s)), unit, m.disp.rem_euclid(unit));
                groups.entry(group).or_default().push((m.disp, i, k));
            }
        }
    }
    groups
}

/// How many bytes a displacement of one byte counts in `op`. Registers are not known yet: all but the widest are taken to be among the first 16,
/// which the shorter encoding can name.
fn unit(op: Op, m: &Mem, isa: &Isa) -> i32 {
    match op {
        Op::V(v, w) if isa.avx512 && (w == Width::Z || m.broadcast) => {
            v.displacement_unit(w, m.broadcast).unwrap_or(1)
        }
        Op::MaskLoad(w) | Op::MaskStore(w) => w.bytes() as i32,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lir::VECTOR;
    use crate::table::V;
    use tenon_target::Target;

    /// What becomes of loads of whole registers at `places`: base (1 for a new address) and displacement, and the new address's distance.
    fn loads(places: &[i32], hot: bool) -> (Vec<(usize, i32)>, Option<i32>) {
        let target = Target::parse("x86_64-linux/sapphire-rapids").expect("a target");
        let mut func = Function::default();
        let block = func.block();
        let base = func.reg(GENERAL);
        for &disp in places {
            let m = Mem { base: Base::Reg(base), index: None, disp, broadcast: false };
            let args = [Arg::Def(func.reg(VECTOR)), Arg::Mem(m)].into_iter().collect();
            func.blocks[block.index()].insts.push(Inst { op: Op::V(V::Movups, Width::Z), args });
        }
        func.blocks[block.index()].hot = hot;
        near(&mut func, &Isa::of(&target).expect("it has AVX-512"));
        let (mut out, mut distance) = (vec![], None);
        for inst in &func.blocks[block.index()].insts {
            let Arg::Mem(Mem { base: Base::Reg(from), disp, .. }) = inst.args[1] else { continue };
            if inst.op == Op::Lea {
                distance = Some(disp);
            } else {
                out.push((usize::from(from != base), disp));
            }
        }
        (out, distance)
    }

    #[test]
    fn what_is_far_together_gets_an_address() {
        let far: Vec<i32> = [0x40, 0x4000, 0x4040, 0x5000, 0x7000].to_vec();
        let (out, distance) = loads(&far, false);
        assert_eq!(distance, Some(0x6000));
        assert_eq!(out, [(0, 0x40), (1, -0x2000), (1, -0x1fc0), (1, -0x1000), (1, 0x1000)]);
        // Fewer do not pay, what is no whole number of registers away is not reached, and innermost loops stay as they are.
        assert_eq!(loads(&far[..4], false).1, None);
        assert_eq!(loads(&[0x4000, 0x4040, 0x5004, 0x7000], false).1, None);
        assert_eq!(loads(&far, true).1, None);
    }
}
