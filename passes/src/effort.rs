//! How much goes into a program's code: what makes a run faster, or also what making the code takes.
//!
//! Making an instruction, from the kernel's text to its bytes, takes thousands of cycles: some thousand times as long as a run of it. So code that
//! runs once is better short than fast, and what is run a million times is better fast. Everything that could be written out, or be
//! written in more than one form, asks the [`Price`] of an instruction and compares it with the cycles that it saves.

use std::fmt;

/// What a compile is to make as short as it can.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Effort {
    /// The time until there is a first result: compiling, and one run.
    Quick,
    /// The time of a run, however long compiling takes.
    #[default]
    Full,
}

/// What code costs beside the cycles that it runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    /// Cycles that an instruction takes to be made.
    pub instruction: f64,
    /// The most operations that a loop is unrolled to.
    pub unrolled: usize,
    /// The most registers of one virtual vector.
    pub registers: usize,
}

impl Effort {
    /// What an instruction costs.
    pub fn price(self) -> Price {
        match self {
            Effort::Quick => Price { instruction: 8000.0, unrolled: 12, registers: 1 },
            Effort::Full => Price { instruction: 0.0, unrolled: usize::MAX, registers: usize::MAX },
        }
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Effort::Quick => "quick",
            Effort::Full => "full",
        })
    }
}
