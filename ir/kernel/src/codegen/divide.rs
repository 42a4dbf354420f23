//! Division by a constant as a multiplication.

/// Multiplier and shift for signed 64-bit division by `d >= 3`, not a power of two (Hacker's Delight, 10-1).
pub fn signed_magic(d: u64) -> (i64, u32) {
    let two63 = 1u64 << 63;
    let anc = two63 - 1 - two63 % d;
    let mut p = 63;
    let (mut q1, mut r1) = (two63 / anc, two63 % anc);
    let (mut q2, mut r2) = (two63 / d, two63 % d);
    loop {
        p += 1;
        (q1, r1) = double(q1, r1, anc);
        (q2, r2) = double(q2, r2, d);
        let delta = d - r2;
        if q1 > delta || (q1 == delta && r1 != 0) {
            return (q2.wrapping_add(1) as i64, p - 64);
        }
    }
}

/// Quotient and remainder of `2 (q d + r)` by `d`.
fn double(q: u64, r: u64, d: u64) -> (u64, u64) {
    let (q, r) = (q.wrapping_mul(2), r.wrapping_mul(2));
    if r >= d { (q.wrapping_add(1), r - d) } else { (q, r) }
}

#[cfg(test)]
mod tests {
    use super::signed_magic;

    #[test]
    fn magic_multipliers_divide() {
        for d in
            (3u64..300).chain([641, 1 << 20 | 1, i64::MAX as u64, (1 << 62) + 1]).filter(|d| !d.is_power_of_two())
        {
            let (m, s) = signed_magic(d);
            for x in [
                0,
                1,
                -1,
                2,
                7,
                -7,
                100,
                1 << 40,
                -(1 << 40),
                i64::MAX,
                i64::MIN,
                i64::MAX - 1,
                d as i64,
                -(d as i64),
            ] {
                let high = ((i128::from(x) * i128::from(m)) >> 64) as i64;
                let high = if m < 0 { high.wrapping_add(x) } else { high };
                let q = (high >> s) + ((x as u64) >> 63) as i64;
                assert_eq!(q, x / d as i64, "{x} / {d}");
            }
        }
    }
}
