//! Tiles from a recipe: used for the target they were measured for, and the same results.

use tenon::engine::{Engine, Session};
use tenon::recipe::{Recipe, Tuned};
use tenon::{Compiled, Compiler, Options, Target};
use tenon_ir::Graph;

const PRODUCT: &str = r#"graph product(%x: f32[37,64], %w: f32[64,48]) -> ("y": %0) {
  %0 = matmul(%x, %w) {trans_a=false, trans_b=false}
}
"#;

fn compile(recipe: Option<Recipe>) -> Compiled {
    let graph = Graph::parse(PRODUCT).expect("it reads");
    let mut options = Options::new(Target::parse("x86_64-linux/x86-64-v3").expect("it is a target"));
    options.recipe = recipe;
    Compiler::new(options).compile_graph(graph).expect("it compiles")
}

fn recipe(target: &str, of: &Compiled) -> Recipe {
    let tile = |c: &tenon::passes::tuning::Considered| Some((c.shape.clone(), c.others.last()?.to_string()));
    let tiles = of.considered.iter().filter_map(tile).collect();
    let mut recipe = Recipe::new("sha256:".into(), Recipe::NO_RANGES, 0);
    recipe.tuned.push(Tuned { target: target.to_string(), tiles });
    Recipe::parse(&recipe.to_text().expect("it has a text")).expect("it reads back")
}

#[test]
fn a_recipes_tiles_are_used_and_compute_the_same() {
    let own = compile(None);
    assert!(
        !own.considered.is_empty() && own.considered.iter().all(|c| !c.others.is_empty()),
        "{:?}",
        own.considered
    );
    let tuned = compile(Some(recipe(&own.target.name, &own)));
    for (c, t) in own.considered.iter().zip(&tuned.considered) {
        assert_eq!(c.others.last(), Some(&t.taken), "{}", c.shape);
    }
    assert!(own.program != tuned.program, "the tiles changed nothing");
    let run = |c: &Compiled| {
        let session = Session::new(Engine::Kernel, c).expect("it is ready");
        session.run(&c.example_inputs(3)).expect("it runs")
    };
    for (a, b) in run(&own).iter().zip(&run(&tuned)) {
        let close = a.to_f64().iter().zip(b.to_f64()).all(|(a, b)| (a - b).abs() <= 1e-5 * b.abs().max(1.0));
        assert!(close, "{a:?} and {b:?}");
    }
}

#[test]
fn tiles_for_another_target_change_nothing() {
    let own = compile(None);
    let other = compile(Some(recipe("x86_64-linux/zen4", &own)));
    assert!(other.program == own.program, "tiles of another target were used");
}
