//! Operations that are not one row of the vector table.

use super::{Emitter, Place, r64, vector};
use crate::lir::{Alu, Cond, Op, Shift, TileDot, Width};
use crate::table::V;
use iced_x86::{Code, Instruction, MemoryOperand, Register};

/// The general register `n` of 4 or 8 bytes (narrower values are computed in 4).
fn sized(n: usize, size: u8) -> Register {
    if size == 8 { r64(n) } else { Register::EAX + n as u32 }
}

/// The byte register `n`.
fn byte(n: usize) -> Register {
    // AL, CL, DL, BL, then (after AH to BH) SPL on.
    if n < 4 { Register::AL + n as u32 } else { Register::SPL + (n - 4) as u32 }
}

/// The tile register `n`.
fn tile(n: u8) -> Register {
    Register::TMM0 + u32::from(n)
}

impl Alu {
    /// Code with a register or memory as second operand, 32 and 64 bits.
    fn codes(self) -> [Code; 2] {
        match self {
            Alu::Add => [Code::Add_r32_rm32, Code::Add_r64_rm64],
            Alu::Sub => [Code::Sub_r32_rm32, Code::Sub_r64_rm64],
            Alu::And => [Code::And_r32_rm32, Code::And_r64_rm64],
            Alu::Or => [Code::Or_r32_rm32, Code::Or_r64_rm64],
            Alu::Xor => [Code::Xor_r32_rm32, Code::Xor_r64_rm64],
            Alu::Imul => [Code::Imul_r32_rm32, Code::Imul_r64_rm64],
        }
    }

    /// Code with an immediate of 8 and of 32 bits, for 32 and 64 bits.
    fn immediate(self) -> [[Code; 2]; 2] {
        match self {
            Alu::Add => [[Code::Add_rm32_imm8, Code::Add_rm64_imm8], [Code::Add_rm32_imm32, Code::Add_rm64_imm32]],
            Alu::Sub => [[Code::Sub_rm32_imm8, Code::Sub_rm64_imm8], [Code::Sub_rm32_imm32, Code::Sub_rm64_imm32]],
            Alu::And => [[Code::And_rm32_imm8, Code::And_rm64_imm8], [Code::And_rm32_imm32, Code::And_rm64_imm32]],
            Alu::Or => [[Code::Or_rm32_imm8, Code::Or_rm64_imm8], [Code::Or_rm32_imm32, Code::Or_rm64_imm32]],
            Alu::Xor => [[Code::Xor_rm32_imm8, Code::Xor_rm64_imm8], [Code::Xor_rm32_imm32, Code::Xor_rm64_imm32]],
            // Never: see `Op::MulImm`.
            Alu::Imul => [[Code::INVALID; 2]; 2],
        }
    }
}

/// `setcc` and `cmovcc` of 32 and 64 bits.
fn conditional(c: Cond) -> (Code, [Code; 2]) {
    match c {
        Cond::B => (Code::Setb_rm8, [Code::Cmovb_r32_rm32, Code::Cmovb_r64_rm64]),
        Cond::Ae => (Code::Setae_rm8, [Code::Cmovae_r32_rm32, Code::Cmovae_r64_rm64]),
        Cond::E => (Code::Sete_rm8, [Code::Cmove_r32_rm32, Code::Cmove_r64_rm64]),
        Cond::Ne => (Code::Setne_rm8, [Code::Cmovne_r32_rm32, Code::Cmovne_r64_rm64]),
        Cond::Be => (Code::Setbe_rm8, [Code::Cmovbe_r32_rm32, Code::Cmovbe_r64_rm64]),
        Cond::A => (Code::Seta_rm8, [Code::Cmova_r32_rm32, Code::Cmova_r64_rm64]),
        Cond::L => (Code::Setl_rm8, [Code::Cmovl_r32_rm32, Code::Cmovl_r64_rm64]),
        Cond::Ge => (Code::Setge_rm8, [Code::Cmovge_r32_rm32, Code::Cmovge_r64_rm64]),
        Cond::Le => (Code::Setle_rm8, [Code::Cmovle_r32_rm32, Code::Cmovle_r64_rm64]),
        Cond::G => (Code::Setg_rm8, [Code::Cmovg_r32_rm32, Code::Cmovg_r64_rm64]),
    }
}

