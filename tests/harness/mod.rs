//! What the end-to-end tests and the demo share.
//!
//! | module        | idea                                                                   |
//! |---------------|------------------------------------------------------------------------|
//! | [`books`]     | every balance of a deployment, and the proof that they add up          |
//! | [`processes`] | the product's own binaries, as processes                               |
//! | [`world`]     | a whole deployment in this process, on the embedded chain              |

pub mod books;
pub mod processes;
pub mod world;
