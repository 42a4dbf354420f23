//! Weights that a kernel reads once come to the second cache while the kernels before it compute.
//!
//! A product with one row multiplies as much as it reads, and so waits for all of it, while the kernels before it were busy with arithmetic and left
//! memory idle. They get the weights as one more parameter, which they only fetch: a few lines in every iteration of one of their loops.
//!
//! ```text
//! kernel conv_47(…, in %later: f32[82944]) {
//!   parfor %t in 0..12 {
//!     parfor %m in 0..49 step 7 {
//!       let %ahead = min(%t * 7 + %m / 7, 82) * 1008
//!       for %k in 0..96 step 4 {
//!         prefetch %later[%ahead + %k * 4]
//!         …
//! ```

use super::nth;
use super::panels::{LINE, trips};
use crate::cycles;
use crate::effort::Price;
use crate::rows::drop_unused;
use rayon::prelude::*;
use std::collections::BTreeMap;
use tenon_base::DType;
use tenon_kernel::{Access, Affine, BinOp, Buf, BufferId, BufferKind, Expr, Kernel, Program, Step, Stmt, Type, Var};
use tenon_target::Target;

/// Weights below this arrive while they are asked for.
const SHORTEST: usize = 16 << 10;
/// Loads of every element at most, for weights that are read once.
const ONCE: f64 = 1.25;
/// Cycles in which one line comes from beyond the second cache, when many are under way.
const LINE_CYCLES: f64 = 9.0;
/// The part of a kernel's time in which it may fetch for others.
const SPARE: f64 = 0.8;
/// The part of the second cache that what is fetched early may take, and what passes through it meanwhile.
const EARLY: f64 = 0.6;
const BETWEEN: f64 = 0.9;
/// Lines that are worth a parameter, and that one iteration may fetch.
const FEWEST_LINES: i64 = 128;
const MOST_LINES: i64 = 4;
/// Instructions that fetch for another kernel.
const CODE: f64 = 30.0;

/// Lines of a buffer that a call fetches for a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Gift {
    buffer: BufferId,
    first: i64,
    lines: i64,
}

/// What a kernel has to know of a gift: elements of the buffer, and which lines; calls that agree in it share a kernel.
type Alike = (DType, usize, Gift);

/// Adds prefetches to the kernels of calls; gives how many kernels have some.
pub(super) fn run(program: &mut Program, target: &Target, price: Price) -> usize {
    let most = EARLY * target.caches.l2 as f64 / LINE as f64 * LINE_CYCLES;
    if most <= price.instruction * CODE {
        return 0;
    }
    let once: Vec<Vec<usize>> = program.kernels.par_iter().map(read_once).collect();
    if once.iter().all(Vec::is_empty) {
        return 0;
    }
    let gifts = plan(program, &once, &cycles::of_kernels(program, target), target);
    // Calls of a kernel that fetch as much share one again.
    let mut wanted: BTreeMap<(usize, Vec<Alike>), Vec<usize>> = BTreeMap::new();
    for (i, gifts) in &gifts {
        let Step::Call(call) = &program.steps[*i] else { continue };
        let alike = |g: &Gift| {
            let b = program.buffer(g.buffer);
            (b.dtype, b.len, Gift { buffer: BufferId(0), ..*g })
        };
        wanted.entry((call.kernel, gifts.iter().map(alike).collect())).or_default().push(*i);
    }
    // In the order of the first call of each.
    let mut wanted: Vec<_> = wanted.into_iter().map(|((k, gifts), calls)| (calls, k, gifts)).collect();
    wanted.sort_unstable_by_key(|(calls, ..)| calls[0]);
    let kernels = &program.kernels;
    let made: Vec<Option<Kernel>> =
        wanted.par_iter().map(|(_, k, gifts)| with_gifts(&kernels[*k], gifts, target)).collect();
    let mut changed = 0;
    for ((calls, ..), kernel) in wanted.into_iter().zip(made) {
        let Some(mut kernel) = kernel else { continue };
        kernel.name = format!("{}_a{changed}", kernel.name);
        changed += 1;
        program.kernels.push(kernel);
        let kernel = program.kernels.len() - 1;
        for i in calls {
            let Step::Call(call) = &mut program.steps[i] else { continue };
            call.kernel = kernel;
            call.args.extend(gifts[&i].iter().map(|g| g.buffer));
        }
    }
    drop_unused(program);
    changed
}

