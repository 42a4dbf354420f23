//! What is written beside an object.
