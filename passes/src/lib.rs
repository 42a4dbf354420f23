//! Graph → graph, graph → kernel IR, kernel IR → kernel IR: the flat pipeline of the compiler.
//!
//! [`pipeline::PIPELINE`] is the table of contents. Only `algorithm`, the prices of `egraph` and `cycles`, `rows`, `bands`, `schedule` and `prefetch` read the target;
//! nothing here reads the environment, the clock or the host.
#![forbid(unsafe_code)]

pub mod algorithm;
pub mod bands;
pub mod bounded;
pub mod cycles;
pub mod effort;
pub mod egraph;
pub mod fold;
pub mod group;
mod halo;
pub mod layout;
pub mod lower;
pub mod normalize;
pub mod pipeline;
pub mod plan;
pub mod prefetch;
pub mod quantize;
pub mod rows;
pub mod rule;
pub mod schedule;
pub mod steps;
pub mod threads;
pub mod tuning;

pub use pipeline::{PIPELINE, Pass, PassError, Phase, Settings, State, run};