impl Emitter {
    /// One operation that is not a branch.
    pub(super) fn instruction(&mut self, op: Op, args: &[Place]) {
        use Place::{General as G, Imm, Memory, Vector};
        let wide = |size: u8| usize::from(size == 8);
        match (op, args) {
            (Op::V(v, w), _) => self.vector(v, w, args),
            (Op::Zero, [d @ Vector(n)]) => {
                // The short form zeroes the whole register; it has no registers above 15.
                let (v, w) = if *n < 16 { (V::Xorps, Width::X) } else { (V::Pxor, Width::Z) };
                self.vector(v, w, &[*d, *d, *d]);
            }
            (Op::CmpLanes(compare, spread, w), [d, a, b, imm]) => {
                self.masked(compare, w, &[*a, *b, *imm]);
                let Vector(n) = *d else { return self.wrong(op) };
                let Some(code) = spread.code(w, true) else { return self.wrong(op) };
                self.built(Instruction::with2(code, vector(n, w), Register::K1));
            }
            (Op::CmpScalar(compare), [G(d), a, b, imm]) => {
                self.masked(compare, Width::S, &[*a, *b, *imm]);
                self.built(Instruction::with2(Code::VEX_Kmovw_r32_kr, sized(*d, 4), Register::K1));
            }
            (Op::MaskLoad(w), [d, G(mask), m]) => {
                self.built(Instruction::with2(Code::VEX_Kmovq_kr_r64, Register::K1, r64(*mask)));
                let Some(code) = V::Movdqu8K.code(w, true) else { return self.wrong(op) };
                let (mut i, pool) = self.assemble(code, V::Movdqu8K, w, &[*d, *m]);
                i.set_op_mask(Register::K1);
                i.set_zeroing_masking(true);
                self.put(&i, pool);
            }
            (Op::MaskStore(w), [m, v, G(mask)]) => {
                self.built(Instruction::with2(Code::VEX_Kmovq_kr_r64, Register::K1, r64(*mask)));
                let Some(code) = V::Movdqu8StoreK.code(w, true) else { return self.wrong(op) };
                let (mut i, pool) = self.assemble(code, V::Movdqu8StoreK, w, &[*m, *v]);
                i.set_op_mask(Register::K1);
                self.put(&i, pool);
            }
            (Op::MovImm, [G(d), Imm(v)]) => match *v {
                0 => self.built(Instruction::with2(Code::Xor_r32_rm32, sized(*d, 4), sized(*d, 4))),
                v if u32::try_from(v).is_ok() => {
                    self.built(Instruction::with2(Code::Mov_r32_imm32, sized(*d, 4), v as u32));
                }
                v if i32::try_from(v).is_ok() => {
                    self.built(Instruction::with2(Code::Mov_rm64_imm32, r64(*d), v as i32));
                }
                v => self.built(Instruction::with2(Code::Mov_r64_imm64, r64(*d), v)),
            },
            (Op::Alu(alu, size), [G(d), b]) => self.alu(alu, size, *d, b),
            (Op::MulImm(size), [G(d), G(a), Imm(v)]) => {
                let small = i8::try_from(*v).is_ok();
                let code = match (size == 8, small) {
                    (false, true) => Code::Imul_r32_rm32_imm8,
                    (false, false) => Code::Imul_r32_rm32_imm32,
                    (true, true) => Code::Imul_r64_rm64_imm8,
                    (true, false) => Code::Imul_r64_rm64_imm32,
                };
                self.built(Instruction::with3(code, sized(*d, size), sized(*a, size), *v as i32));
            }
            (Op::Lea, [G(d), Memory(m, pool)]) => {
                let i = Instruction::with2(Code::Lea_r64_m, r64(*d), *m);
                match i {
                    Ok(i) => self.put(&i, *pool),
                    e => self.built(e),
                }
            }
            (Op::ShiftImm(shift, size), [G(d), Imm(by)]) => {
                let codes = match shift {
                    Shift::Shl => [Code::Shl_rm32_imm8, Code::Shl_rm64_imm8],
                    Shift::Shr => [Code::Shr_rm32_imm8, Code::Shr_rm64_imm8],
                    Shift::Sar => [Code::Sar_rm32_imm8, Code::Sar_rm64_imm8],
                };
                self.built(Instruction::with2(codes[wide(size)], sized(*d, size), *by as i32));
            }
            (Op::ShiftVar(shift, size), [G(d), G(a), G(by)]) => {
                let codes = match shift {
                    Shift::Shl => [Code::VEX_Shlx_r32_rm32_r32, Code::VEX_Shlx_r64_rm64_r64],
                    Shift::Shr => [Code::VEX_Shrx_r32_rm32_r32, Code::VEX_Shrx_r64_rm64_r64],
                    Shift::Sar => [Code::VEX_Sarx_r32_rm32_r32, Code::VEX_Sarx_r64_rm64_r64],
                };
                let [d, a, by] = [d, a, by].map(|r| sized(*r, size));
                self.built(Instruction::with3(codes[wide(size)], d, a, by));
            }
            (Op::Neg(size), [G(d)]) => {
                let code = [Code::Neg_rm32, Code::Neg_rm64][wide(size)];
                self.built(Instruction::with1(code, sized(*d, size)));
            }
            (Op::Not(size), [G(d)]) => {
                let code = [Code::Not_rm32, Code::Not_rm64][wide(size)];
                self.built(Instruction::with1(code, sized(*d, size)));
            }
            (Op::Extend { bytes, signed, to }, [G(d), G(a)]) => {
                let to = if signed { to } else { 4 };
                let (code, source) = match (bytes, signed, to) {
                    (1, false, _) => (Code::Movzx_r32_rm8, byte(*a)),
                    (2, false, _) => (Code::Movzx_r32_rm16, Register::AX + *a as u32),
                    (1, true, 8) => (Code::Movsx_r64_rm8, byte(*a)),
                    (1, true, _) => (Code::Movsx_r32_rm8, byte(*a)),
                    (2, true, 8) => (Code::Movsx_r64_rm16, Register::AX + *a as u32),
                    (2, true, _) => (Code::Movsx_r32_rm16, Register::AX + *a as u32),
                    (_, true, 8) => (Code::Movsxd_r64_rm32, sized(*a, 4)),
                    _ => (Code::Mov_r32_rm32, sized(*a, 4)),
                };
                self.built(Instruction::with2(code, sized(*d, to), source));
            }
            (Op::Load { bytes, signed }, [G(d), Memory(m, pool)]) => {
                let (code, to) = match (bytes, signed) {
                    (1, false) => (Code::Movzx_r32_rm8, 4),
                    (1, true) => (Code::Movsx_r32_rm8, 4),
                    (2, false) => (Code::Movzx_r32_rm16, 4),
                    (2, true) => (Code::Movsx_r32_rm16, 4),
                    (4, _) => (Code::Mov_r32_rm32, 4),
                    _ => (Code::Mov_r64_rm64, 8),
                };
                match Instruction::with2(code, sized(*d, to), *m) {
                    Ok(i) => self.put(&i, *pool),
                    e => self.built(e),
                }
            }
            (Op::Store(bytes), [Memory(m, _), G(v)]) => {
                let (code, source) = match bytes {
                    1 => (Code::Mov_rm8_r8, byte(*v)),
                    2 => (Code::Mov_rm16_r16, Register::AX + *v as u32),
                    4 => (Code::Mov_rm32_r32, sized(*v, 4)),
                    _ => (Code::Mov_rm64_r64, r64(*v)),
                };
                self.built(Instruction::with2(code, *m, source));
            }
            (Op::Prefetch, [Memory(m, _)]) => {
                // What is fetched is for later, and panels of vectors of 64 bytes are longer than the first cache: there it would only take
                // the place, and the buffers for lines on their way, of what is multiplied now.
                let code = if self.isa.avx512 { Code::Prefetcht1_m8 } else { Code::Prefetcht0_m8 };
                self.built(Instruction::with1(code, *m));
            }
            (Op::SetCmp(cond, size), [G(d), a, b]) => {
                self.compare(size, a, b);
                self.built(Instruction::with1(conditional(cond).0, byte(*d)));
                self.built(Instruction::with2(Code::Movzx_r32_rm8, sized(*d, 4), byte(*d)));
            }
            (Op::CmovCmp { cond, cmp, size }, [G(d), a, b, G(other)]) => {
                self.compare(cmp, a, b);
                let code = conditional(cond).1[wide(size)];
                self.built(Instruction::with2(code, sized(*d, size), sized(*other, size)));
            }
            (Op::CmovFloat { cond, double, size }, [G(d), Place::Vector(a), b, G(other)]) => {
                let code = if double { Code::VEX_Vucomisd_xmm_xmmm64 } else { Code::VEX_Vucomiss_xmm_xmmm32 };
                let a = vector(*a, Width::X);
                match b {
                    Place::Vector(b) => self.built(Instruction::with2(code, a, vector(*b, Width::X))),
                    Place::Memory(m, pool) => match Instruction::with2(code, a, *m) {
                        Ok(i) => self.put(&i, *pool),
                        e => self.built(e),
                    },
                    _ => return self.wrong(op),
                }
                let code = conditional(cond).1[wide(size)];
                self.built(Instruction::with2(code, sized(*d, size), sized(*other, size)));
            }
            (Op::MulHigh, [_, G(b), ..]) => self.built(Instruction::with1(Code::Imul_rm64, r64(*b))),
            (Op::Div { signed, size }, [_, G(b), ..]) => {
                if signed {
                    self.put(&Instruction::with([Code::Cdq, Code::Cqo][wide(size)]), None);
                } else {
                    self.built(Instruction::with2(Code::Xor_r32_rm32, Register::EDX, Register::EDX));
                }
                let code = match (signed, size == 8) {
                    (true, false) => Code::Idiv_rm32,
                    (true, true) => Code::Idiv_rm64,
                    (false, false) => Code::Div_rm32,
                    (false, true) => Code::Div_rm64,
                };
                self.built(Instruction::with1(code, sized(*b, size)));
            }
            (Op::TileConfig, [Memory(m, pool)]) => match Instruction::with1(Code::VEX_Ldtilecfg_m512, *m) {
                Ok(i) => self.put(&i, *pool),
                e => self.built(e),
            },
            (Op::TileRelease, []) => self.put(&Instruction::with(Code::VEX_Tilerelease), None),
            (Op::TileZero(t), []) => self.built(Instruction::with1(Code::VEX_Tilezero_tmm, tile(t))),
            (Op::TileLoad(t), [Memory(m, _)]) => {
                self.built(Instruction::with2(Code::VEX_Tileloadd_tmm_sibmem, tile(t), *m));
            }
            (Op::TileStore(t), [Memory(m, _)]) => {
                self.built(Instruction::with2(Code::VEX_Tilestored_sibmem_tmm, *m, tile(t)));
            }
            (Op::TileDot(kind, tiles), []) => {
                let code = match kind {
                    TileDot::Bf16 => Code::VEX_Tdpbf16ps_tmm_tmm_tmm,
                    TileDot::Ss => Code::VEX_Tdpbssd_tmm_tmm_tmm,
                    TileDot::Su => Code::VEX_Tdpbsud_tmm_tmm_tmm,
                    TileDot::Us => Code::VEX_Tdpbusd_tmm_tmm_tmm,
                    TileDot::Uu => Code::VEX_Tdpbuud_tmm_tmm_tmm,
                };
                let [d, a, b] = tiles.map(tile);
                self.built(Instruction::with3(code, d, a, b));
            }
            (Op::Params, _) => {}
            _ => self.wrong(op),
        }
    }

