//! Products of tiles, by AMX.
//!
//! Sums stay in tiles 0 to 3, two below each other by two beside each other, while one loop after the other runs around the steps along a
//! row: an instruction adds up [`Tiles::STEP`] groups. What is left of a row in the end has tiles of its own, because the sizes of tiles are
//! set for all of them at once ([`Shape`]), which takes as long as ten products. What is fetched meanwhile is asked for between the products.

use super::Select;
use crate::lir::{Alu, Arg, Base, Cond, Mem, Op, TileDot};
use regalloc2::VReg;
use tenon_base::DType;
use tenon_kernel::codegen::address::Atom;
use tenon_kernel::stmt::visit_stmts;
use tenon_kernel::{Expr, Kernel, Stmt, Tiles};

/// Bytes of a group, of a sum, and of a step of the sums' columns.
const GROUP: usize = 4;
/// Bytes of a line of the caches.
const LINE: usize = 64;
/// Bytes of a row of a tile.
const ROW: usize = 64;
/// Steps along a row that are not made a loop of.
const UNROLLED: usize = 4;

/// The sizes of all tiles: 0 to 3 are sums, the others factors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shape {
    rows: usize,
    /// Groups of the steps but the last, and of the last if it is shorter.
    steps: (usize, usize),
}

/// The tiles of the factors of one step: rows of `x`, columns of `w`. Where there is one of a kind, it is loaded anew for each use.
struct Factors {
    x: [u8; 2],
    w: [u8; 2],
}

impl Shape {
    fn of(t: &Tiles) -> Shape {
        let step = t.groups.min(Tiles::STEP);
        Shape { rows: t.rows, steps: (step, t.groups % step) }
    }

    /// The operand of `LDTILECFG`: the palette, bytes a row and rows of each tile.
    fn config(self) -> Vec<u8> {
        let mut config = vec![0; 64];
        config[0] = 1;
        let mut set = |tile: u8, rows: usize, bytes: usize| {
            let tile = usize::from(tile);
            config[16 + 2 * tile..][..2].copy_from_slice(&(bytes as u16).to_le_bytes());
            config[48 + tile] = rows as u8;
        };
        (0..4).for_each(|tile| set(tile, self.rows, ROW));
        for (last, groups) in [(false, self.steps.0), (true, self.steps.1)] {
            if groups > 0 {
                let f = self.factors(last);
                f.x.iter().for_each(|tile| set(*tile, self.rows, groups * GROUP));
                f.w.iter().for_each(|tile| set(*tile, groups, ROW));
            }
        }
        config
    }

    fn factors(self, last: bool) -> Factors {
        match (self.steps.1, last) {
            (0, _) => Factors { x: [4, 5], w: [6, 7] },
            (_, false) => Factors { x: [4; 2], w: [6; 2] },
            (_, true) => Factors { x: [5; 2], w: [7; 2] },
        }
    }
}

/// The one shape of all products of tiles in `kernel`, if it is one.
pub(super) fn shape_of_all(kernel: &Kernel) -> Option<Shape> {
    let mut shapes = vec![];
    visit_stmts(&kernel.body, &mut |s| {
        if let Stmt::Tiles(t) = s {
            shapes.push(Shape::of(t));
        }
    });
    let first = *shapes.first()?;
    shapes.iter().all(|s| *s == first).then_some(first)
}

/// Registers that hold distances, and what one step is.
struct Run {
    kind: TileDot,
    blocks: usize,
    panels: usize,
    groups: usize,
    shape: Shape,
    /// Bytes from row to row of `x` and of `w`.
    rows: [VReg; 2],
    /// Bytes from one tile of `x` to that below, and of `w` to that beside it.
    below: usize,
    beside: usize,
    /// The lines that each step asks for, and how far each is from the next: memory answers places that lie apart sooner than neighbours.
    lines: usize,
    apart: usize,
}

/// Pointers into `x`, `w` and what is fetched, which is the latter where nothing is.
type Pointers = [VReg; 3];

