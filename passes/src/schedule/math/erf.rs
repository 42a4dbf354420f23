//! The error function.

use super::emit::Emit;
use super::exp::exp;
use tenon_kernel::Expr;

/// `erf x = x · P(x²) / Q(x²)` on ±3.95, to 2e-8.
const P32: [f64; 6] = [
    1.128379143846332,
    0.19154794700254785,
    0.05287513649802213,
    0.003808060083133289,
    0.0002846854331550295,
    2.02592659441075e-06,
];
const Q32: [f64; 6] =
    [1.0, 0.5030876246761743, 0.11455864839703361, 0.01505488784333292, 0.0011707010501598438, 3.783187206392472e-05];

/// `erf x / x` in x² on ±1, to 1e-17.
const NEAR: [f64; 12] = [
    std::f64::consts::FRAC_2_SQRT_PI,
    -0.37612638903183543,
    0.11283791670945006,
    -0.02686617064323777,
    0.0052239776071164225,
    -0.0008548325975389692,
    0.00012055294904839707,
    -1.492473690741966e-05,
    1.6447424703317362e-06,
    -1.6208483801871705e-07,
    1.3720064546777686e-08,
    -7.795898827002142e-10,
];

/// `(1 + 2x) · e^x² · (1 - erf x)` in `(x - 3) / (x + 3)` on 1..6, to 3e-17 of erf.
const FAR: [f64; 15] = [
    1.2530080582697296,
    -0.13562110612459163,
    -0.047562294353480875,
    0.12964515870508256,
    -0.11927366341012202,
    0.0683080271973104,
    -0.02377051526428797,
    0.002529395728905082,
    0.001888700988139963,
    -0.0007798805620518153,
    -0.00010532108845047966,
    0.00012533420054777904,
    6.120647749371338e-06,
    -1.9946386266158316e-05,
    -3.941434579212148e-06,
];

/// The error function.
pub(super) fn erf(m: &mut Emit<'_, '_>, x: Expr) -> Expr {
    if !m.wide() {
        // 1 - erf 3.95 is below half an ulp of 1.
        let x = m.clamp(&x, -3.95, 3.95);
        let z = m.bind(x.clone() * x.clone());
        let p = x * m.poly(&z, &P32);
        let y = p / m.poly(&z, &Q32);
        return m.clamp(&y, -1.0, 1.0);
    }
    let a = m.abs(&x);
    // 1 - erf 6 is below half an ulp of 1.
    let a = m.bind(m.c(6.0).min(a));
    let z = m.bind(a.clone() * a.clone());
    let near = a.clone() * m.poly(&z, &NEAR);
    let t = (a.clone() - m.c(3.0)) / (a.clone() + m.c(3.0));
    let t = m.bind(t);
    let zero = m.c(0.0);
    let gauss = exp(m, zero - z);
    let complement = gauss * m.poly(&t, &FAR) / (a.clone() * m.c(2.0) + m.c(1.0));
    let value = m.lt(&a, 1.0).select(near, m.c(1.0) - complement);
    m.with_sign(value, &x)
}
