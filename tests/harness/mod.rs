//! What the end-to-end tests and the demo share.
//!
//! | module        | idea                                                                   |
//! |---------------|------------------------------------------------------------------------|
//! | [`books`]     | every balance of a deployment, and the proof that they add up          |
//! | [`faulty`]    | a chain that forks, servers that lie, an operator that dies at a step  |
//! | [`line`]      | a node's line to an operator, which hands over what the test wants     |
//! | [`parts`]     | what a killed fetch left on disk, proven from outside                  |
//! | [`processes`] | the product's own binaries, as processes                               |
//! | [`relay`]     | a path with delay, loss and a rate, over UDP                            |
//! | [`rpc`]       | an embedded chain over JSON-RPC, for the `aro` command                 |
//! | [`stage`]     | operators, nodes and open channels on chain, without their processes   |
//! | [`world`]     | a whole deployment in this process, on the embedded chain              |

pub mod books;
pub mod faulty;
pub mod line;
pub mod parts;
pub mod processes;
pub mod relay;
pub mod rpc;
pub mod stage;
pub mod world;
