//! One step, played on both sides: the instruction sent to the chain, the same thing told to the model.

use settlement_chain::{
    Instruction, InstructionError, Signer, TransactionError,
    instructions::{self as ix, BatchVoucher, OpenChannel, SYSTEM_PROGRAM},
};
use settlement_interface::{errors::SettlementError, instructions::VoucherEntry, voucher::voucher_bytes};
use solana_account::Account;
use solana_rent::Rent;

use super::{
    cast::Cast,
    op::{Entry, Op, Signed},
};
use crate::{
    ledger::{World, skipped},
    model::{Done, Model, NewConfig, NewNode, Opening, Payment, Refusal},
    transactions::Format,
};

/// What the network takes for each signature.
const FEE_PER_SIGNATURE: u64 = 5_000;

/// Chain and model, side by side.
pub struct Stage<'a> {
    pub cast: &'a Cast,
    pub world: World,
    pub model: Model,
    /// Lamports that went to the network.
    pub fees: u128,
}

impl Stage<'_> {
    /// Plays one step on both sides and returns what chain and model answered.
    pub fn play(&mut self, op: &Op) -> (Done, Done) {
        let Some((instruction, expected)) = self.instruction(op) else {
            self.happen(op);
            return (Ok(None), Ok(None));
        };
        let signers: Vec<_> = self.cast.keys().collect();
        let transaction = self.world.signed(&Format::v1(), &[instruction], &signers);
        let paid = FEE_PER_SIGNATURE * transaction.signatures.len() as u64;
        let payer = self.world.payer.pubkey();
        *self.model.lamports.get_mut(&payer).unwrap() -= paid;
        self.fees += u128::from(paid);
        let answered = match self.world.send_signed(transaction) {
            Ok(done) => Ok((!done.return_data.data.is_empty() || is_batch(op)).then(|| skipped(&done))),
            Err(TransactionError::InstructionError(0, InstructionError::Custom(code)))
                if SettlementError::from_code(code).is_some() =>
            {
                Err(Refusal::Ours(code))
            }
            Err(TransactionError::InstructionError(0, InstructionError::Custom(_))) => Err(Refusal::Tokens),
            Err(error) => panic!("neither the program nor the token program fails like this: {error:?}"),
        };
        (answered, expected)
    }

    /// What changes without the program.
    fn happen(&mut self, op: &Op) {
        match op {
            Op::SetTime { unix } => {
                self.world.set_time(*unix);
                self.model.now = *unix;
            }
            Op::SetRent { lamports_per_byte } => {
                let rent = Rent { lamports_per_byte: *lamports_per_byte, ..self.world.svm.get_sysvar::<Rent>() };
                self.world.svm.set_sysvar(&rent);
                self.model.lamports_per_byte = *lamports_per_byte;
            }
            Op::SendAhead { to, lamports } => {
                let (to, from) = (self.cast.channel(*to), self.world.sponsor.pubkey());
                self.model.move_lamports(from, to, *lamports);
                for address in [from, to] {
                    let held = self.world.svm.get_account(&address).unwrap_or_default();
                    let account = Account { lamports: self.model.lamports[&address], ..held };
                    self.world.svm.set_account(address, account).unwrap();
                }
            }
            _ => unreachable!("everything else is an instruction"),
        }
    }

    fn instruction(&mut self, op: &Op) -> Option<(Instruction, Done)> {
        let Self { cast, world, model, .. } = self;
        let (program, sponsor) = (&cast.program, world.sponsor.pubkey());
        let slot = |operator: Option<usize>| cast.operator(operator).unwrap_or(SYSTEM_PROGRAM);
        let channels =
            |names: &[super::op::ChannelName]| names.iter().map(|name| cast.channel(*name)).collect::<Vec<_>>();
        Some(match op {
            Op::SetTime { .. } | Op::SetRent { .. } | Op::SendAhead { .. } => return None,
            Op::RegisterOperator { operator, fee_bps, payout } => {
                let (party, payout) = (&cast.operators[*operator], cast.wallet(*payout));
                let authority = party.authority.pubkey();
                let done = model.attempt(|m| m.register_operator(sponsor, party.account, authority, payout, *fee_bps));
                (ix::register_operator(program, &sponsor, &authority, &payout, *fee_bps), done)
            }
            Op::SetConfig { by, new } => {
                let (by, treasury) = (cast.key(*by).pubkey(), cast.wallet(new.treasury));
                let pending_admin = new.pending_admin.map(|party| cast.key(party).pubkey());
                let instruction = ix::SetConfig {
                    admin: by,
                    treasury,
                    paused: new.paused,
                    max_grace_s: new.max_grace_s,
                    protocol_fee_bps: new.protocol_fee_bps,
                    max_operator_fee_bps: new.max_operator_fee_bps,
                    payout_delay_s: new.payout_delay_s,
                    pending_admin,
                };
                let new = NewConfig {
                    treasury,
                    pending_admin,
                    paused: new.paused,
                    max_grace_s: new.max_grace_s,
                    protocol_fee_bps: new.protocol_fee_bps,
                    max_operator_fee_bps: new.max_operator_fee_bps,
                    payout_delay_s: new.payout_delay_s,
                };
                (ix::set_config(program, &instruction), model.attempt(|m| m.set_config(by, new)))
            }
            Op::AcceptAdmin { by } => {
                let by = cast.key(*by).pubkey();
                (ix::accept_admin(program, &by), model.attempt(|m| m.accept_admin(by)))
            }
            Op::RegisterNode { node, operator, min_grace_s, max_fee_bps, payout } => {
                let (party, payout) = (&cast.nodes[*node], cast.wallet(*payout));
                let (id, owner) = (party.id.pubkey(), party.owner.pubkey());
                let (operator, min_grace_s) = (cast.operator(*operator), *min_grace_s);
                let instruction = ix::RegisterNode {
                    payer: sponsor,
                    owner,
                    id,
                    payout,
                    operator,
                    min_grace_s,
                    max_operator_fee_bps: *max_fee_bps,
                };
                let new = NewNode { operator, payout, min_grace_s, max_fee_bps: *max_fee_bps };
                let done = model.attempt(|m| m.register_node(sponsor, party.account, id, owner, new));
                (ix::register_node(program, &instruction), done)
            }
            Op::UpdateNode { by, node, operator, min_grace_s, max_fee_bps, payout } => {
                let (owner, node, payout) = (cast.key(*by).pubkey(), cast.nodes[*node].account, cast.wallet(*payout));
                let (operator, min_grace_s) = (cast.operator(*operator), *min_grace_s);
                let instruction =
                    ix::UpdateNode { owner, node, payout, operator, min_grace_s, max_operator_fee_bps: *max_fee_bps };
                let new = NewNode { operator, payout, min_grace_s, max_fee_bps: *max_fee_bps };
                (ix::update_node(program, &instruction), model.attempt(|m| m.update_node(owner, node, new)))
            }
            Op::Deposit { by, to, from, amount } => {
                let (by, owner, source) =
                    (cast.agents[*by].owner.pubkey(), cast.agents[*to].owner.pubkey(), cast.wallet(*from));
                let done = model.attempt(|m| m.deposit(by, cast.agents[*to].account, owner, source, *amount));
                (ix::deposit(program, &by, &owner, &source, *amount), done)
            }
            Op::WithdrawAvailable { by, of, to, amount } => {
                let (by, account, to) = (cast.agents[*by].owner.pubkey(), cast.agents[*of].account, cast.wallet(*to));
                let mut instruction = ix::withdraw_available(program, &by, &to, *amount);
                instruction.accounts[1].pubkey = account;
                (instruction, model.attempt(|m| m.withdraw_available(by, account, to, *amount)))
            }
            Op::Open { by, of, rent_payer, entries } => {
                let (by, agent) = (cast.agents[*by].owner.pubkey(), &cast.agents[*of]);
                let rent_payer = cast.rent_payers[*rent_payer].pubkey();
                let mut channels = Vec::new();
                let mut openings = Vec::new();
                for entry in entries {
                    let node = cast.nodes[entry.node].account;
                    let signer = if entry.is_weak { WEAK_KEY } else { agent.signer.pubkey().to_bytes() };
                    let (nonce, deposit, grace_s) = (entry.nonce, entry.deposit, entry.grace_s);
                    channels.push(OpenChannel { node, nonce, deposit, grace_s, signer: signer.into() });
                    let account = program.channel(&agent.account, &node, nonce).0;
                    let is_weak = entry.is_weak;
                    openings.push(Opening { account, node, nonce, deposit, grace_s, signer, is_weak });
                }
                let mut instruction = ix::open_batch(program, &agent.owner.pubkey(), &rent_payer, &channels);
                instruction.accounts[0].pubkey = by;
                (instruction, model.attempt(|m| m.open(by, agent.account, rent_payer, &openings)))
            }
            Op::TopUp { by, of, channel, amount } => {
                let (by, account, channel) =
                    (cast.agents[*by].owner.pubkey(), cast.agents[*of].account, cast.channel(*channel));
                let mut instruction = ix::top_up(program, &by, &channel, *amount);
                instruction.accounts[1].pubkey = account;
                (instruction, model.attempt(|m| m.top_up(by, account, channel, *amount)))
            }
            Op::RequestClose { by, of, channel } => {
                let (by, account, channel) =
                    (cast.agents[*by].owner.pubkey(), cast.agents[*of].account, cast.channel(*channel));
                let mut instruction = ix::request_close(program, &by, &channel);
                instruction.accounts[1].pubkey = account;
                (instruction, model.attempt(|m| m.request_close(by, account, channel)))
            }
            Op::Settle { node, operator, entries } => {
                let node = cast.nodes[*node].account;
                let (vouchers, payments) = batch(cast, entries);
                let instruction = ix::settle_batch(program, &node, &slot(*operator), &vouchers);
                (instruction, model.attempt(|m| m.settle(node, cast.operator(*operator), &payments)))
            }
            Op::Close { by, node, operator, entries } => {
                let (by, node) = (cast.key(*by).pubkey(), cast.nodes[*node].account);
                let (vouchers, payments) = batch(cast, entries);
                let instruction = ix::close_batch(program, &by, &node, &slot(*operator), &vouchers);
                (instruction, model.attempt(|m| m.close(by, node, cast.operator(*operator), &payments)))
            }
            Op::Finalize { channels: names } => {
                let channels = channels(names);
                (ix::finalize_batch(program, &channels), model.attempt(|m| m.finalize(&channels)))
            }
            Op::Reclaim { of, rent_payer, channels: names } => {
                let (account, payer) = (cast.agents[*of].account, cast.rent_payers[*rent_payer].pubkey());
                let channels = channels(names);
                let done = model.attempt(|m| m.reclaim(account, payer, &channels));
                (ix::reclaim_batch(program, &account, &payer, &channels), done)
            }
            Op::WithdrawEarned { by, node, operator, to, amount } => {
                let (authority, node, payout) = (cast.key(*by).pubkey(), cast.nodes[*node].account, cast.wallet(*to));
                let withdraw =
                    ix::WithdrawEarned { authority, node, operator: slot(*operator), payout, amount: *amount };
                let operator = cast.operator(*operator);
                let done = model.attempt(|m| m.withdraw_earned(authority, node, operator, payout, *amount));
                (ix::withdraw_earned(program, &withdraw), done)
            }
            Op::WithdrawFees { from, to, amount } => {
                let (source, to) = (cast.source(*from), cast.wallet(*to));
                let done = model.attempt(|m| m.withdraw_fees(source, to, *amount));
                (ix::withdraw_fees(program, &source, &to, *amount), done)
            }
        })
    }
}

