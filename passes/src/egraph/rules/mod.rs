//! The rules of the e-graph, in themed files, as data.
//!
//! A rule adds, it never replaces: what it found stays, and the extraction takes what costs least. So a rule need not
//! know whether it pays; it must only be true. How to write one: `docs/how-to/rule.md`.

use super::matching::{Cx, Match};
use crate::pipeline::Math;
use crate::rule::Class;
use crate::rule::pattern::{Pattern, PatternError};
use egg::Id;
use std::fmt;
use std::sync::OnceLock;

mod activation;
mod algebra;
mod algorithm;
mod attention;
mod conv;
mod layout;
mod norm;
mod quant;
mod reduce;
mod share;
mod view;

/// Why a rule whose pattern matched did not apply: told by `tenon explain` as a near miss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Why(pub String);

impl Why {
    /// A reason.
    pub fn new(reason: impl Into<String>) -> Why {
        Why(reason.into())
    }
}

impl From<&str> for Why {
    fn from(s: &str) -> Why {
        Why::new(s)
    }
}

/// What a rule makes of a match.
#[derive(Clone, Copy)]
pub enum Build {
    /// Text, with what the pattern binds.
    Text(&'static str),
    /// A function; it may also look further than the pattern did.
    With(fn(&mut Cx<'_>, &Match) -> Result<Id, Why>),
}

/// Says why a rule does not apply to a match, if it does not.
pub type Condition = fn(&Cx<'_>, &Match) -> Result<(), Why>;

/// A rule.
#[derive(Clone, Copy)]
pub struct Rule {
    /// Unique.
    pub name: &'static str,
    /// The file it is in.
    pub theme: &'static str,
    /// What it does to the bits.
    pub class: Class,
    /// What it looks for.
    pub pattern: &'static str,
    /// When it applies, beyond the pattern.
    pub when: Option<Condition>,
    /// What it makes.
    pub build: Build,
    /// `before → after`, for people.
    pub doc: &'static str,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.name, self.class, self.doc)
    }
}

/// `rule!("name", exact, "pattern" => "result" or with function, [if condition,] "doc")`
macro_rules! rule {
    ($name:literal, $class:ident, $lhs:literal => $rhs:literal, if $when:expr, $doc:literal) => {
        rule!(@ $name, $class, $lhs, Some($when), $crate::egraph::rules::Build::Text($rhs), $doc)
    };
    ($name:literal, $class:ident, $lhs:literal => $rhs:literal, $doc:literal) => {
        rule!(@ $name, $class, $lhs, None, $crate::egraph::rules::Build::Text($rhs), $doc)
    };
    ($name:literal, $class:ident, $lhs:literal => with $rhs:expr, $doc:literal) => {
        rule!(@ $name, $class, $lhs, None, $crate::egraph::rules::Build::With($rhs), $doc)
    };
    (@ $name:literal, $class:ident, $lhs:literal, $when:expr, $build:expr, $doc:literal) => {
        $crate::egraph::rules::Rule {
            name: $name,
            theme: "",
            class: rule!(@class $class),
            pattern: $lhs,
            when: $when,
            build: $build,
            doc: $doc,
        }
    };
    (@class exact) => { $crate::rule::Class::Exact };
    (@class reassociating) => { $crate::rule::Class::Reassociating };
    (@class approximating) => { $crate::rule::Class::Approximating };
}
pub(crate) use rule;

/// Every rule, in the order tried.
pub fn all() -> Vec<Rule> {
    let themes: [(&'static str, &[Rule]); 11] = [
        ("algebra", algebra::RULES),
        ("activation", activation::RULES),
        ("reduce", reduce::RULES),
        ("norm", norm::RULES),
        ("attention", attention::RULES),
        ("conv", conv::RULES),
        ("view", view::RULES),
        ("layout", layout::RULES),
        ("quant", quant::RULES),
        ("share", share::RULES),
        ("algorithm", algorithm::RULES),
    ];
    themes.iter().flat_map(|(theme, rules)| rules.iter().map(|r| Rule { theme, ..*r })).collect()
}

/// A rule with its text read.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The rule.
    pub rule: Rule,
    /// Its position among [`all`].
    pub id: u32,
    /// What it looks for.
    pub pattern: Pattern,
    /// What it makes, where that is text.
    pub result: Option<Pattern>,
}

/// The rules that `math` allows, read once in a process.
///
/// # Errors
/// As [`read`].
pub fn ready(math: Math) -> Result<&'static [Ready], &'static PatternError> {
    static READY: [OnceLock<Result<Vec<Ready>, PatternError>>; 3] = [const { OnceLock::new() }; 3];
    let of = || read(&all().into_iter().filter(|r| r.class.allowed(math)).collect::<Vec<Rule>>());
    READY[math as usize].get_or_init(of).as_deref()
}

/// Reads the text of `rules`.
///
/// # Errors
/// Text that is no pattern: a bug of the rule.
pub fn read(rules: &[Rule]) -> Result<Vec<Ready>, PatternError> {
    rules
        .iter()
        .enumerate()
        .map(|(i, r)| {
            let pattern = Pattern::parse(r.pattern)?;
            let result = match r.build {
                Build::Text(t) => Some(Pattern::parse_result(t, &pattern.names)?),
                Build::With(_) => None,
            };
            Ok(Ready { rule: *r, id: i as u32, pattern, result })
        })
        .collect()
}

/// Fails with a reason unless the condition holds.
macro_rules! ensure {
    ($cond:expr, $($reason:tt)+) => {
        // Bound first: where it compares floats, it is to hold, not its opposite to fail.
        let holds: bool = $cond;
        if !holds {
            return Err($crate::egraph::rules::Why::new(format!($($reason)+)));
        }
    };
}
pub(crate) use ensure;

/// The operator bound as `name`, if it is of the variant `kind`.
macro_rules! bound {
    ($cx:expr, $m:expr, $name:literal, $kind:ident) => {
        match $m.op($name).map(|id| $cx.op(id).clone()) {
            Some(tenon_ir::Op::$kind(op)) => Ok(op),
            _ => Err($crate::egraph::rules::Why::new(concat!("not a ", stringify!($kind)))),
        }
    };
}
pub(crate) use bound;