    fn wrong(&mut self, op: Op) {
        self.error.get_or_insert_with(|| format!("{op:?} with these operands"));
    }

    /// A comparison into mask register 1.
    fn masked(&mut self, op: V, w: Width, rest: &[Place]) {
        let Some(code) = op.code(w, true) else { return self.wrong(Op::V(op, w)) };
        let mut args = vec![Place::Vector(0)];
        args.extend_from_slice(rest);
        let (mut i, pool) = self.assemble(code, op, w, &args);
        i.set_op_register(0, Register::K1);
        self.put(&i, pool);
    }

    fn alu(&mut self, alu: Alu, size: u8, d: usize, b: &Place) {
        let wide = usize::from(size == 8);
        match b {
            Place::General(b) => {
                self.built(Instruction::with2(alu.codes()[wide], sized(d, size), sized(*b, size)));
            }
            Place::Memory(m, pool) => match Instruction::with2(alu.codes()[wide], sized(d, size), *m) {
                Ok(i) => self.put(&i, *pool),
                e => self.built(e),
            },
            Place::Imm(v) => {
                // One more value fits the short form the other way round.
                let (alu, v) = match (alu, *v) {
                    (Alu::Add, 128) => (Alu::Sub, -128),
                    (Alu::Sub, 128) => (Alu::Add, -128),
                    same => same,
                };
                let long = usize::from(i8::try_from(v).is_err());
                self.built(Instruction::with2(alu.immediate()[long][wide], sized(d, size), v as i32));
            }
            Place::Vector(_) => self.wrong(Op::Alu(alu, size)),
        }
    }

