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
        write!(f, "aro://{content}@{node}@{}", Place(host, *port))
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
        let (host, port) = read_place(place).ok_or(AddressError::Shape)??;
        Self::new(content, node, host, port)
    }
}

/// A node's place by itself, as it is written where no content is meant: `<node id>@<host>:<port>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NodeAddress {
    node: NodeId,
    host: String,
    port: u16,
}

/// Why a text is not a node's address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NodeAddressError {
    /// It does not have two parts parted by `@`.
    #[error("a node's address reads <node id>@<host>:<port>")]
    Shape,
    /// A part of it is wrong.
    #[error(transparent)]
    Part(#[from] AddressError),
}

impl NodeAddress {
    /// The address of a content at this node.
    pub fn with_content(&self, content: ContentId) -> Address {
        Address { content, node: self.node, host: self.host.clone(), port: self.port }
    }

    /// The node that is dialled.
    pub fn node(&self) -> NodeId {
        self.node
    }
}

impl From<&Address> for NodeAddress {
    fn from(address: &Address) -> Self {
        Self { node: address.node, host: address.host.clone(), port: address.port }
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.node, Place(&self.host, self.port))
    }
}

impl FromStr for NodeAddress {
    type Err = NodeAddressError;
    fn from_str(text: &str) -> Result<Self, NodeAddressError> {
        let (node, place) = text.split_once('@').ok_or(NodeAddressError::Shape)?;
        let (host, port) = read_place(place).ok_or(NodeAddressError::Shape)??;
        let node = node.parse().map_err(AddressError::Id)?;
        // The same checks as of a content's address.
        Ok(Self::from(&Address::new(ContentId::from_bytes([0; 32]), node, host, port)?))
    }
}

/// Host and port as they are written.
struct Place<'a>(&'a str, u16);

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(host, port) = self;
        if host.contains(':') { write!(f, "[{host}]:{port}") } else { write!(f, "{host}:{port}") }
    }
}

/// Reads host and port; `None` if there is no colon between them.
fn read_place(place: &str) -> Option<Result<(&str, u16), AddressError>> {
    let (host, port) = place.rsplit_once(':')?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) if inner.parse::<Ipv6Addr>().is_ok() => inner,
        Some(_) => return Some(Err(AddressError::Host)),
        None if host.contains(':') => return Some(Err(AddressError::Host)),
        None => host,
    };
    let strict = !port.starts_with('0') && port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse().ok().filter(|_| strict).ok_or(AddressError::Port);
    Some(port.map(|port| (host, port)))
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

    #[test]
    fn a_nodes_address_reads_back_and_anything_else_is_refused() {
        let node = NodeId::from_bytes([7; 32]);
        for place in ["127.0.0.1:4433", "[::1]:1", "node.example:65535"] {
            let address: NodeAddress = format!("{node}@{place}").parse().unwrap();
            assert_eq!(address.to_string(), format!("{node}@{place}"));
            let content = ContentId::of(b"x");
            assert_eq!(address.with_content(content).to_string(), format!("aro://{content}@{node}@{place}"));
            assert_eq!(NodeAddress::from(&address.with_content(content)), address);
        }
        let bad = ["", "127.0.0.1:1", "x@127.0.0.1:1", &format!("{node}@host"), &format!("{node}@::1:1")];
        for bad in bad.into_iter().chain([&*format!("{node}@host:0"), &*format!("aro://{node}@host:1")]) {
            assert!(bad.parse::<NodeAddress>().is_err(), "{bad}");
        }
    }
}
