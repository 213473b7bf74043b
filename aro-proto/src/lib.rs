//! The ARO protocol without IO.
//!
//! Nothing here opens a socket, reads a clock, starts a task or draws a random number: time and random bytes are
//! arguments. What to do with the results is for `agent-client` and `node-server`.
//!
//! The two types that matter most: [`merkle::Decoder`], which lets no unproven byte through, and
//! [`channel::Payee`], which lets no unpaid byte beyond the credit window out.
//!
//! ```
//! use aro_proto::{Address, ContentId};
//! let text = "aro://6H95DqcvJ6ro2y97RqoNFD8YtpZiu6fDm8TPjuBF4pmX@GkzBJgpTSbtUjAwdJfAUFM4GXnqBTgq5YYpU8r5RaZwF@127.0.0.1:4433";
//! # let text = &Address::new(ContentId::of(b"hello"), aro_proto::SecretKey::from_bytes(&[7; 32]).node_id(), "127.0.0.1", 4433).unwrap().to_string();
//! let address: Address = text.parse()?;
//! assert_eq!(address.to_string(), *text);
//! # Ok::<(), aro_proto::AddressError>(())
//! ```
//!
//! | module       | what it decides                                               | spec |
//! |--------------|---------------------------------------------------------------|------|
//! | [`ids`]      | who and what: content, node, agent and channel ids            | 01   |
//! | [`address`]  | `aro://` addresses                                            | 01   |
//! | [`identity`] | keys, and signatures bound to one connection and stream       | 01, 04 |
//! | [`wire`]     | frames and optional fields                                    | 02   |
//! | [`transport`]| what QUIC and TLS are set to                                  | 01, 02 |
//! | [`places`]   | how many connections one peer may have                        | 02   |
//! | [`message`]  | every message of control and request streams                  | 02, 04 |
//! | [`merkle`]   | proofs: ranges, outboards, encoding, verifying                | 03   |
//! | [`manifest`] | signed trees: names that stay in their folder, entries         | 09   |
//! | [`naming`]   | signed pointers that never go back                            | 09   |
//! | [`channel`]  | vouchers, the payer's and the payee's machine, credit window  | 05   |
//! | [`amount`], [`tariff`] | money and prices, exact                             | 06   |
//! | [`error`]    | refusals, who must act, wire codes                            | 08   |
//! | [`limits`]   | every bound in one place                                      | all  |

pub mod address;
pub mod amount;
pub mod channel;
pub mod error;
pub mod identity;
pub mod ids;
pub mod limits;
pub mod manifest;
pub mod merkle;
pub mod message;
pub mod naming;
pub mod places;
pub mod tariff;
pub mod transport;
pub mod wire;

pub use address::{Address, AddressError, NodeAddress, NodeAddressError};
pub use amount::{Amount, ByteCount};
pub use error::{Refusal, RefusalCode, WhoActs};
pub use identity::SecretKey;
pub use ids::{AgentId, ChannelId, ContentId, NodeId, OwnerId};
pub use naming::{Name, NameAddress};
pub use tariff::{Charge, Tariff};