/// Which calls, by their places in the list of steps, fetch what.
fn plan(
    program: &Program,
    once: &[Vec<usize>],
    costs: &[cycles::Cost],
    target: &Target,
) -> BTreeMap<usize, Vec<Gift>> {
    let l2 = target.caches.l2 as f64;
    let constant = |id: &BufferId| matches!(program.buffer(*id).kind, BufferKind::Const(_));
    // Lines that may still be fetched beside each call: not more than memory has time for beside its own weights.
    let spare = |s: &Step| match s {
        Step::Call(c) => {
            let own: usize = c.args.iter().filter(|id| constant(id)).map(|id| program.buffer(*id).bytes()).sum();
            SPARE * costs[c.kernel].cycles / LINE_CYCLES - own as f64 / LINE as f64
        }
        _ => 0.0,
    };
    let mut left: Vec<f64> = program.steps.iter().map(spare).collect();
    let mut gifts: BTreeMap<usize, Vec<Gift>> = BTreeMap::new();
    for (i, step) in program.steps.iter().enumerate() {
        let Step::Call(call) = step else { continue };
        let wanted = once[call.kernel].iter().map(|p| call.args[*p]).filter(constant);
        for buffer in wanted.filter(|id| program.buffer(*id).bytes() >= SHORTEST) {
            let all = (program.buffer(buffer).bytes() as f64).min(EARLY * l2) as i64 / LINE;
            let (mut first, mut between) = (0, 0.0);
            for (d, step) in program.steps[..i].iter().enumerate().rev() {
                let Step::Call(before) = step else { break };
                between += costs[before.kernel].bytes as f64;
                if first == all || between > BETWEEN * l2 {
                    break;
                }
                let lines = (all - first).min(left[d] as i64);
                if lines >= FEWEST_LINES.min(all - first) {
                    gifts.entry(d).or_default().push(Gift { buffer, first, lines });
                    left[d] -= lines as f64;
                    first += lines;
                }
            }
        }
    }
    gifts
}

/// The parameters of which `k` reads every element about once.
fn read_once(k: &Kernel) -> Vec<usize> {
    if k.parts.is_some() {
        return vec![];
    }
    let mut reads = vec![Some(0.0); k.buffers.len()];
    count(&k.body, 1.0, &mut reads);
    let once = |i: &usize| {
        let b = &k.buffers[*i];
        b.access == Access::In && b.len > 0 && reads[*i].is_some_and(|n| n <= ONCE * b.len as f64)
    };
    (0..k.buffers.len()).filter(once).collect()
}

/// Adds the elements that `body` loads of each buffer when it runs `times` times; `None` where that depends on data.
fn count(body: &[Stmt], times: f64, reads: &mut [Option<f64>]) {
    for s in body {
        let mut one = |times: Option<f64>| {
            s.exprs(&mut |e| {
                e.visit(&mut |e| {
                    if let Expr::Load { buf, lanes, .. } = e {
                        let n = &mut reads[buf.0 as usize];
                        *n = n.zip(times).map(|(n, t)| n + t * f64::from(*lanes));
                    }
                });
            });
        };
        match s {
            Stmt::For { lo, hi, step, body, .. } => match trips(lo, hi, *step) {
                Some(n) => count(body, times * n as f64, reads),
                None => unknown(body, reads),
            },
            Stmt::If { then, otherwise, .. } => {
                one(Some(times));
                [then, otherwise].into_iter().for_each(|b| count(b, times, reads));
            }
            Stmt::While { body, .. } => {
                one(None);
                unknown(body, reads);
            }
            Stmt::Tiles(_) => {
                // Whole rows of what it multiplies, several times as a rule.
                reads.iter_mut().for_each(|n| *n = None);
            }
            _ => one(Some(times)),
        }
    }
}

/// Marks what `body` reads as read any number of times.
fn unknown(body: &[Stmt], reads: &mut [Option<f64>]) {
    let mut inside = vec![Some(0.0); reads.len()];
    count(body, 1.0, &mut inside);
    reads.iter_mut().zip(inside).filter(|(_, n)| *n != Some(0.0)).for_each(|(n, _)| *n = None);
}

/// `k` with parameters of which it fetches `gifts`; `None` if no loop of it suits.
fn with_gifts(k: &Kernel, gifts: &[Alike], target: &Target) -> Option<Kernel> {
    let mut k = k.clone();
    for &(dtype, len, gift) in gifts {
        let buf = k.new_buffer("later", dtype, len, Access::In);
        let path = path(&k, gift.lines, target)?;
        let ahead = k.new_var("ahead", Type::INDEX);
        let mut body = std::mem::take(&mut k.body);
        let runs = path[..path.len() - 1].iter().fold(1, |n, w| n * w.trips);
        let fetch = Fetch { buf, gift, per_line: LINE / dtype.size() as i64, ahead, runs };
        fetch.insert(&mut body, &path, Expr::int(0));
        k.body = body;
    }
    Some(k)
}

/// A loop on the way from the body of a kernel to the place where something is fetched.
struct Way {
    /// Its place among the statements.
    at: usize,
    trips: i64,
}

