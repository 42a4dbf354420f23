//! Dot products of short runs of narrow integers, and the repeated vectors that they multiply.
//!
//! With VNNI four products of an unsigned and a signed byte are one instruction. Without, bytes are taken apart into even and
//! odd ones, as 16-bit lanes, whose products are summed in pairs without saturation: lanes stay where they are, and an operand
//! of several products is taken apart once.
//!
//! Products of `bf16` need AVX512_BF16: what has it not leaves such kernels to the other code generator.

use super::Select;
use super::value::{Row, Rows, Val, in_vector};
use crate::lir::{Arg, Mem, Op, Width};
use crate::table::V;
use regalloc2::VReg;
use smallvec::smallvec;
use tenon_base::DType;
use tenon_kernel::{Expr, Type};

impl Select<'_> {
    /// Lane `i` is `c[i] + Σ_j a[g·i + j] · b[g·i + j]`, four bytes or two 16-bit elements each.
    pub(super) fn dot(&mut self, a: &Val, b: &Val, c: &Val) -> Val {
        let w = self.width(a.ty.lanes, a.lane);
        let mut rows: Rows = smallvec![];
        for i in 0..a.rows.len() {
            let c_row = if c.is_scalar() && c.ty.elem == DType::F32 {
                Row::Reg(self.float_reg(c.rows[0], DType::F32))
            } else if c.is_scalar() {
                let v = self.int_reg(c.rows[0], DType::I32);
                Row::Reg(self.v(V::MovdFrom, Width::X, &[Arg::Use(v)]))
            } else {
                c.rows[i]
            };
            rows.push(self.dot_row((a.ty.elem, a.rows[i]), (b.ty.elem, b.rows[i]), c_row, w));
        }
        if c.is_scalar() && c.ty.elem == DType::F32 {
            return Val::scalar(DType::F32, rows[0]);
        }
        if c.is_scalar() {
            let v = self.in_reg(rows[0], Width::X, 4);
            let d = self.gen_reg();
            self.push(Op::V(V::MovdTo, Width::X), [Arg::Def(d), Arg::Use(v)]);
            return Val::scalar(DType::I32, Row::Reg(d));
        }
        Val::vector(c.ty, rows)
    }

    fn dot_row(&mut self, (x, a): (DType, Row), (y, b): (DType, Row), c: Row, w: Width) -> Row {
        if x == DType::U16 {
            return Row::Reg(self.dot_bf16(c, a, b, w));
        }
        if x == DType::I16 {
            let product = self.v2c(V::Pmaddwd, w, 2, a, b);
            return self.v2c(V::Paddd, w, 4, product, c);
        }
        if self.isa.vnni {
            let c = self.in_reg(c, w, 4);
            return Row::Reg(match (x, y) {
                (DType::U8, DType::I8) => self.dot_bytes(c, a, b, w),
                (DType::I8, DType::U8) => self.dot_bytes(c, b, a, w),
                (DType::I8, _) => {
                    // With the top bit turned `a` is 128 more; what that adds is subtracted.
                    let top = self.lanes_of(0x80, 1, w);
                    let b = Row::Reg(self.in_reg(b, w, 1));
                    let more = self.v2c(V::Pxor, w, 1, a, top);
                    let sum = self.dot_bytes(c, more, b, w);
                    let zero = self.lanes_of(0, 8, w);
                    let zero = self.in_reg(zero, w, 4);
                    let extra = self.dot_bytes(zero, top, b, w);
                    return self.v2(V::Psubd, w, 4, Row::Reg(sum), Row::Reg(extra));
                }
                _ => {
                    // With the top bit turned `b` is 128 less: 64 times `a` is added twice.
                    let top = self.lanes_of(0x80, 1, w);
                    let a = Row::Reg(self.in_reg(a, w, 1));
                    let less = self.v2c(V::Pxor, w, 1, b, top);
                    let half = self.lanes_of(0x40, 1, w);
                    let sum = self.dot_bytes(c, a, less, w);
                    let sum = self.dot_bytes(sum, a, half, w);
                    self.dot_bytes(sum, a, half, w)
                }
            });
        }
        let (a, b) = (self.even_odd(x, a, w), self.even_odd(y, b, w));
        let even = self.v2(V::Pmaddwd, w, 2, a[0], b[0]);
        let odd = self.v2(V::Pmaddwd, w, 2, a[1], b[1]);
        let sum = self.v2c(V::Paddd, w, 4, even, c);
        self.v2c(V::Paddd, w, 4, odd, sum)
    }

    /// `c` plus four products a lane of unsigned `a` and signed `b`.
    fn dot_bytes(&mut self, c: VReg, a: Row, b: Row, w: Width) -> VReg {
        let a = self.in_reg(a, w, 1);
        let b = self.operand(b);
        let d = self.vec_reg();
        self.push(Op::V(V::Pdpbusd, w), [Arg::Mod(d, c), Arg::Use(a), b]);
        d
    }

    /// `c` plus two products a lane of `bf16`.
    fn dot_bf16(&mut self, c: Row, a: Row, b: Row, w: Width) -> VReg {
        let c = self.in_reg(c, w, 4);
        if !self.isa.bf16 {
            self.unsupported("dot products of bf16 without AVX512_BF16");
            return c;
        }
        // Both in registers: with one of them in memory the emulated CPU that all this is tested on adds something else.
        let (a, b) = (self.in_reg(a, w, 2), self.in_reg(b, w, 2));
        let d = self.vec_reg();
        self.push(Op::V(V::Dpbf16ps, w), [Arg::Mod(d, c), Arg::Use(a), Arg::Use(b)]);
        d
    }

    /// The bits of `f32` lanes as `bf16`.
    pub(super) fn rounded_bf16(&mut self, v: &Val) -> Val {
        let ty = Type::vector(DType::U16, v.ty.lanes);
        if !self.isa.bf16 {
            self.unsupported("bf16 without AVX512_BF16");
        } else if v.is_scalar() {
            let x = self.float_reg(v.rows[0], DType::F32);
            let d = self.v(V::Cvtneps2bf16, Width::X, &[Arg::Use(x)]);
            let r = self.gen_reg();
            self.push(Op::V(V::MovdTo, Width::X), [Arg::Def(r), Arg::Use(d)]);
            return Val::scalar(DType::U16, Row::Reg(self.extended(r, DType::U16)));
        }
        let rows = self.rows_narrowed(v, &mut |s, r, w| s.v1(V::Cvtneps2bf16, w, r));
        Val::vector(ty, rows)
    }

    /// Bytes 0 and 2, then 1 and 3 of every four, extended to 16 bits.
    fn even_odd(&mut self, elem: DType, v: Row, w: Width) -> [Row; 2] {
        let v = match v {
            Row::Const(_) => Row::Reg(self.in_reg(v, w, 1)),
            v => v,
        };
        let key = (self.here, elem, v);
        if let Some((_, parts)) = self.parts.iter().find(|(k, _)| *k == key) {
            return *parts;
        }
        let x = Row::Reg(self.in_reg(v, w, 1));
        let parts = if elem == DType::U8 {
            let low = self.lanes_of(0xff, 2, w);
            [self.v2c(V::Pand, w, 2, x, low), self.vri(V::PsrlwI, w, x, 8)]
        } else {
            let up = self.vri(V::PsllwI, w, x, 8);
            [self.vri(V::PsrawI, w, up, 8), self.vri(V::PsrawI, w, x, 8)]
        };
        // Memory may change with the next store; registers do not.
        if matches!(v, Row::Reg(_)) {
            if self.parts.len() >= 16 {
                self.parts.remove(0);
            }
            self.parts.push((key, parts));
        }
        parts
    }

    /// Whether `e` loads a few elements that are one word, whole.
    pub(super) fn is_word_load(&self, e: &Expr) -> bool {
        match e {
            Expr::Load { buf, lanes, .. } if *lanes > 1 => {
                let elem = self.kernel.buffer(*buf).dtype;
                elem != DType::Bool && matches!(usize::from(*lanes) * elem.size(), 2 | 4 | 8)
            }
            _ => false,
        }
    }

    /// `lanes` elements at `m`, which [`Select::is_word_load`] accepts, repeated until there are `n`.
    pub(super) fn repeat_memory(&mut self, elem: DType, m: Mem, lanes: u16, n: u16) -> Val {
        if n == lanes {
            return self.load_elements(elem, lanes, m);
        }
        let (w, rows) = (self.width(n, elem.size()), self.registers(n, elem.size()));
        let bytes = usize::from(lanes) * elem.size();
        let row = Row::Reg(self.broadcast(Row::Mem(m), bytes, in_vector(elem), w));
        Val::vector(Type::vector(elem, n), smallvec![row; rows])
    }

    /// The vector `x` repeated until there are `n` lanes.
    pub(super) fn repeat(&mut self, x: &Val, n: u16) -> Val {
        let elem = x.ty.elem;
        if elem == DType::Bool || n == x.ty.lanes {
            if n == x.ty.lanes {
                return x.clone();
            }
            let parts: Vec<Row> = (0..x.ty.lanes).map(|i| self.extract(x, i)).collect();
            let all: Vec<Row> = parts.iter().copied().cycle().take(usize::from(n)).collect();
            return self.pack(elem, &all);
        }
        let bytes = usize::from(x.ty.lanes) * elem.size();
        let w = self.width(n, elem.size());
        let rows = self.registers(n, elem.size());
        if bytes == self.isa.bytes {
            return Val::vector(Type::vector(elem, n), smallvec![x.rows[0]; rows]);
        }
        if matches!(bytes, 2 | 4 | 8) {
            // One word, in every lane of that size.
            let row = match x.rows[0] {
                Row::Const(id) => {
                    let word = self.constants[id as usize][..bytes].to_vec();
                    self.repeated(&word, w)
                }
                row => Row::Reg(self.broadcast(row, bytes, in_vector(elem), w)),
            };
            return Val::vector(Type::vector(elem, n), smallvec![row; rows]);
        }
        let parts: Vec<Row> = (0..x.ty.lanes).map(|i| self.extract(x, i)).collect();
        let all: Vec<Row> = parts.iter().copied().cycle().take(usize::from(n)).collect();
        self.pack(elem, &all)
    }
}
