//! Short loops of sums without loops.
//!
//! A window of a pooling is a few elements wide: of two loops of three iterations around one operation the most is counting. Loops in order
//! whose iterations together are few operations are written out, from the inside out.
//!
//! ```text
//! for %h0 in 0..3 { for %h1 in 0..3 { %acc = max(load16 %x[%h0 * 7104 + %h1 * 64], %acc) } }
//! ```
//! becomes nine lines. Tiles of products have loops that are unrolled as far as is good for them; their bodies are longer than this.

use super::scope::rewrite_stmts;
use super::{ScheduleCx, Unit};
use tenon_kernel::{Expr, Stmt};

/// Operations of all iterations at most.
const MOST: usize = 12;

/// Writes out the short loops of `unit`.
pub(super) fn run(unit: &mut Unit, _cx: &ScheduleCx<'_>) {
    let body = std::mem::take(&mut unit.kernel.body);
    unit.kernel.body = rewrite_stmts(body, &mut unrolled);
}

/// The iterations of `s`, if it is such a loop.
fn unrolled(s: Stmt) -> Vec<Stmt> {
    let Stmt::For { var, lo, hi, step, parallel: false, body } = &s else { return vec![s] };
    let (Some(lo), Some(hi)) = (lo.as_int(), hi.as_int()) else { return vec![s] };
    // What a body defines it would define again and again.
    let plain = body.iter().all(|s| matches!(s, Stmt::Set { .. }));
    let trips = hi.checked_sub(lo).and_then(|n| usize::try_from(n.max(0)).ok()).map(|n| n.div_ceil(*step as usize));
    if !plain || trips.is_none_or(|n| n.saturating_mul(body.len()) > MOST) {
        return vec![s];
    }
    let at = |i: i64| body.iter().cloned().map(move |s| s.map_exprs(&mut |e| e.substitute(*var, &Expr::int(i))));
    (lo..hi).step_by(*step as usize).flat_map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tenon_kernel::Kernel;

    fn done(text: &str) -> String {
        let mut kernel = Kernel::parse(text).expect("the kernel reads");
        let body = std::mem::take(&mut kernel.body);
        kernel.body = rewrite_stmts(body, &mut unrolled);
        tenon_kernel::verify_kernel(&kernel, tenon_kernel::Stage::Scheduled).expect("it verifies");
        kernel.to_string()
    }

    fn window(rows: usize, step: usize, body: &str) -> String {
        format!(
            "kernel k(in %x: f32[64], out %y: f32[4]) {{
               parfor %i in 0..1 {{
                 var %acc = splat4(0.0)
                 for %h in 0..{rows} {{ for %w in 0..6 step {step} {{ {body} }} }}
                 store %y[0] = %acc
               }} }}"
        )
    }

    #[test]
    fn windows_are_written_out_and_long_sums_are_not() {
        let sum = "%acc = load4 %x[%h * 8 + %w] + %acc";
        let short = done(&window(3, 2, sum));
        assert!(!short.contains("for %h") && !short.contains("for %w"), "{short}");
        assert_eq!(short.matches("%acc = load4").count(), 9, "{short}");
        // A row at a time, but not all of them.
        let long = done(&window(3, 1, sum));
        assert!(long.contains("for %h") && !long.contains("for %w"), "{long}");
        assert_eq!(long.matches("%acc = load4").count(), 6, "{long}");
        let defines = done(&window(3, 2, "let %t = load4 %x[%h * 8 + %w]\n%acc = %t + %acc"));
        assert!(defines.contains("for %h") && defines.contains("for %w"), "{defines}");
        // Independent iterations are lanes or parts, not lines.
        assert!(short.contains("parfor %i"), "{short}");
    }
}
