//! One deployment of the settlement program: every address of the protocol follows from its id.

use settlement_interface::{LOCAL_PROGRAM_ID, seeds};
use solana_address::Address;

/// The settlement program at an address. Each method finds an address and its bump by hashing, without a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Program {
    /// Where the program is deployed.
    pub id: Address,
}

impl Program {
    /// The program at `id`.
    pub const fn new(id: Address) -> Self {
        Self { id }
    }

    /// The program of local chains: devnet command, demo, tests.
    pub const fn local() -> Self {
        Self { id: Address::new_from_array(LOCAL_PROGRAM_ID) }
    }

    /// The configuration account.
    pub fn config(&self) -> (Address, u8) {
        self.find(&[seeds::CONFIG])
    }

    /// The token account that holds every deposit.
    pub fn vault(&self) -> (Address, u8) {
        self.find(&[seeds::VAULT])
    }

    /// The agent account of an owner (wallet address).
    pub fn agent(&self, owner: &Address) -> (Address, u8) {
        self.find(&[seeds::AGENT, owner.as_ref()])
    }

    /// The node account of a node id (transport key).
    pub fn node(&self, id: &Address) -> (Address, u8) {
        self.find(&[seeds::NODE, id.as_ref()])
    }

    /// The operator account of an authority (hot key).
    pub fn operator(&self, authority: &Address) -> (Address, u8) {
        self.find(&[seeds::OPERATOR, authority.as_ref()])
    }

    /// The channel of an agent account to a node account in its incarnation `nonce`.
    pub fn channel(&self, agent: &Address, node: &Address, nonce: u64) -> (Address, u8) {
        self.find(&[seeds::CHANNEL, agent.as_ref(), node.as_ref(), &nonce.to_le_bytes()])
    }

    /// Where the upgradeable loader keeps the program's bytes and its upgrade authority.
    pub fn program_data(&self) -> Address {
        Address::find_program_address(&[self.id.as_ref()], &UPGRADEABLE_LOADER).0
    }

    fn find(&self, seeds: &[&[u8]]) -> (Address, u8) {
        Address::find_program_address(seeds, &self.id)
    }
}

/// The loader that owns upgradeable programs.
const UPGRADEABLE_LOADER: Address = Address::from_str_const("BPFLoaderUpgradeab1e11111111111111111111111");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_nonce_has_its_own_channel_address() {
        let program = Program::local();
        let (agent, _) = program.agent(&Address::new_from_array([1; 32]));
        let (node, _) = program.node(&Address::new_from_array([2; 32]));
        let (first, _) = program.channel(&agent, &node, 0);
        let (second, _) = program.channel(&agent, &node, 1);
        assert_ne!(first, second);
        assert_ne!(first, program.channel(&node, &agent, 0).0);
    }

    #[test]
    fn same_key_in_different_roles_has_different_accounts() {
        let program = Program::local();
        let key = Address::new_from_array([3; 32]);
        let roles = [program.agent(&key).0, program.node(&key).0, program.operator(&key).0];
        assert!(roles[0] != roles[1] && roles[1] != roles[2] && roles[0] != roles[2]);
    }
}
