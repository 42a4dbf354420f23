//! The order of a function's pieces: lengths of branches, alignment of loops, constants behind the code.

use crate::lir::Cond;

/// A displacement to be filled in: that of a byte of the pool.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fix {
    /// Of the 4 bytes, in the chunk.
    pub(super) at: usize,
    /// End of the instruction, in the chunk.
    pub(super) end: usize,
    /// Byte of the pool.
    pub(super) pool: u32,
}

/// A piece of the function.
#[derive(Debug)]
pub(super) enum Item {
    Code { bytes: Vec<u8>, fixes: Vec<Fix> },
    Branch { cond: Option<Cond>, to: usize, long: bool },
    Start(usize),
    Align,
}

/// Bytes of a branch.
fn branch_len(cond: Option<Cond>, long: bool) -> usize {
    match (cond, long) {
        (_, false) => 2,
        (None, true) => 5,
        (Some(_), true) => 6,
    }
}

/// Puts the pieces one behind the other; branches begin short and grow until all reach. Constants begin at a multiple of `align`.
pub(super) fn lay_out(mut items: Vec<Item>, pool: &[u8], align: usize) -> Vec<u8> {
    let blocks = items.iter().map(|i| if let Item::Start(b) = i { b + 1 } else { 0 }).max().unwrap_or(0);
    let mut starts = vec![0usize; blocks];
    let pad = |at: usize| at.next_multiple_of(16) - at;
    loop {
        let mut at = 0;
        for i in &items {
            match i {
                Item::Code { bytes, .. } => at += bytes.len(),
                Item::Branch { cond, long, .. } => at += branch_len(*cond, *long),
                Item::Start(b) => starts[*b] = at,
                Item::Align => at += pad(at),
            }
        }
        let mut grown = false;
        let mut at = 0;
        for i in &mut items {
            match i {
                Item::Code { bytes, .. } => at += bytes.len(),
                Item::Branch { cond, to, long } => {
                    let reach = starts[*to] as i64 - (at as i64 + 2);
                    if !*long && !(-128..=127).contains(&reach) {
                        *long = true;
                        grown = true;
                    }
                    at += branch_len(*cond, *long);
                }
                Item::Start(_) => {}
                Item::Align => at += pad(at),
            }
        }
        if !grown {
            break;
        }
    }
    let mut code: Vec<u8> = vec![];
    let mut fixes = vec![];
    for i in &items {
        match i {
            Item::Code { bytes, fixes: f } => {
                let base = code.len();
                fixes.extend(f.iter().map(|f| Fix { at: base + f.at, end: base + f.end, pool: f.pool }));
                code.extend_from_slice(bytes);
            }
            Item::Branch { cond, to, long } => {
                let reach = starts[*to] as i64 - (code.len() + branch_len(*cond, *long)) as i64;
                match (cond, long) {
                    (None, false) => code.extend([0xeb, reach as u8]),
                    (Some(c), false) => code.extend([0x70 | *c as u8, reach as u8]),
                    (None, true) => code.push(0xe9),
                    (Some(c), true) => code.extend([0x0f, 0x80 | *c as u8]),
                }
                if *long {
                    code.extend((reach as i32).to_le_bytes());
                }
            }
            Item::Start(_) => {}
            Item::Align => {
                let n = pad(code.len());
                nops(&mut code, n);
            }
        }
    }
    if pool.is_empty() {
        return code;
    }
    code.resize(code.len().next_multiple_of(align.max(1)), 0xcc);
    let base = code.len();
    for f in fixes {
        let reach = (base + f.pool as usize) as i64 - f.end as i64;
        code[f.at..f.at + 4].copy_from_slice(&(reach as i32).to_le_bytes());
    }
    code.extend_from_slice(pool);
    code
}

/// `n` bytes that do nothing, in few instructions (Intel's recommended forms).
fn nops(code: &mut Vec<u8>, mut n: usize) {
    const FORMS: [&[u8]; 9] = [
        &[0x90],
        &[0x66, 0x90],
        &[0x0f, 0x1f, 0x00],
        &[0x0f, 0x1f, 0x40, 0x00],
        &[0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x66, 0x0f, 0x1f, 0x44, 0x00, 0x00],
        &[0x0f, 0x1f, 0x80, 0x00, 0x00, 0x00, 0x00],
        &[0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
        &[0x66, 0x0f, 0x1f, 0x84, 0x00, 0x00, 0x00, 0x00, 0x00],
    ];
    while n > 0 {
        let k = n.min(9);
        code.extend_from_slice(FORMS[k - 1]);
        n -= k;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(n: usize) -> Item {
        Item::Code { bytes: vec![0x90; n], fixes: vec![] }
    }

    #[test]
    fn branches_are_as_short_as_they_can_be() {
        let around = |n: usize| {
            let cond = Some(Cond::E);
            lay_out(vec![Item::Start(0), Item::Branch { cond, to: 1, long: false }, code(n), Item::Start(1)], &[], 0)
        };
        assert_eq!(around(127)[..2], [0x74, 127]);
        assert_eq!(around(128)[..6], [0x0f, 0x84, 128, 0, 0, 0]);
        let back = lay_out(vec![Item::Start(0), code(126), Item::Branch { cond: None, to: 0, long: false }], &[], 0);
        assert_eq!(back[126..], [0xeb, 0x80]);
    }

    #[test]
    fn constants_are_aligned_and_found() {
        let fix = Fix { at: 1, end: 5, pool: 8 };
        let out = lay_out(vec![Item::Code { bytes: vec![0; 6], fixes: vec![fix] }], &[7; 16], 64);
        assert_eq!((out.len(), out[64]), (80, 7));
        assert_eq!(out[1..5], 67i32.to_le_bytes()); // 64 + 8 - 5
    }
}
