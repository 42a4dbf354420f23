//! From scheduled kernels back to a program: packed constants, scratch buffers, and nothing that is not used.

use super::pack::Arrangement;
use super::{Unit, subnormal};
use crate::lower::Distinct;
use rayon::prelude::*;
use std::collections::BTreeMap;
use tenon_base::{AlignedBuf, DType, Memory, Tensor};
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Access, Buf, BufferId, BufferKind, Expr, Kernel, Program, Stmt, Tiles};

/// Puts `units` in the place of the program's kernels; calls name units.
pub(super) fn link(mut program: Program, units: Vec<Unit>) -> Program {
    let known = program.buffers.len();
    pack_constants(&mut program, &units);
    add_arguments(&mut program, &units);
    let mut kernels: Vec<Kernel> = units.into_iter().map(|u| u.kernel).collect();
    for (i, k) in kernels.iter_mut().enumerate() {
        drop_unused_parameters(k, i, &mut program);
    }
    share_equal_kernels(&mut program, kernels);
    if program.flush_to_zero {
        subnormal::flush(&mut program, known);
    }
    drop_unused_constants(&mut program);
    program
}

/// The key of a packed constant.
type Packed = (BufferId, Arrangement);

fn packed_names(program: &Program, units: &[Unit]) -> Vec<Packed> {
    let mut wanted: Vec<Packed> = vec![];
    for call in program.calls() {
        for p in &units[call.kernel].packs {
            wanted.push((call.args[p.source.0 as usize], p.layout.clone()));
        }
    }
    wanted.sort();
    wanted.dedup();
    wanted
}

/// Adds a buffer for every constant and layout that is asked for, and gives it to the calls.
fn pack_constants(program: &mut Program, units: &[Unit]) {
    let wanted: Vec<(Packed, Tensor)> = packed_names(program, units)
        .into_iter()
        .filter_map(|key| match &program.buffer(key.0).kind {
            BufferKind::Const(t) => Some((key, t.clone())),
            _ => None,
        })
        .collect();
    // All of them in one memory: most of what the model reads while it runs, so its pages are to be large, and code made in this
    // process may use them where they are.
    let mut bytes = 0usize;
    let places: Vec<(usize, DType, usize)> = wanted
        .iter()
        .map(|((_, layout), source)| {
            let (dtype, n) = layout.of(source.dtype());
            let at = bytes.next_multiple_of(Memory::ALIGN);
            bytes = at + n * dtype.size();
            (at, dtype, n)
        })
        .collect();
    let mut memory = AlignedBuf::new(bytes);
    let (mut rest, mut begin) = (memory.as_mut_slice(), 0);
    let mut parts = vec![];
    for (at, dtype, n) in &places {
        let (part, behind) = rest[at - begin..].split_at_mut(n * dtype.size());
        (rest, begin) = (behind, at + n * dtype.size());
        parts.push(part);
    }
    let flush = program.flush_to_zero;
    wanted.par_iter().zip(parts).zip(&places).for_each(|((((_, layout), source), to), (_, dtype, _))| {
        layout.apply(source, to);
        if flush {
            subnormal::flush_in(*dtype, to);
        }
    });
    let memory = Memory::from(memory);
    let mut ids: BTreeMap<Packed, BufferId> = BTreeMap::new();
    for ((key, _), (at, dtype, n)) in wanted.into_iter().zip(places) {
        let t = memory.tensor(dtype, &[n], at).expect("it was made for all of them");
        let name = format!("{}_packed", program.buffer(key.0).name);
        let id = program.add_buffer(&name, t.dtype(), t.len(), BufferKind::Const(t));
        ids.insert(key, id);
    }
    for call in program.calls_mut() {
        let mut packs: Vec<_> = units[call.kernel].packs.iter().collect();
        packs.sort_by_key(|p| p.packed);
        for p in packs {
            let id = ids[&(call.args[p.source.0 as usize], p.layout.clone())];
            // New parameters follow in order, but scratch buffers may lie between them: a place for each.
            let at = p.packed.0 as usize;
            if call.args.len() <= at {
                call.args.resize(at + 1, id);
            }
            call.args[at] = id;
        }
    }
}

/// Gives every call a buffer of its own for each scratch parameter that the schedule added.
fn add_arguments(program: &mut Program, units: &[Unit]) {
    // The buffers grow meanwhile.
    let mut steps = Program { steps: std::mem::take(&mut program.steps), ..Program::default() };
    for call in steps.calls_mut() {
        let unit = &units[call.kernel];
        // Those it had may hold other elements now.
        for (i, b) in unit.kernel.buffers.iter().enumerate().take(unit.constant.len()) {
            if b.access == Access::Scratch {
                let own = &mut program.buffers[call.args[i].0 as usize];
                (own.dtype, own.len) = (b.dtype, b.len);
            }
        }
        for (i, b) in unit.kernel.buffers.iter().enumerate().skip(unit.constant.len()) {
            if b.access == Access::Scratch {
                let id = program.add_buffer(&b.name, b.dtype, b.len, BufferKind::Arena(None));
                if call.args.len() <= i {
                    call.args.resize(i + 1, id);
                }
                call.args[i] = id;
            }
        }
    }
    program.steps = steps.steps;
}

