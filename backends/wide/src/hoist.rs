//! Out of innermost loops, what is the same in every iteration: constants in registers, broadcasts, index arithmetic.
//!
//! Only as far as registers go round; what is left out is no worse than before. Loads of the kernel's memory stay.

use crate::isa::Isa;
use crate::lir::{Arg, Base, Function, GENERAL, Inst, Op};
use regalloc2::{RegClass, VReg};
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Treats every innermost loop of one block.
pub(crate) fn hoist(func: &mut Function, isa: &Isa) {
    for head in 0..func.blocks.len() {
        if let Some(before) = loop_of_one_block(func, head) {
            hoist_loop(func, head, before, isa);
        }
    }
}

/// The block that enters the loop whose only block is `head`.
fn loop_of_one_block(func: &Function, head: usize) -> Option<usize> {
    let block = &func.blocks[head];
    let back = block.succs.iter().find(|s| func.blocks[s.index()].succs.iter().any(|t| t.index() == head))?;
    let mut entries = block.preds.iter().filter(|p| *p != back);
    let before = entries.next()?.index();
    let alone = entries.next().is_none() && func.blocks[before].succs.len() == 1 && before != head;
    (block.hot && alone).then_some(before)
}

/// The register that `inst` defines, if it does nothing else.
fn pure_result(inst: &Inst) -> Option<VReg> {
    let ok = match inst.op {
        Op::V(..) | Op::CmpLanes(..) | Op::CmpScalar(_) => {
            inst.args.iter().all(|a| !matches!(a, Arg::Mem(m) if !matches!(m.base, Base::Pool(_))))
        }
        Op::Zero
        | Op::MovImm
        | Op::MulImm(_)
        | Op::Lea
        | Op::ShiftImm(..)
        | Op::ShiftVar(..)
        | Op::Neg(_)
        | Op::Not(_)
        | Op::Extend { .. } => true,
        Op::Alu(..) | Op::SetCmp(..) | Op::CmovCmp { .. } => !inst.args.iter().any(|a| matches!(a, Arg::Mem(_))),
        _ => false,
    };
    match inst.args.first() {
        Some(Arg::Def(d) | Arg::Mod(d, _)) if ok => Some(*d),
        _ => None,
    }
}

/// Calls `f` on every register that `inst` reads.
fn uses(inst: &Inst, f: &mut dyn FnMut(VReg)) {
    for a in &inst.args {
        match *a {
            Arg::Use(v) | Arg::UseLate(v) | Arg::UseIn(v, _) | Arg::Mod(_, v) => f(v),
            Arg::Mem(m) => {
                if let Base::Reg(v) = m.base {
                    f(v);
                }
                if let Some((v, _)) = m.index {
                    f(v);
                }
            }
            Arg::Def(_) | Arg::DefIn(..) | Arg::Imm(_) => {}
        }
    }
}

/// Registers that `inst` writes.
fn defs(inst: &Inst) -> impl Iterator<Item = VReg> + '_ {
    inst.args.iter().filter_map(|a| match *a {
        Arg::Def(v) | Arg::Mod(v, _) | Arg::DefIn(v, _) => Some(v),
        _ => None,
    })
}

/// Replaces the registers that `inst` reads.
fn rename(inst: &mut Inst, to: &HashMap<VReg, VReg>) {
    let new = |v: VReg| to.get(&v).copied().unwrap_or(v);
    for a in &mut inst.args {
        match a {
            Arg::Use(v) | Arg::UseLate(v) | Arg::UseIn(v, _) | Arg::Mod(_, v) => *v = new(*v),
            Arg::Mem(m) => {
                if let Base::Reg(v) = &mut m.base {
                    *v = new(*v);
                }
                if let Some((v, _)) = &mut m.index {
                    *v = new(*v);
                }
            }
            _ => {}
        }
    }
}

