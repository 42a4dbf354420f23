//! The contract between an artifact and the program that links it.
