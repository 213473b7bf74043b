//! Ids: 32 bytes each, written in base58, never mixed up.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Why a text is not an id.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum IdError {
    /// A character outside base58, or a length that cannot be 32 bytes.
    #[error("`{0}` is not a {1}: expected base58 of 32 bytes")]
    NotBase58(String, &'static str),
}

macro_rules! id {
    ($(#[$meta:meta])* $name:ident, $what:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name([u8; 32]);

        impl $name {
            /// Takes the bytes as they are.
            pub const fn from_bytes(bytes: [u8; 32]) -> Self { Self(bytes) }
            /// The bytes, as signed and sent.
            pub const fn as_bytes(&self) -> &[u8; 32] { &self.0 }
            /// The bytes by value, as the chain's layouts take them.
            pub const fn to_bytes(self) -> [u8; 32] { self.0 }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&bs58::encode(self.0).into_string())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; 32];
                // 44 characters are the longest base58 of 32 bytes.
                let decoded = (text.len() <= 44).then(|| bs58::decode(text).onto(&mut bytes).ok()).flatten();
                match decoded {
                    Some(32) => Ok(Self(bytes)),
                    _ => Err(IdError::NotBase58(text.chars().take(64).collect(), $what)),
                }
            }
        }
    };
}

id! {
    /// The BLAKE3 root of the content's bytes: what is asked for and what is proven.
    ContentId, "content id"
}
id! {
    /// A node's ed25519 transport key: what an agent dials and what TLS proves.
    NodeId, "node id"
}
id! {
    /// An agent's ed25519 key: what signs its requests and vouchers.
    AgentId, "agent id"
}
id! {
    /// The ed25519 key that owns an agent's money on chain and lets other keys pay from it.
    OwnerId, "owner id"
}
id! {
    /// The address of a channel's account on chain: binds program, agent, node and incarnation.
    ChannelId, "channel id"
}

impl ContentId {
    /// The id of bytes in memory.
    // r[impl content.root]
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_form_round_trips_and_refuses_anything_else() {
        for bytes in [[0; 32], [255; 32], [7; 32]] {
            let id = NodeId::from_bytes(bytes);
            assert_eq!(id.to_string().parse::<NodeId>(), Ok(id));
        }
        let good = NodeId::from_bytes([7; 32]).to_string();
        for bad in ["", "0OIl", &good[1..], &format!("{good}1"), &format!(" {good}"), &"1".repeat(10_000)] {
            assert!(bad.parse::<NodeId>().is_err(), "{bad:.50}");
        }
    }
}
