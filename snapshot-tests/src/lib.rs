//! The corpus of text cases and its runners.