/// A key of order four: y is zero.
const WEAK_KEY: [u8; 32] = [0; 32];

fn is_batch(op: &Op) -> bool {
    matches!(op, Op::Settle { .. } | Op::Close { .. } | Op::Finalize { .. } | Op::Reclaim { .. })
}

/// The entries as the chain reads them and as the model does.
fn batch(cast: &Cast, entries: &[Entry]) -> (Vec<BatchVoucher>, Vec<Payment>) {
    let both = entries.iter().map(|entry| {
        let channel = cast.channel(entry.channel);
        let agent = &cast.agents[entry.channel.agent];
        let (cumulative, expires_at) = (entry.cumulative, entry.expires_at);
        let (mut key, mut signed) = (&agent.signer, (channel, cumulative, expires_at));
        let mut flip = None;
        match entry.signed {
            Signed::Honestly => {}
            Signed::ByOwner => key = &agent.owner,
            Signed::ForAnotherAmount => signed.1 ^= 1,
            Signed::ForAnotherExpiry => signed.2 ^= 1,
            Signed::ForAnotherChannel(other) => signed.0 = cast.channel(other),
            Signed::WithBitFlipped(bit) => flip = Some(bit),
            Signed::NotAtAll => {}
        }
        let mut signature: [u8; 64] = key.sign_message(&voucher_bytes(&signed.0.to_bytes(), signed.1, signed.2)).into();
        if let Some(bit) = flip {
            signature[bit / 8] ^= 1 << (bit % 8);
        }
        if matches!(entry.signed, Signed::NotAtAll) {
            signature = [0; 64];
        }
        let is_genuine = matches!(entry.signed, Signed::Honestly);
        let payment = Payment { channel, cumulative, expires_at, is_genuine };
        ((channel, VoucherEntry { signature, cumulative }, expires_at), payment)
    });
    both.unzip()
}