/// The heaviest loops of `k` from the outside in, down to one that has enough iterations to fetch `lines` lines.
fn path(k: &Kernel, lines: i64, target: &Target) -> Option<Vec<Way>> {
    let (mut body, mut path, mut all) = (&k.body, vec![], 1_i64);
    loop {
        let loops = body.iter().enumerate().filter(|(_, s)| matches!(s, Stmt::For { .. }));
        let weights = loops.map(|(i, s)| (cycles::of_block(k, std::slice::from_ref(s), target), i));
        let Some((_, at)) = weights.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))) else { break };
        let Stmt::For { lo, hi, step, body: inner, .. } = &body[at] else { break };
        let Some(trips) = trips(lo, hi, *step) else { break };
        all = all.saturating_mul(trips);
        path.push(Way { at, trips });
        if all.saturating_mul(MOST_LINES) >= lines {
            return Some(path);
        }
        body = inner;
    }
    // More lines an iteration than that would stand in the way of what the kernel reads itself.
    (!path.is_empty() && all.saturating_mul(4 * MOST_LINES) >= lines).then_some(path)
}

/// A gift on its way into a kernel.
struct Fetch {
    buf: Buf,
    gift: Gift,
    /// Elements of a line.
    per_line: i64,
    /// Holds the first element that the innermost of the loops fetches.
    ahead: Var,
    /// How often that loop runs.
    runs: i64,
}

impl Fetch {
    /// Adds it to the loops along `path` of `body`, of whose iterations `number` came before.
    fn insert(&self, body: &mut Vec<Stmt>, path: &[Way], number: Expr) {
        let Some((way, inner)) = path.split_first() else { return };
        let Some(Stmt::For { var, lo, step, body: of, .. }) = body.get_mut(way.at) else { return };
        if !inner.is_empty() {
            let nth = nth(*var, lo, *step);
            let number = if number.as_int() == Some(0) { nth } else { number * way.trips + nth };
            return self.insert(of, inner, number);
        }
        // Every run of the innermost loop fetches as many lines; runs that come later than needed fetch the last ones once more.
        let (Gift { first, lines, .. }, elements) = (self.gift, self.per_line);
        let share = (lines + self.runs - 1) / self.runs;
        let each = (share + way.trips - 1) / way.trips;
        let last = (lines + share - 1) / share - 1;
        let of_run = match number.as_int() {
            Some(n) => Expr::int((n * share + first) * elements),
            None => number.binary(BinOp::Min, Expr::int(last)) * (share * elements) + first * elements,
        };
        // Each of an iteration's lines is of another run: memory answers places that lie apart sooner than neighbours.
        let apart = (share + each - 1) / each;
        let at = match elements % *step {
            0 => nth(*var, lo, 1) * (elements / *step),
            _ => nth(*var, lo, *step) * elements,
        };
        // Iterations fetch the last line once more, too, if there are many more of them.
        let clamped = way.trips > apart + apart / 4;
        let at = if clamped { at.binary(BinOp::Min, Expr::int((apart - 1) * elements)) } else { at };
        let fetches = (0..each).map(|l| {
            let index = Expr::Var(self.ahead) + at.clone() + l * apart * elements;
            Stmt::Prefetch { buf: self.buf, index: Affine::of(&index).map_or(index, |a| a.to_expr()) }
        });
        let fetches: Vec<Stmt> = fetches.collect();
        of.splice(0..0, fetches);
        body.insert(way.at, Stmt::Let { var: self.ahead, value: of_run });
    }
}

#[cfg(test)]
mod tests {
    use super::super::panels::tests::fetched;
    use super::*;
    use crate::effort::Effort;
    use std::collections::BTreeSet;
    use tenon_kernel::{Stage, verify_kernel};

    fn kernel(loops: &str, body: &str) -> Kernel {
        let ends = "}".repeat(loops.matches('{').count());
        let text = format!("kernel k(in %x: f32[65536], out %y: f32[65536]) {{ {loops} {body} {ends} }}");
        Kernel::parse(&text).expect("it reads")
    }

    fn target() -> Target {
        Target::parse("x86_64-linux/sapphire-rapids").expect("a known target")
    }