fn hoist_loop(func: &mut Function, head: usize, before: usize, isa: &Isa) {
    let block = &func.blocks[head];
    let after: Vec<VReg> =
        block.succs.iter().flat_map(|s| func.blocks[s.index()].args.iter().flatten().copied()).collect();
    let mut inside: BTreeSet<usize> = block.params.iter().map(|v| v.vreg()).collect();
    block.insts.iter().for_each(|i| inside.extend(defs(i).map(|v| v.vreg())));

    // What does not change, in order, and of that what the rest reads.
    let mut fixed: BTreeMap<usize, usize> = BTreeMap::new();
    for (n, inst) in block.insts.iter().enumerate() {
        let Some(d) = pure_result(inst) else { continue };
        let mut ok = true;
        uses(inst, &mut |v| ok &= !inside.contains(&v.vreg()) || fixed.contains_key(&v.vreg()));
        if ok {
            fixed.insert(d.vreg(), n);
        }
    }
    if fixed.is_empty() {
        return;
    }
    let moved: BTreeSet<usize> = fixed.values().copied().collect();
    let mut wanted: BTreeSet<usize> = BTreeSet::new();
    for (_, inst) in block.insts.iter().enumerate().filter(|(n, _)| !moved.contains(n)) {
        uses(inst, &mut |v| wanted.extend(fixed.get(&v.vreg())));
    }
    wanted.extend(after.iter().filter_map(|v| fixed.get(&v.vreg())));

    let mut room = room(func, head, &inside, &after, isa);
    let block = &func.blocks[head];
    let mut take: BTreeSet<usize> = BTreeSet::new();
    // Equal instructions need one register.
    let mut known: HashMap<String, VReg> = HashMap::new();
    let mut same: HashMap<VReg, VReg> = HashMap::new();
    let mut out: Vec<Inst> = vec![];
    for root in wanted {
        let Some(d) = pure_result(&block.insts[root]) else { continue };
        // The root with what it is made of.
        let mut chain: BTreeSet<usize> = BTreeSet::new();
        let mut open = vec![root];
        while let Some(n) = open.pop() {
            if chain.insert(n) {
                uses(&block.insts[n], &mut |v| open.extend(fixed.get(&v.vreg())));
            }
        }
        let already = take.contains(&root) || {
            let mut i = block.insts[root].clone();
            rename(&mut i, &same);
            known.contains_key(&key(&i))
        };
        let left = &mut room[usize::from(d.class() != GENERAL)];
        if !already && *left <= 0 {
            continue;
        }
        if !already {
            *left -= 1;
        }
        for n in chain {
            if !take.insert(n) {
                continue;
            }
            let mut inst = block.insts[n].clone();
            rename(&mut inst, &same);
            let Some(d) = pure_result(&inst) else { continue };
            match known.entry(key(&inst)) {
                Entry::Occupied(v) => {
                    same.insert(d, *v.get());
                }
                Entry::Vacant(v) => {
                    v.insert(d);
                    out.push(inst);
                }
            }
        }
    }

    let block = &mut func.blocks[head];
    let insts = std::mem::take(&mut block.insts);
    block.insts = insts.into_iter().enumerate().filter(|(n, _)| !take.contains(n)).map(|(_, i)| i).collect();
    block.insts.iter_mut().for_each(|i| rename(i, &same));
    // A register that was one of several equal ones may be read anywhere after.
    if !same.is_empty() {
        for b in &mut func.blocks {
            b.insts.iter_mut().for_each(|i| rename(i, &same));
            for v in b.args.iter_mut().flatten() {
                *v = same.get(v).copied().unwrap_or(*v);
            }
        }
    }
    let block = &mut func.blocks[before];
    let last = block.insts.len() - 1;
    block.insts.splice(last..last, out);
}

/// What an instruction computes: all but where to.
fn key(inst: &Inst) -> String {
    let first = match inst.args[0] {
        Arg::Mod(_, v) => format!("{v}"),
        _ => String::new(),
    };
    format!("{:?} {first} {:?}", inst.op, &inst.args[1..])
}

/// Registers of each class (general, vector) that the loop leaves free.
fn room(func: &Function, head: usize, inside: &BTreeSet<usize>, after: &[VReg], isa: &Isa) -> [i64; 2] {
    let block = &func.blocks[head];
    let at = |v: VReg| usize::from(v.class() != RegClass::Int);
    let mut outside: BTreeSet<VReg> = BTreeSet::new();
    let mut live: BTreeSet<VReg> = BTreeSet::new();
    let mut put = |v: VReg, live: &mut BTreeSet<VReg>| {
        if inside.contains(&v.vreg()) {
            live.insert(v);
        } else {
            outside.insert(v);
        }
    };
    after.iter().for_each(|v| put(*v, &mut live));
    let count = |live: &BTreeSet<VReg>| {
        let mut n = [0i64; 2];
        live.iter().for_each(|v| n[at(*v)] += 1);
        n
    };
    let mut peak = count(&live);
    for inst in block.insts.iter().rev() {
        let now = count(&live);
        for v in defs(inst) {
            live.remove(&v);
        }
        uses(inst, &mut |v| put(v, &mut live));
        let then = count(&live);
        peak = std::array::from_fn(|i| peak[i].max(now[i]).max(then[i]));
    }
    let most = [12, if isa.avx512 { 31 } else { 15 }];
    let fixed = count(&outside);
    std::array::from_fn(|i| most[i] - peak[i] - fixed[i])
}