impl Select<'_> {
    /// Sets the sizes of all tiles.
    pub(super) fn configure_tiles(&mut self, shape: Shape) {
        let config = self.constant(shape.config());
        if let Arg::Mem(m) = self.operand(config) {
            self.push(Op::TileConfig, [Arg::Mem(m)]);
        }
    }

    pub(super) fn tiles(&mut self, t: &Tiles) {
        let kernel = self.kernel;
        let (Some((x, x_index)), Some((w, w_index))) = (Tiles::source(&t.x), Tiles::source(&t.w)) else {
            return self.unsupported("tiles of what is no load");
        };
        let dtypes = [x, w].map(|b| kernel.buffer(b).dtype);
        let Some(kind) = TileDot::of(dtypes).filter(|k| self.isa.has_tiles(*k)) else {
            return self.unsupported(format!("tiles of {} and {}", dtypes[0], dtypes[1]));
        };
        // How far a step of each loop goes, in bytes.
        let lines = t.fetch.as_ref().map_or(0, |f| f.lines);
        let mut fetched = (t.steps() * lines.min(1) * LINE) as i64;
        let mut loops: Vec<(i64, [i64; 3])> = vec![];
        for d in &t.reduce {
            let steps = [(x_index, dtypes[0]), (w_index, dtypes[1])].map(|(index, dtype)| {
                let linear = self.addresses.linear(index);
                let coefficient = linear.terms.get(&Atom::Var(d.var)).copied().unwrap_or(0);
                let hidden =
                    linear.terms.keys().any(|a| matches!(a, Atom::Expr(n) if self.addresses.expr(*n).uses(d.var)));
                (!hidden).then(|| coefficient.wrapping_mul(dtype.size() as i64))
            });
            let [Some(x), Some(w)] = steps else { return self.unsupported("an index of tiles that is not affine") };
            fetched /= d.extent as i64;
            loops.push((d.extent as i64, [x, w, fetched]));
        }
        t.reduce.iter().for_each(|d| self.addresses.define_constant(d.var, 0));
        let [x, w] = [(x, x_index), (w, w_index)].map(|(buf, index)| self.pointer(buf, index));
        let fetched_from = t.fetch.as_ref().and_then(|f| Tiles::source(&f.first));
        let ahead = fetched_from.map_or(w, |(buf, index)| self.pointer(buf, index));
        let first = [x, w, ahead];
        t.reduce.iter().for_each(|d| self.addresses.define_opaque(d.var));
        let shape = Shape::of(t);
        if self.tile_shape != Some(shape) {
            self.configure_tiles(shape);
        }
        let row = t.row.saturating_mul(dtypes[0].size());
        let run = Run {
            kind,
            blocks: t.blocks,
            panels: t.panels,
            beside: t.beside.saturating_mul(dtypes[1].size()),
            groups: t.groups,
            shape,
            rows: [row, ROW].map(|bytes| self.imm(bytes as i64)),
            below: t.below.saturating_mul(dtypes[0].size()),
            lines,
            apart: t.steps() * LINE,
        };
        for (sum, ..) in run.sums() {
            self.push(Op::TileZero(sum), []);
        }
        self.tile_loops(&run, &loops, first);
        let out = self.pointer(t.out, &t.out_index);
        let out_row = self.imm((t.columns() * GROUP) as i64);
        for (sum, i, j) in run.sums() {
            let at = i * t.rows * t.columns() * GROUP + j * ROW;
            let m = self.tile_memory(out, out_row, at);
            self.push(Op::TileStore(sum), [Arg::Mem(m)]);
        }
    }

    /// The address of an element in a register.
    fn pointer(&mut self, buf: tenon_kernel::Buf, index: &Expr) -> VReg {
        let m = self.address(buf, index);
        let d = self.gen_reg();
        self.push(Op::Lea, [Arg::Def(d), Arg::Mem(m)]);
        d
    }

    /// Rows of a tile, `row` bytes apart, from `at` behind `base` on.
    fn tile_memory(&mut self, base: VReg, row: VReg, at: usize) -> Mem {
        match i32::try_from(at) {
            Ok(disp) => Mem { base: Base::Reg(base), index: Some((row, 1)), disp, broadcast: false },
            Err(_) => {
                let base = self.alu_imm(Alu::Add, 8, base, at as i64);
                Mem { base: Base::Reg(base), index: Some((row, 1)), disp: 0, broadcast: false }
            }
        }
    }

    /// The loops around a run, whose factors begin at `first`; an iteration goes on by the bytes given.
    fn tile_loops(&mut self, run: &Run, loops: &[(i64, [i64; 3])], first: Pointers) {
        let Some(((extent, steps), inside)) = loops.split_first() else { return self.tile_run(run, first) };
        if *extent == 1 {
            return self.tile_loops(run, inside, first);
        }
        self.count_down(*extent, first, *steps, &mut |s, at| s.tile_loops(run, inside, at));
    }

    /// `body` `extent` times, with pointers that go on by `steps` bytes each time.
    fn count_down(
        &mut self,
        extent: i64,
        first: Pointers,
        steps: [i64; 3],
        body: &mut dyn FnMut(&mut Self, Pointers),
    ) {
        // One that stays where it is, such as that of lines nobody wants, needs no register of its own.
        let in_order = |all: Pointers, left: VReg| -> Vec<VReg> {
            all.into_iter().zip(steps).filter(|(_, by)| *by != 0).map(|(v, _)| v).chain([left]).collect()
        };
        let left = self.imm(extent);
        let head = self.new_block();
        self.jump(head, in_order(first, left));
        self.place(head);
        let at = [0, 1, 2].map(|i| if steps[i] == 0 { first[i] } else { self.gen_reg() });
        let left = self.gen_reg();
        self.block_data(head).params.extend(in_order(at, left));
        // What is computed in here is not there before the first iteration.
        self.depth += 1;
        self.addresses.enter();
        body(self, at);
        self.addresses.leave();
        self.depth -= 1;
        let next = [0, 1, 2].map(|i| if steps[i] == 0 { at[i] } else { self.alu_imm(Alu::Add, 8, at[i], steps[i]) });
        let left = self.alu_imm(Alu::Add, 8, left, -1);
        let (back, end) = (self.new_block(), self.new_block());
        self.branch(Cond::G, 8, (left, Arg::Imm(0)), back, end);
        self.place(back);
        self.jump(head, in_order(next, left));
        self.place(end);
    }

    /// The steps along one row.
    fn tile_run(&mut self, run: &Run, at: Pointers) {
        let (step, rest) = run.shape.steps;
        let full = run.groups / step;
        let bytes = [step * GROUP, step * ROW, run.lines.min(1) * LINE];
        let mut tail = (at, full);
        if full <= UNROLLED {
            (0..full).for_each(|n| self.tile_step(run, at, bytes.map(|b| n * b), false));
        } else {
            let pairs = bytes.map(|b| 2 * b as i64);
            self.count_down(full as i64 / 2, at, pairs, &mut |s, at| {
                (0..2).for_each(|n| s.tile_step(run, at, bytes.map(|b| n * b), false));
            });
            let done = full / 2 * 2;
            let on = [0, 1, 2].map(|i| match bytes[i] {
                0 => at[i],
                by => self.alu_imm(Alu::Add, 8, at[i], (done * by) as i64),
            });
            tail = (on, full - done);
            (0..tail.1).for_each(|n| self.tile_step(run, on, bytes.map(|b| n * b), false));
        }
        if rest > 0 {
            self.tile_step(run, tail.0, bytes.map(|b| tail.1 * b), true);
        }
    }

    /// The products of one step, `by` bytes behind `at`.
    fn tile_step(&mut self, run: &Run, at: Pointers, by: [usize; 3], last: bool) {
        let f = run.shape.factors(last);
        let mut held = [None; 8];
        let mut order: Vec<(u8, usize, usize)> = run.sums().collect();
        // The last two change places, so that a tile that is loaded for each use is loaded once less.
        if let [.., a, b] = &mut order[..]
            && run.blocks * run.panels == 4
        {
            std::mem::swap(a, b);
        }
        let products = order.len();
        for (n, (sum, i, j)) in order.into_iter().enumerate() {
            for (tile, which) in [(f.x[i], (0, i)), (f.w[j], (1, j))] {
                if held[usize::from(tile)] != Some(which) {
                    held[usize::from(tile)] = Some(which);
                    let offset = if which.0 == 0 { i * run.below } else { j * run.beside };
                    let m = self.tile_memory(at[which.0], run.rows[which.0], by[which.0] + offset);
                    self.push(Op::TileLoad(tile), [Arg::Mem(m)]);
                }
            }
            self.push(Op::TileDot(run.kind, [sum, f.x[i], f.w[j]]), []);
            for line in run.lines * n / products..run.lines * (n + 1) / products {
                let m = Mem {
                    base: Base::Reg(at[2]),
                    index: None,
                    disp: (by[2] + line * run.apart) as i32,
                    broadcast: false,
                };
                self.push(Op::Prefetch, [Arg::Mem(m)]);
            }
        }
    }
}

impl Run {
    /// The tiles of sums, with the row and the column of each among them.
    fn sums(&self) -> impl Iterator<Item = (u8, usize, usize)> + use<> {
        let panels = self.panels;
        (0..self.blocks).flat_map(move |i| (0..panels).map(move |j| ((2 * i + j) as u8, i, j)))
    }
}

impl TileDot {
    /// Of these factors.
    fn of(dtypes: [DType; 2]) -> Option<TileDot> {
        Some(match dtypes {
            [DType::U16, DType::U16 | DType::U32] => TileDot::Bf16,
            [DType::U8, DType::U8] => TileDot::Uu,
            [DType::U8, DType::I8] => TileDot::Us,
            [DType::I8, DType::U8] => TileDot::Su,
            [DType::I8, DType::I8] => TileDot::Ss,
            _ => return None,
        })
    }
}
