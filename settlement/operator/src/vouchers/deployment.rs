//! What a database belongs to: one operator of one program on one chain.
//!
//! Vouchers, journal and history mean nothing elsewhere: on another chain every transaction in flight looks dead, and
//! every channel gone.

use settlement_chain::{Address, Hash};

/// A chain, a program, an operator account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deployment {
    /// The chain's genesis hash.
    pub genesis_hash: [u8; 32],
    /// The settlement program.
    pub program: Address,
    /// The operator's account.
    pub operator: Address,
}

/// Who opens a database, as far as that is known: a command may have no chain to ask, or no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The chain's genesis hash, once it is known.
    pub genesis_hash: Option<[u8; 32]>,
    /// The settlement program.
    pub program: Address,
    /// The operator's account, where its key is at hand.
    pub operator: Option<Address>,
}

impl From<Deployment> for Owner {
    fn from(deployment: Deployment) -> Self {
        let Deployment { genesis_hash, program, operator } = deployment;
        Self { genesis_hash: Some(genesis_hash), program, operator: Some(operator) }
    }
}

/// A database of something else.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the operator's database belongs to the {what} {stored}, and this operator to {given}; its owner must give each \
     its own database"
)]
pub struct OtherDeployment {
    /// What differs first: chain, program or operator account.
    pub what: &'static str,
    /// What the database belongs to.
    pub stored: String,
    /// What it was opened for.
    pub given: String,
}

impl Deployment {
    /// Compares what a database belongs to with what it was opened for.
    ///
    /// # Errors
    /// They differ: nothing in it may be touched.
    pub fn check(&self, given: &Owner) -> Result<(), OtherDeployment> {
        let chain = |genesis_hash| Hash::new_from_array(genesis_hash).to_string();
        for (what, stored, given) in [
            ("chain", chain(self.genesis_hash), chain(given.genesis_hash.unwrap_or(self.genesis_hash))),
            ("program", self.program.to_string(), given.program.to_string()),
            ("operator account", self.operator.to_string(), given.operator.unwrap_or(self.operator).to_string()),
        ] {
            if stored != given {
                return Err(OtherDeployment { what, stored, given });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_differs_is_named() {
        let address = |byte| Address::new_from_array([byte; 32]);
        let mine = Deployment { genesis_hash: [1; 32], program: address(2), operator: address(3) };
        assert_eq!(mine.check(&mine.into()), Ok(()));
        let little = Owner { genesis_hash: None, operator: None, ..mine.into() };
        assert_eq!(mine.check(&little), Ok(()), "what is not known is not compared");
        for (other, what) in [
            (Deployment { genesis_hash: [9; 32], ..mine }, "chain"),
            (Deployment { program: address(9), ..mine }, "program"),
            (Deployment { operator: address(9), ..mine }, "operator account"),
        ] {
            let error = mine.check(&other.into()).unwrap_err();
            assert_eq!(error.what, what);
            assert!(error.to_string().contains(&error.stored) && error.to_string().contains(&error.given), "{error}");
        }
    }
}
