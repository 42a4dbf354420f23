//! Graph IR, operators, text, verifier and reference interpreter.
