//! Finding better tiles by measuring them.
//!
//! The schedule chooses by an estimate and says what else it considered. All contractions of a model are tried at once: one
//! compile and one measurement, call by call, for the first alternative of every one, one for the second, and so on. So a model
//! takes as many measurements as the contraction with the most alternatives, however many layers it has.

use crate::profile::Profile;
use crate::recipe::Tuned;
use crate::{Compiled, Compiler, Error, Recipe};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tenon_base::Tensor;
use tenon_ir::Graph;
use tenon_passes::tuning::{Considered, Tile};

/// How much less time a tile must take to be worth a line in the recipe.
const GAIN: f64 = 0.98;
/// How often every tile is measured, all others in between: what disturbs one measurement rarely disturbs the same one twice.
const TURNS: usize = 2;
/// How often what was found is measured again, in turn with what was there.
const CONFIRM: usize = 3;

/// A contraction for which another tile is faster.
#[derive(Clone, Debug)]
pub struct Better {
    /// The contraction: see [`Considered::shape`].
    pub shape: String,
    /// Kernels that it is in.
    pub kernels: BTreeSet<String>,
    /// What the schedule takes by itself.
    pub before: Tile,
    /// What is faster.
    pub after: Tile,
    /// Least time of all calls of the kernels, before and after.
    pub times: (Duration, Duration),
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The recipe, with the better tiles for the target.
    pub recipe: Recipe,
    /// What they are, the largest gain first.
    pub better: Vec<Better>,
    /// Contractions that were looked at.
    pub shapes: usize,
    /// Every tile that was measured: the contraction, the tile, and the least time of all calls of its kernels.
    pub measured: Vec<(String, Tile, Duration)>,
    /// Least time of a run, by the schedule's own tiles and by these.
    pub run: (Duration, Duration),
}

/// Measures tiles for `graph` on this machine for about `time`; `recipe` is what else the compile rests on. `watch` is told how many
/// of how many measurements are done.
///
/// # Errors
/// The model does not compile, the target is not this machine, or the inputs do not fit.
pub fn tune(
    compiler: &Compiler,
    graph: &Graph,
    recipe: Recipe,
    inputs: &[Tensor],
    time: Duration,
    watch: &mut dyn FnMut(usize, usize),
) -> Result<Found, Error> {
    let target = compiler.options().target.name.clone();
    let mut recipe = recipe;
    recipe.tuned.retain(|t| t.target != target);
    let compile = |tiles: &BTreeMap<String, Tile>| -> Result<Compiled, Error> {
        let mut options = compiler.options().clone();
        options.recipe = Some(with_tiles(&recipe, &target, tiles));
        Compiler::new(options).compile_graph(graph.clone())
    };
    let base = compile(&BTreeMap::new())?;
    let shapes = Shapes::of(&base.considered);
    let rounds = shapes.of.values().map(|s| s.others.len()).max().unwrap_or(0);
    let all = TURNS * (rounds + 1) + 2 * CONFIRM;
    let slice = time.div_f64(all as f64).max(Duration::from_millis(20));
    let mut done = 0;
    let mut measure = |c: &Compiled| {
        let times = Times::of(&Profile::measure(c, inputs, slice)?);
        done += 1;
        watch(done, all);
        Ok::<Times, Error>(times)
    };

    let mut before = Times::default();
    let mut least: BTreeMap<(&str, Tile), f64> = BTreeMap::new();
    for _ in 0..TURNS {
        before.take_lesser(measure(&base)?);
        for i in 0..rounds {
            let nth = shapes.of.iter().filter_map(|(name, s)| Some((name.as_str(), *s.others.get(i)?)));
            let tiles: Vec<(&str, Tile)> = nth.collect();
            let times = measure(&compile(&tiles.iter().map(|(n, t)| (n.to_string(), *t)).collect())?)?;
            for (name, tile) in tiles {
                let Some(t) = times.of_all(&shapes.of[name].kernels) else { continue };
                let known = least.entry((name, tile)).or_insert(t);
                *known = known.min(t);
            }
        }
    }
    let mut best: BTreeMap<&str, (f64, Tile)> = BTreeMap::new();
    for ((name, tile), t) in &least {
        if best.get(name).is_none_or(|(least, _)| t < least) {
            best.insert(name, (*t, *tile));
        }
    }
    let faster =
        |name: &str, t: f64, before: &Times| before.of_all(&shapes.of[name].kernels).is_some_and(|b| t < GAIN * b);
    let mut tiles: BTreeMap<String, Tile> = best
        .into_iter()
        .filter(|(name, (t, _))| faster(name, *t, &before))
        .map(|(name, (_, tile))| (name.to_string(), tile))
        .collect();

    // What was least once may have been luck: all of it again, in turn with what was there.
    let mut after = Times::default();
    let chosen = compile(&tiles)?;
    for _ in 0..CONFIRM {
        before.take_lesser(measure(&base)?);
        after.take_lesser(measure(&chosen)?);
    }
    tiles.retain(|name, _| after.of_all(&shapes.of[name].kernels).is_some_and(|t| faster(name, t, &before)));
    let mut better: Vec<Better> = tiles
        .iter()
        .map(|(name, tile)| {
            let s = &shapes.of[name];
            let time = |t: &Times| Duration::from_secs_f64(t.of_all(&s.kernels).unwrap_or(0.0));
            let (shape, kernels) = (name.clone(), s.kernels.clone());
            Better { shape, kernels, before: s.taken, after: *tile, times: (time(&before), time(&after)) }
        })
        .collect();
    better.sort_by_key(|b| std::cmp::Reverse(b.times.0.saturating_sub(b.times.1)));
    let mut measured: Vec<(String, Tile, Duration)> =
        least.into_iter().map(|((name, tile), t)| (name.to_string(), tile, Duration::from_secs_f64(t))).collect();
    for (name, s) in &shapes.of {
        let time = before.of_all(&s.kernels).map(Duration::from_secs_f64);
        measured.extend(time.map(|t| (name.clone(), s.taken, t)));
    }
    measured.sort();
    let run = (before.run, if better.is_empty() { before.run } else { after.run });
    let recipe = if better.is_empty() { recipe.clone() } else { with_tiles(&recipe, &target, &tiles) };
    Ok(Found { recipe, better, shapes: shapes.of.len(), measured, run })
}