/// Removes parameters that nothing reads or writes from kernel `index` and its calls. Results stay.
fn drop_unused_parameters(kernel: &mut Kernel, index: usize, program: &mut Program) {
    let mut used: Vec<bool> = kernel.buffers.iter().map(|b| b.access == Access::Out).collect();
    visit_stmts(&kernel.body, &mut |s| {
        if let Some(buf) = s.written() {
            used[buf.0 as usize] = true;
        }
        s.exprs(&mut |e| {
            e.visit(&mut |e| {
                if let Expr::Load { buf, .. } = e {
                    used[buf.0 as usize] = true;
                }
            });
        });
    });
    if used.iter().all(|u| *u) {
        return;
    }
    let mut next = 0;
    let to: Vec<Buf> = used
        .iter()
        .map(|&u| {
            let b = Buf(next);
            next += u32::from(u);
            b
        })
        .collect();
    let renamed = |b: Buf| to[b.0 as usize];
    let kept = |i: usize| used[i];
    kernel.buffers = keep(std::mem::take(&mut kernel.buffers), kept);
    kernel.in_place.retain(|(i, o)| kept(i.0 as usize) && kept(o.0 as usize));
    for (i, o) in &mut kernel.in_place {
        (*i, *o) = (renamed(*i), renamed(*o));
    }
    kernel.body = rename_buffers(std::mem::take(&mut kernel.body), &renamed);
    for call in program.calls_mut().into_iter().filter(|c| c.kernel == index) {
        call.args = keep(std::mem::take(&mut call.args), kept);
    }
}

fn keep<T>(all: Vec<T>, kept: impl Fn(usize) -> bool) -> Vec<T> {
    all.into_iter().enumerate().filter(|(i, _)| kept(*i)).map(|(_, x)| x).collect()
}

/// `body` with other buffers.
pub(crate) fn rename_buffers(body: Vec<Stmt>, to: &dyn Fn(Buf) -> Buf) -> Vec<Stmt> {
    let mut in_expr = |e: Expr| {
        e.rewrite(&mut |e| match e {
            Expr::Load { buf, index, lanes } => Expr::Load { buf: to(buf), index, lanes },
            e => e,
        })
    };
    body.into_iter().map(|s| rename_stores(s.map_exprs(&mut in_expr), to)).collect()
}

fn rename_stores(s: Stmt, to: &dyn Fn(Buf) -> Buf) -> Stmt {
    let all = |body: Vec<Stmt>| body.into_iter().map(|s| rename_stores(s, to)).collect();
    match s {
        Stmt::Store { buf, index, value } => Stmt::Store { buf: to(buf), index, value },
        Stmt::For { var, lo, hi, step, parallel, body } => Stmt::For { var, lo, hi, step, parallel, body: all(body) },
        Stmt::If { cond, then, otherwise } => Stmt::If { cond, then: all(then), otherwise: all(otherwise) },
        Stmt::While { cond, body } => Stmt::While { cond, body: all(body) },
        Stmt::Tiles(t) => Stmt::Tiles(Box::new(Tiles { out: to(t.out), ..*t })),
        s => s,
    }
}

/// Kernels that differ in nothing but their names become one.
fn share_equal_kernels(program: &mut Program, kernels: Vec<Kernel>) {
    let mut seen = Distinct::default();
    let mut to = vec![];
    program.kernels = vec![];
    for kernel in kernels {
        to.push(seen.find(&program.kernels, &kernel).unwrap_or_else(|| {
            program.kernels.push(kernel);
            program.kernels.len() - 1
        }));
    }
    for call in program.calls_mut() {
        call.kernel = to[call.kernel];
    }
}

/// Removes constants that no step reads.
fn drop_unused_constants(program: &mut Program) {
    let mut used: Vec<bool> = program.buffers.iter().map(|b| !matches!(b.kind, BufferKind::Const(_))).collect();
    for id in program.used_mut() {
        used[id.0 as usize] = true;
    }
    let mut next = 0;
    let to: Vec<BufferId> = used
        .iter()
        .map(|&u| {
            let id = BufferId(next);
            next += u32::from(u);
            id
        })
        .collect();
    program.buffers = keep(std::mem::take(&mut program.buffers), |i| used[i]);
    for id in program.used_mut() {
        *id = to[id.0 as usize];
    }
}
