//! What a name looks like, and how it is written with its publisher.

use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::ids::{AgentId, IdError};
use crate::limits::MAX_NAME;

/// A publisher's name for something: lower-case letters and digits, with `-`, `_` and `.` between them.
// r[impl name.text]
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Box<str>);

/// The text is no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a name has 1 to {MAX_NAME} lower-case letters and digits, with -, _ and . between them")]
pub struct NameError;

/// A name with its publisher: `aro://<publisher>/<name>`. It says what, not where: any node may be asked for it.
// r[impl name.address]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct NameAddress {
    /// The key that signs what the name means.
    pub publisher: AgentId,
    /// The name.
    pub name: Name,
}

/// Why a text is not a name's address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NameAddressError {
    /// It does not begin with `aro://`.
    #[error("an address begins with aro://")]
    Scheme,
    /// There is no slash between publisher and name.
    #[error("a name's address reads aro://<publisher>/<name>")]
    Shape,
    /// The publisher cannot be read.
    #[error(transparent)]
    Publisher(#[from] IdError),
    /// The name cannot be read.
    #[error(transparent)]
    Name(#[from] NameError),
}

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let is_inner = |b: u8| is_plain(b) || b"-_.".contains(&b);
        let bytes = text.as_bytes();
        let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return Err(NameError) };
        let is_name = bytes.len() <= MAX_NAME && is_plain(*first) && is_plain(*last) && text.bytes().all(is_inner);
        if is_name { Ok(Self(text.into())) } else { Err(NameError) }
    }
}

impl TryFrom<String> for Name {
    type Error = NameError;
    fn try_from(text: String) -> Result<Self, NameError> {
        text.parse()
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0.into()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

impl fmt::Display for NameAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "aro://{}/{}", self.publisher, self.name)
    }
}

impl FromStr for NameAddress {
    type Err = NameAddressError;
    fn from_str(text: &str) -> Result<Self, NameAddressError> {
        let rest = text.strip_prefix("aro://").ok_or(NameAddressError::Scheme)?;
        let (publisher, name) = rest.split_once('/').ok_or(NameAddressError::Shape)?;
        Ok(Self { publisher: publisher.parse()?, name: name.parse()? })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::address::{Address, NodeAddress};
    use crate::identity::SecretKey;
    use crate::ids::ContentId;

    fn publisher() -> AgentId {
        SecretKey::from_bytes(&[7; 32]).agent_id()
    }

    // r[verify name.text]
    #[test]
    fn names_are_plain_and_short() {
        let longest = "a".repeat(MAX_NAME);
        for good in ["a", "0", "my-site", "v1.2_rc", "a..b", &longest] {
            assert_eq!(good.parse::<Name>().unwrap().as_str(), good);
        }
        let long = "a".repeat(MAX_NAME + 1);
        for bad in ["", "A", "é", "a/b", "a b", "-a", "a-", ".a", "a.", "..", "a@b", "a:b", "a\0b", &long] {
            assert_eq!(bad.parse::<Name>(), Err(NameError), "{bad:?}");
        }
    }

    // r[verify name.address]
    #[test]
    fn a_names_address_reads_back_and_is_never_a_contents() {
        let name = NameAddress { publisher: publisher(), name: "site".parse().unwrap() };
        let text = name.to_string();
        assert_eq!(text.parse(), Ok(name));
        assert!(text.parse::<Address>().is_err() && text.parse::<NodeAddress>().is_err());
        let node = SecretKey::from_bytes(&[8; 32]).node_id();
        let content = Address::new(ContentId::of(b"x"), node, "host", 1).unwrap().to_string();
        assert!(content.parse::<NameAddress>().is_err());
        for (bad, error) in [
            (text.replace("aro://", "ARO://"), NameAddressError::Scheme),
            (text.replace("/site", ""), NameAddressError::Shape),
            (format!("{text}/x"), NameAddressError::Name(NameError)),
            (format!("{text}@host:1"), NameAddressError::Name(NameError)),
            (text.replace("site", "Site"), NameAddressError::Name(NameError)),
            (format!("{text} "), NameAddressError::Name(NameError)),
        ] {
            assert_eq!(bad.parse::<NameAddress>(), Err(error), "{bad}");
        }
        assert!(matches!("aro://0/site".parse::<NameAddress>(), Err(NameAddressError::Publisher(_))));
    }

    proptest! {
        #[test]
        fn any_text_is_at_most_one_kind_of_address(text in "(aro://)?[1-9A-Za-z@/:.]{0,120}") {
            prop_assert!(text.parse::<NameAddress>().is_err() || text.parse::<Address>().is_err());
        }
    }
}