/// `recipe` with `tiles` for `target`.
fn with_tiles(recipe: &Recipe, target: &str, tiles: &BTreeMap<String, Tile>) -> Recipe {
    let mut recipe = recipe.clone();
    let tiles = tiles.iter().map(|(shape, tile)| (shape.clone(), tile.to_string())).collect();
    recipe.tuned.push(Tuned { target: target.to_string(), tiles });
    recipe
}

/// A shape of contractions.
struct Shape {
    kernels: BTreeSet<String>,
    taken: Tile,
    others: Vec<Tile>,
}

/// All contractions of a model, by their shapes.
struct Shapes {
    of: BTreeMap<String, Shape>,
}

impl Shapes {
    fn of(considered: &[Considered]) -> Shapes {
        let mut of: BTreeMap<String, Shape> = BTreeMap::new();
        for c in considered {
            let new = || Shape { kernels: BTreeSet::new(), taken: c.taken, others: c.others.clone() };
            of.entry(c.shape.clone()).or_insert_with(new).kernels.insert(c.kernel.clone());
        }
        Shapes { of }
    }
}

/// The least time, in seconds, that all calls of a kernel took together; and of a run.
#[derive(Default)]
struct Times {
    kernels: BTreeMap<String, f64>,
    run: Duration,
}

impl Times {
    fn of(p: &Profile) -> Times {
        let mut kernels: BTreeMap<String, f64> = BTreeMap::new();
        for c in &p.calls {
            *kernels.entry(c.kernel.clone()).or_default() += c.min.as_secs_f64();
        }
        Times { kernels, run: p.run_min }
    }

    /// Of these kernels together; `None` if one of them never ran, such as one that equals another and has its name.
    fn of_all(&self, kernels: &BTreeSet<String>) -> Option<f64> {
        let known: Vec<f64> = kernels.iter().filter_map(|k| self.kernels.get(k).copied()).collect();
        (!known.is_empty()).then(|| known.iter().sum())
    }

    fn take_lesser(&mut self, other: Times) {
        for (k, t) in other.kernels {
            let least = self.kernels.entry(k).or_insert(t);
            *least = least.min(t);
        }
        self.run = if self.run.is_zero() { other.run } else { self.run.min(other.run) };
    }
}