    #[test]
    fn every_line_is_fetched_once_or_the_last_ones_again() {
        let nests = [
            (
                "parfor %a in 0..12 { parfor %b in 0..49 step 7 { for %c in 0..96 step 4 {",
                "%a * 4096 + %b * 64 + %c",
                2016,
            ),
            ("parfor %a in 2..31 {", "%a", 29),
            ("parfor %a in 0..3 { for %b in 1..1000 {", "%a * 1024 + %b", 2997),
            ("for %a in 0..40 step 14 { for %b in 0..60 step 5 {", "%a * 64 + %b", 36),
        ];
        for (loops, index, iterations) in nests {
            let k = kernel(loops, &format!("store %y[{index}] = 1.0"));
            for (first, lines) in [(0, 700), (64, 200), (5, 129)] {
                let gift = Gift { buffer: BufferId(0), first, lines };
                let Some(k) = with_gifts(&k, &[(DType::F32, 65536, gift)], &target()) else {
                    assert!(lines > 4 * MOST_LINES * iterations, "{loops}: {lines} lines");
                    continue;
                };
                verify_kernel(&k, Stage::Scheduled).expect("it verifies");
                let got: BTreeSet<i64> = fetched(&k).iter().map(|e| e / 16).collect();
                let want: BTreeSet<i64> = (first..first + lines).collect();
                let beyond = got.difference(&want).count() as i64;
                assert!(got.is_superset(&want) && beyond <= lines / 4 + 16, "{lines} and {beyond} beyond:\n{k}");
            }
        }
    }

    /// A kernel that computes, `between`, and one that reads weights once.
    fn program(between: &str) -> Program {
        let text = format!(
            "program p {{
  fma
  arena 32768
  input \"x\": f32[4096]
  output \"y\": f32[1024]
  buffer %in: f32[4096] = input 0
  buffer %out: f32[1024] = output 0
  buffer %a: f32[4096] = arena@0
  buffer %b: f32[4096] = arena@16384
  buffer %w: f32[262144] = arena@0
  kernel busy(in %x: f32[4096], out %y: f32[4096]) {{ parfor %i in 0..4096 step 16 {{
    var %s = splat16(0.0)
    for %k in 0..256 {{ %s = fma(splat16(load %x[%k]), load16 %x[%i], %s) }}
    store16 %y[%i] = %s
  }} }}
  kernel row(in %x: f32[4096], in %w: f32[262144], out %y: f32[1024]) {{ parfor %t in 0..64 {{
    var %s = splat16(0.0)
    for %k in 0..256 {{ %s = fma(splat16(load %x[%k]), load16 %w[%t * 4096 + %k * 16], %s) }}
    store16 %y[%t * 16] = %s
  }} }}
  call busy(%in, %a) @ \"first\"
  {between}
  call row(%a, %w, %out) @ \"last\"
}}"
        )
        .replace("store16", "store");
        let mut p = Program::parse(&text).unwrap_or_else(|e| panic!("it reads: {e}"));
        let w = p.buffers.iter_mut().find(|b| b.name == "w").expect("the weights");
        w.kind = BufferKind::Const(tenon_base::Tensor::new(&[262_144], &vec![0.0_f32; 262_144]));
        p
    }

    /// What call `i` fetches, by first line and lines.
    fn fetches(p: &Program, i: usize) -> (usize, usize) {
        let call = p.calls()[i];
        let lines: BTreeSet<i64> = fetched(&p.kernels[call.kernel]).iter().map(|e| e / 16).collect();
        (call.args.len() - 2, lines.len())
    }

    #[test]
    fn who_computes_fetches_for_who_waits() {
        let mut p = program("");
        assert_eq!(run(&mut p, &target(), Effort::Full.price()), 1);
        let (more, lines) = fetches(&p, 0);
        assert!(more == 1 && (2000..16_384).contains(&lines), "{more} parameters, {lines} lines");
        assert_eq!(p.kernels.len(), 2, "the kernel without is not called any more");
    }

    #[test]
    fn code_that_does_not_pay_in_one_run_is_not_made() {
        assert_eq!(run(&mut program(""), &target(), Effort::Quick.price()), 0);
    }

    #[test]
    fn the_nearest_fetch_first_and_the_rest_is_fetched_before() {
        let mut p = program("call busy(%a, %b) @ \"second\"");
        assert_eq!(run(&mut p, &target(), Effort::Full.price()), 2);
        let ((_, before), (_, nearest)) = (fetches(&p, 0), fetches(&p, 1));
        assert!(before > 0 && nearest > 0);
        let all = |i: usize| fetched(&p.kernels[p.calls()[i].kernel]);
        assert_eq!(all(1).iter().min(), Some(&0));
        // The last iterations of the nearest may fetch a little more.
        let then = all(0).iter().min().map_or(0, |e| *e as usize / 16);
        assert!(then <= nearest && nearest - then < 64, "{then}, {nearest}");
    }

    #[test]
    fn nobody_fetches_what_is_read_again_and_again() {
        let mut p = program("");
        let row = p.kernels.iter_mut().find(|k| k.name == "row").expect("the kernel");
        *row = Kernel::parse(&row.to_string().replace("in 0..256", "in 0..1024")).expect("it reads");
        assert_eq!(run(&mut p, &target(), Effort::Full.price()), 0);
    }
}
