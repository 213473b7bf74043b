//! What the tests share: a funded agent on the embedded chain, and a node that follows a script.

#![allow(dead_code, unused_imports, reason = "each test uses its part")]

pub mod faulty;
pub mod scripted;
pub mod world;
