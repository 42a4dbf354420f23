//! Target descriptions as data.
