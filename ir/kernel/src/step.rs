//! What a program runs: calls of kernels, and the control around them.

use crate::{BufferId, Call, Program};
use std::ops::RangeInclusive;
use tenon_base::Loc;

/// One thing a program does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// A kernel on buffers.
    Call(Call),
    /// One of two blocks.
    If(If),
    /// A block again and again.
    Loop(Loop),
}

/// `if %cond { then } else { otherwise }`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct If {
    /// A buffer of one `bool`.
    pub cond: BufferId,
    /// When it is true.
    pub then: Vec<Step>,
    /// When it is false.
    pub otherwise: Vec<Step>,
    /// The ONNX node.
    pub loc: Loc,
}

/// `loop %iter to %trip while %cond { body }`, where each of the three may be missing, but not both `trip` and `cond`:
///
/// ```text
/// n = trip; for (i = 0; i < n && cond; i++) { iter = i; body }
/// ```
///
/// `trip` is read once, `cond` before every iteration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loop {
    /// A buffer of one `i64` in the arena that holds the number of the iteration, from 0; only the loop writes it.
    pub iter: Option<BufferId>,
    /// A buffer of one `i64`: how many iterations there are at most; none if it is not above 0.
    pub trip: Option<BufferId>,
    /// A buffer of one `bool`: the loop ends when it is false.
    pub cond: Option<BufferId>,
    /// What is repeated.
    pub body: Vec<Step>,
    /// The ONNX node.
    pub loc: Loc,
}

impl Step {
    fn calls<'a>(steps: &'a [Step], all: &mut Vec<&'a Call>) {
        for s in steps {
            match s {
                Step::Call(c) => all.push(c),
                Step::If(s) => {
                    Step::calls(&s.then, all);
                    Step::calls(&s.otherwise, all);
                }
                Step::Loop(s) => Step::calls(&s.body, all),
            }
        }
    }

    fn calls_mut<'a>(steps: &'a mut [Step], all: &mut Vec<&'a mut Call>) {
        for s in steps {
            match s {
                Step::Call(c) => all.push(c),
                Step::If(s) => {
                    Step::calls_mut(&mut s.then, all);
                    Step::calls_mut(&mut s.otherwise, all);
                }
                Step::Loop(s) => Step::calls_mut(&mut s.body, all),
            }
        }
    }

    fn buffers_mut<'a>(steps: &'a mut [Step], all: &mut Vec<&'a mut BufferId>) {
        for s in steps {
            match s {
                Step::Call(c) => all.extend(&mut c.args),
                Step::If(s) => {
                    all.push(&mut s.cond);
                    Step::buffers_mut(&mut s.then, all);
                    Step::buffers_mut(&mut s.otherwise, all);
                }
                Step::Loop(s) => {
                    all.extend([&mut s.iter, &mut s.trip, &mut s.cond].into_iter().flatten());
                    Step::buffers_mut(&mut s.body, all);
                }
            }
        }
    }
}

/// One moment of a program's run, in the order of its text.
#[derive(Clone, Debug)]
pub struct Moment<'p> {
    /// The call, if it is one; else a condition is read, a loop begins or it ends.
    pub call: Option<&'p Call>,
    /// Buffers that are read or written, each as often as it is named.
    pub uses: Vec<BufferId>,
}

/// The moments of a program, and which of them are repeated.
#[derive(Clone, Debug, Default)]
pub struct Timeline<'p> {
    /// In order.
    pub moments: Vec<Moment<'p>>,
    /// First and last moment of every loop, inner loops before those around them.
    pub loops: Vec<RangeInclusive<usize>>,
}

impl<'p> Timeline<'p> {
    fn add(&mut self, steps: &'p [Step]) {
        for s in steps {
            match s {
                Step::Call(c) => self.moments.push(Moment { call: Some(c), uses: c.args.clone() }),
                Step::If(s) => {
                    self.moments.push(Moment { call: None, uses: vec![s.cond] });
                    self.add(&s.then);
                    self.add(&s.otherwise);
                }
                Step::Loop(s) => {
                    let first = self.moments.len();
                    let uses = [s.trip, s.cond, s.iter].into_iter().flatten().collect();
                    self.moments.push(Moment { call: None, uses });
                    self.add(&s.body);
                    self.moments.push(Moment { call: None, uses: s.cond.into_iter().collect() });
                    self.loops.push(first..=self.moments.len() - 1);
                }
            }
        }
    }

    /// The moments between which each of `buffers` buffers may hold a value; `None` for one that nothing uses. What is
    /// used in a loop and outside of it holds a value throughout the loop.
    pub fn lives(&self, buffers: usize) -> Vec<Option<(usize, usize)>> {
        let mut lives: Vec<Option<(usize, usize)>> = vec![None; buffers];
        for (now, m) in self.moments.iter().enumerate() {
            for id in &m.uses {
                if let Some(life) = lives.get_mut(id.0 as usize) {
                    *life = Some((life.map_or(now, |l| l.0), now));
                }
            }
        }
        for (first, last) in lives.iter_mut().flatten() {
            for l in &self.loops {
                if *first < *l.start() && l.contains(last) {
                    *last = *l.end();
                } else if l.contains(first) && *last > *l.end() {
                    *first = *l.start();
                }
            }
        }
        lives
    }
}

impl Program {
    /// Adds a call at the end.
    pub fn push_call(&mut self, call: Call) {
        self.steps.push(Step::Call(call));
    }

    /// All calls, in the order of the text: both blocks of an `if`, and the body of a loop once.
    pub fn calls(&self) -> Vec<&Call> {
        let mut all = vec![];
        Step::calls(&self.steps, &mut all);
        all
    }

    /// The same, to change them.
    pub fn calls_mut(&mut self) -> Vec<&mut Call> {
        let mut all = vec![];
        Step::calls_mut(&mut self.steps, &mut all);
        all
    }

    /// Every place where a step names a buffer: arguments, conditions, trip counts.
    pub fn used_mut(&mut self) -> Vec<&mut BufferId> {
        let mut all = vec![];
        Step::buffers_mut(&mut self.steps, &mut all);
        all
    }

    /// The order of everything that happens.
    pub fn timeline(&self) -> Timeline<'_> {
        let mut t = Timeline::default();
        t.add(&self.steps);
        t
    }
}
