//! Graph and kernel passes, schedule and memory plan: the flat pipeline.
