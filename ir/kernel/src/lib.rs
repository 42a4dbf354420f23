//! Kernel IR: loops over flat buffers, its text, verifier and interpreter.
