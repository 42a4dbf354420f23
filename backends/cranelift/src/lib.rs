//! Kernel IR to machine code by Cranelift: objects, archives, JIT.
