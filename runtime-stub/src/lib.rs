//! What an application links beside an artifact: no std, no alloc.
