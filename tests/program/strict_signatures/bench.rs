//! A channel whose signer any key can be, and the question whether a signature counts, asked of the program, of aro-proto
//! and of ed25519-dalek at once.

use aro_proto::identity;
use ed25519_dalek::{Signature, VerifyingKey};
use settlement_chain::{Address, Signer, VersionedTransaction};
use settlement_interface::{accounts::Channel, errors::SettlementError, voucher::voucher_bytes};

use crate::{
    instructions as ix,
    ledger::{AgentParty, NodeParty, Voucher, World, assert_refused},
    transactions::Format,
};

/// Where the channel's signer key lies in its account.
pub const SIGNER_OFFSET: usize = 72;

const DEPOSIT: u64 = 1_000_000_000;

pub struct Bench {
    pub world: World,
    pub agent: AgentParty,
    pub node: NodeParty,
    pub channels: Vec<Address>,
}

/// A key and a signature over the voucher of some amount.
#[derive(Clone, Debug)]
pub struct Case {
    pub key: [u8; 32],
    pub amount: u64,
    pub signature: [u8; 64],
}

impl Bench {
    pub fn new() -> Self {
        Self::with_channels(1)
    }

    pub fn with_channels(count: u64) -> Self {
        let mut world = World::new();
        let agent = world.agent(count * DEPOSIT);
        let node = world.node(None);
        let channels = (0..count).map(|_| world.channel(&agent, &node, DEPOSIT)).collect();
        Self { world, agent, node, channels }
    }

    /// What the first channel's vouchers sign.
    pub fn message(&self, amount: u64) -> [u8; 50] {
        voucher_bytes(&self.channels[0].to_bytes(), amount, 0)
    }

    /// The honest signature of an amount by the agent's session key.
    pub fn honest(&self) -> Case {
        let voucher = Voucher::of(&self.agent, &self.channels[0], 10);
        Case { key: self.agent.signer.pubkey().to_bytes(), amount: 10, signature: voucher.signature }
    }

    /// Asks the program, aro-proto and dalek, asserts that they agree, and tells the answer. The chain's state does not move.
    #[track_caller]
    pub fn accepts(&mut self, case: &Case) -> bool {
        self.all_accepted(std::slice::from_ref(case))
    }

    /// As [`accepts`](Self::accepts) for one case per channel, in one batch: it succeeds only if all are accepted.
    #[track_caller]
    pub fn all_accepted(&mut self, cases: &[Case]) -> bool {
        let mut here = true;
        let mut entries = Vec::new();
        for (case, channel) in cases.iter().zip(self.channels.clone()) {
            self.set_signer(&channel, &case.key);
            let message = voucher_bytes(&channel.to_bytes(), case.amount, 0);
            here &= is_strictly_signed(case, &message);
            entries.push((channel, Voucher { cumulative: case.amount, signature: case.signature, expires_at: 0 }));
        }
        assert_eq!(entries.len(), cases.len(), "not a channel for each case");
        let transaction = self.settle(&entries);
        let on_chain = match self.world.svm.simulate_transaction(transaction) {
            Ok(done) => {
                assert!(done.meta.return_data.data.iter().all(|byte| *byte == 0), "an entry was skipped");
                true
            }
            Err(failed) => {
                assert_refused(Err(failed.err), SettlementError::BadSignature);
                false
            }
        };
        assert_eq!(on_chain, here, "the program and verify_strict differ on {cases:02x?}");
        on_chain
    }

    fn settle(&self, entries: &[(Address, Voucher)]) -> VersionedTransaction {
        self.world.signed(&Format::v1(), &[ix::settle_batch(&self.node, entries)], &[])
    }

    fn set_signer(&mut self, channel: &Address, key: &[u8; 32]) {
        let mut account = self.world.svm.get_account(channel).unwrap();
        assert_eq!(account.data.len(), Channel::LEN);
        account.data[SIGNER_OFFSET..SIGNER_OFFSET + 32].copy_from_slice(key);
        self.world.svm.set_account(*channel, account).unwrap();
    }
}

/// What ed25519-dalek says, after asserting that aro-proto says the same: with a key that it has looked over before, with
/// one that it has not, and with one whose multiples it keeps, alone and among others.
#[track_caller]
pub fn is_strictly_signed(case: &Case, message: &[u8]) -> bool {
    let Case { key, signature, .. } = case;
    let is_signed = VerifyingKey::from_bytes(key)
        .is_ok_and(|key| key.verify_strict(message, &Signature::from_bytes(signature)).is_ok());
    assert_eq!(identity::verify_strict(key, message, signature).is_ok(), is_signed, "{case:02x?}");
    let kept = identity::VerifyingKey::from_bytes(key);
    assert_eq!(kept.is_ok_and(|key| key.verify_strict(message, signature).is_ok()), is_signed, "{case:02x?}");
    let warm = kept.is_ok_and(|key| {
        let verifier = identity::Verifier::default();
        verifier.warm(&key);
        let alone = verifier.verify_strict(&key, message, signature).is_ok();
        let unverified = identity::Unverified { key: &key, message, signature };
        let other = identity::Unverified { message: b"another", ..unverified };
        let together =
            verifier.verify_all(&[other, unverified, unverified]).iter().map(Result::is_ok).collect::<Vec<_>>();
        assert_eq!(together[1..], [alone; 2], "{case:02x?}");
        alone
    });
    assert_eq!(warm, is_signed, "{case:02x?}");
    is_signed
}