    /// `cmp a, b`
    pub(super) fn compare(&mut self, size: u8, a: &Place, b: &Place) {
        let wide = usize::from(size == 8);
        match (a, b) {
            (Place::General(a), Place::Imm(0)) => {
                let code = [Code::Test_rm32_r32, Code::Test_rm64_r64][wide];
                self.built(Instruction::with2(code, sized(*a, size), sized(*a, size)));
            }
            (Place::General(a), Place::Imm(v)) => {
                let code = if i8::try_from(*v).is_ok() {
                    [Code::Cmp_rm32_imm8, Code::Cmp_rm64_imm8]
                } else {
                    [Code::Cmp_rm32_imm32, Code::Cmp_rm64_imm32]
                };
                self.built(Instruction::with2(code[wide], sized(*a, size), *v as i32));
            }
            (Place::General(a), Place::General(b)) => {
                let code = [Code::Cmp_r32_rm32, Code::Cmp_r64_rm64][wide];
                self.built(Instruction::with2(code, sized(*a, size), sized(*b, size)));
            }
            (Place::General(a), Place::Memory(m, _)) => {
                let m: MemoryOperand = *m;
                let code = [Code::Cmp_r32_rm32, Code::Cmp_r64_rm64][wide];
                self.built(Instruction::with2(code, sized(*a, size), m));
            }
            _ => self.wrong(Op::SetCmp(Cond::E, size)),
        }
    }
}
