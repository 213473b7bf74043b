//! Where a content is: `aro://<content id>@<node id>@<host>:<port>`.
//!
//! One form, read strictly: base58 ids, a host that is an IPv4 address, a bracketed IPv6 address or a DNS name,
//! and a port. What is shown reads back as the same address.

use core::fmt;
use core::net::Ipv6Addr;
use core::str::FromStr;

use thiserror::Error;

use crate::ids::{ContentId, IdError, NodeId};

/// A content at a node.
// r[impl identity.address]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address {
    content: ContentId,
    node: NodeId,
    host: String,
    port: u16,
}

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// It does not begin with `aro://`.
    #[error("an address begins with aro://")]
    Scheme,
    /// It does not have three parts parted by `@`.
    #[error("an address reads aro://<content id>@<node id>@<host>:<port>")]
    Shape,
    /// An id cannot be read.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The host is empty, too long, or has characters that no host has.
    #[error("the host of an address is an IPv4 address, an IPv6 address in brackets, or a DNS name")]
    Host,
    /// The port is missing or not a number from 1 to 65535, or is written with leading zeros.
    #[error("the port of an address is a number from 1 to 65535")]
    Port,
}

impl Address {
    /// Puts an address together; the host without brackets.
    pub fn new(content: ContentId, node: NodeId, host: &str, port: u16) -> Result<Self, AddressError> {
        if !is_host(host) {
            return Err(AddressError::Host);
        }
        if port == 0 {
            return Err(AddressError::Port);
        }
        Ok(Self { content, node, host: host.to_owned(), port })
    }

    /// The content asked for.
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// The node that is dialled; any other key that answers is refused.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// IP address or name, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// UDP port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { content, node, host, port } = self;
        if host.contains(':') {
            write!(f, "aro://{content}@{node}@[{host}]:{port}")
        } else {
            write!(f, "aro://{content}@{node}@{host}:{port}")
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;
    fn from_str(text: &str) -> Result<Self, AddressError> {
        let rest = text.strip_prefix("aro://").ok_or(AddressError::Scheme)?;
        let mut parts = rest.split('@');
        let (Some(content), Some(node), Some(place), None) = (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(AddressError::Shape);
        };
        let (content, node) = (content.parse()?, node.parse()?);
        let (host, port) = place.rsplit_once(':').ok_or(AddressError::Shape)?;
        let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
            Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner,
            Some(_) => return Err(AddressError::Host),
            None if host.contains(':') => return Err(AddressError::Host),
            None => host,
        };
        let strict = !port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit());
        let port = port.parse().ok().filter(|_| strict).ok_or(AddressError::Port)?;
        Self::new(content, node, host, port)
    }
}

fn is_host(host: &str) -> bool {
    if host.contains(':') {
        return host.parse::<Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    host.len() <= 253 && host.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SecretKey;

    fn ids() -> (ContentId, NodeId) {
        (ContentId::of(b"hello"), SecretKey::from_bytes(&[7; 32]).node_id())
    }

    // r[verify identity.address]
    #[test]
    fn every_kind_of_host_reads_back() {
        let (content, node) = ids();
        for host in ["127.0.0.1", "::1", "node-1.example.org", "localhost"] {
            let address = Address::new(content, node, host, 4433).unwrap();
            assert_eq!(address.to_string().parse(), Ok(address));
        }
    }

    #[test]
    fn everything_else_is_refused_with_its_cause() {
        let (content, node) = ids();
        let good = format!("aro://{content}@{node}@host:1");
        assert!(good.parse::<Address>().is_ok());
        for (bad, error) in [
            (good.replace("aro://", "http://"), AddressError::Scheme),
            (good.replace("aro://", "ARO://"), AddressError::Scheme),
            (format!("aro://{content}@host:1"), AddressError::Shape),
            (format!("{good}@x"), AddressError::Shape),
            (good.replace(":1", ""), AddressError::Shape),
            (good.replace(":1", ":0"), AddressError::Port),
            (good.replace(":1", ":01"), AddressError::Port),
            (good.replace(":1", ":+1"), AddressError::Port),
            (good.replace(":1", ":65536"), AddressError::Port),
            (good.replace("host", ""), AddressError::Host),
            (good.replace("host", "::1"), AddressError::Host),
            (good.replace("host", "[host]"), AddressError::Host),
            (good.replace("host", "-a"), AddressError::Host),
            (good.replace("host", "a..b"), AddressError::Host),
            (good.replace("host", "a/b"), AddressError::Host),
        ] {
            assert_eq!(bad.parse::<Address>(), Err(error), "{bad}");
        }
        assert!(matches!(format!("{good} ").parse::<Address>(), Err(AddressError::Port)));
        assert!(matches!(good.replace(&content.to_string(), "x").parse::<Address>(), Err(AddressError::Id(_))));
    }
}
