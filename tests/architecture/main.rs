//! The house keeps its shape: which crate may know which, and which MUST of the spec is implemented and tested.
//!
//! What could break: an arrow that points up or sideways, a rule without code or test, code that names a rule
//! that nobody wrote down.

#![allow(clippy::panic, clippy::unwrap_used, reason = "that is how tests fail")]

mod arrows;
mod rules;
