//! Graph and kernel passes, schedule and memory plan: the flat pipeline.
#![forbid(unsafe_code)]

pub mod schedule;
