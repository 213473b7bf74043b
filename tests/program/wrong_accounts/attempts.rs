//! The ways in which a slot can be filled wrongly, by its role.

use settlement_chain::{AccountMeta, Address, Instruction, Keypair, Signer};
use settlement_interface::{accounts, errors::SettlementError as E, instructions::table};
use solana_account::Account;

use super::{
    Attempt, Expect,
    roles::{Role, role},
};
use crate::{
    cases::Case,
    ledger::{PROGRAM, SYSTEM_PROGRAM, TOKEN_PROGRAM, config, mint_data, token_data, vault},
};

/// Every wrong way to fill a slot that the slot's role has.
pub fn attempts_at(case: &Case, index: usize, slot: &table::Slot) -> Vec<Attempt> {
    let mut attempts = Attempts { case, index, list: Vec::new() };
    let role = role(case, slot.name);
    if slot.signer {
        attempts.with_meta("unsigned", Expect::Refused(E::MissingSignature), |meta| meta.is_signer = false);
    }
    if slot.writable && !matches!(role, Role::UnusedPayer) {
        attempts.with_meta("not writable", Expect::Fails, |meta| meta.is_writable = false);
    }
    attempts.of_role(role);
    attempts.list
}

/// The attempts at one slot of one case.
struct Attempts<'a> {
    case: &'a Case,
    index: usize,
    list: Vec<Attempt>,
}

impl Attempts<'_> {
    fn of_role(&mut self, role: Role) {
        let strangers = self.case.strangers.clone();
        match role {
            Role::AnySigner | Role::UnusedPayer => {}
            Role::Signer(error) | Role::Wallet(error) => {
                let key = Keypair::new_from_array(strangers.key);
                self.replaced("somebody else", key.pubkey(), Expect::Refused(error));
            }
            Role::Depositor => {
                let key = Keypair::new_from_array(strangers.key);
                self.replaced("somebody else", key.pubkey(), Expect::Fails);
            }
            Role::Config => {
                self.ours(Some(Expect::Refused(E::WrongOwner)));
                let honest = self.honest();
                let mut other_bump = honest.clone();
                other_bump.data[2] ^= 1;
                self.in_place("another bump", other_bump, Expect::Refused(E::WrongAddress));
                self.placed("a copy elsewhere", honest, Expect::Refused(E::WrongAddress));
            }
            Role::Agent(error) => self.ours_or(strangers.agent, Expect::Refused(error)),
            Role::AgentOrNew(error) => {
                self.ours(None);
                self.replaced("a stranger's", strangers.agent, Expect::Refused(error));
            }
            Role::Node(error) => self.ours_or(strangers.node, Expect::Refused(error)),
            Role::FeeSource(error) => {
                self.ours_or(strangers.operator, Expect::Refused(error));
                if self.honest().data[0] != accounts::discriminator::NODE {
                    // All nodes' fees go to the one treasury: only an operator's destination is wrong for a node.
                    self.replaced("a node", strangers.node, Expect::Refused(error));
                }
                self.replaced("an agent", strangers.agent, Expect::Refused(E::WrongLayout));
                self.replaced("a channel", strangers.open, Expect::Refused(E::WrongLayout));
                self.replaced("the config", config(), Expect::Refused(E::WrongLayout));
            }
            Role::ChosenOperator(error) => {
                self.ours_or(strangers.operator, Expect::Refused(error));
                self.replaced("none", SYSTEM_PROGRAM, Expect::Refused(error));
                self.replaced("a node", strangers.node, Expect::Refused(error));
            }
            Role::AnyOperator => {
                self.ours(Some(Expect::Refused(E::WrongOwner)));
                self.replaced("a node", strangers.node, Expect::Refused(E::WrongLayout));
                self.replaced("an agent", strangers.agent, Expect::Refused(E::WrongLayout));
            }
            Role::Channel(error) => self.ours_or(strangers.open, Expect::Refused(error)),
            Role::BatchChannel(error) => {
                self.ours(Some(Expect::Skipped));
                for other in [strangers.open, strangers.closed] {
                    match error {
                        Some(error) => self.replaced("a stranger's", other, Expect::Refused(error)),
                        None => self.replaced("a stranger's", other, Expect::Skipped),
                    }
                }
                self.replaced("an agent", strangers.agent, Expect::Refused(E::WrongLayout));
                self.replaced("a node", strangers.node, Expect::Refused(E::WrongLayout));
                self.replaced("a wallet", self.case.world.payer_address(), Expect::Skipped);
            }
            Role::Created => self.created(E::AlreadyExists, E::AlreadyExists),
            Role::CreatedAgent => self.created(E::WrongOwner, E::WrongLayout),
            Role::Tokens(another) => {
                self.token_account();
                if let Some(error) = another {
                    self.replaced("another good one", strangers.tokens, Expect::Refused(error));
                }
            }
            Role::Vault => {
                let honest = self.honest();
                self.placed("a copy elsewhere", honest.clone(), Expect::Refused(E::WrongAddress));
                self.replaced("another token account", strangers.tokens, Expect::Refused(E::WrongAddress));
                let mut owner = honest.clone();
                owner.owner = PROGRAM;
                self.in_place("of another owner", owner, Expect::Fails);
                for len in [0, 164, 166] {
                    let mut other = honest.clone();
                    other.data.resize(len, 0);
                    self.in_place(&format!("of {len} bytes"), other, Expect::Fails);
                }
            }
            Role::Mint => {
                self.mint();
                self.replaced("another mint than the treasury's", strangers.mint, Expect::Refused(E::BadTokenAccount));
            }
            Role::ProgramData => self.program_data(),
            Role::Program => {
                for (what, other) in [("another program", PROGRAM), ("a wallet", self.case.world.payer_address())] {
                    self.replaced(what, other, Expect::Refused(E::WrongProgram));
                }
            }
        }
    }

    fn honest(&self) -> Account {
        self.case.world.svm.get_account(&self.address()).unwrap()
    }

    fn address(&self) -> Address {
        self.case.instruction.accounts[self.index].pubkey
    }

    fn push(&mut self, what: &str, accounts: Vec<(Address, Account)>, instruction: Instruction, expect: Expect) {
        self.list.push(Attempt { what: what.to_owned(), accounts, instruction, expect });
    }

    fn with_meta(&mut self, what: &str, expect: Expect, change: impl FnOnce(&mut AccountMeta)) {
        let mut instruction = self.case.instruction.clone();
        change(&mut instruction.accounts[self.index]);
        self.push(what, Vec::new(), instruction, expect);
    }

    /// The slot names another address.
    fn replaced(&mut self, what: &str, by: Address, expect: Expect) {
        // The system program cannot be locked for writing.
        let writable = by != SYSTEM_PROGRAM;
        self.with_meta(what, expect, |meta| {
            meta.pubkey = by;
            meta.is_writable &= writable;
        });
    }

    /// The slot's address holds another account.
    fn in_place(&mut self, what: &str, account: Account, expect: Expect) {
        self.push(what, vec![(self.address(), account)], self.case.instruction.clone(), expect);
    }

    /// The slot names a new address that holds this account.
    fn placed(&mut self, what: &str, account: Account, expect: Expect) {
        let mut instruction = self.case.instruction.clone();
        let elsewhere = Address::new_from_array([0xe1; 32]);
        instruction.accounts[self.index].pubkey = elsewhere;
        self.push(what, vec![(elsewhere, account)], instruction, expect);
    }

    fn ours_or(&mut self, another: Address, expect: Expect) {
        self.ours(Some(Expect::Refused(E::WrongOwner)));
        self.replaced("a stranger's", another, expect);
    }

    /// An account of this program at its address, broken in each way; `vacant` is what an empty address comes to, if
    /// that is wrong.
    fn ours(&mut self, vacant: Option<Expect>) {
        let honest = self.honest();
        assert_eq!(honest.owner, PROGRAM);
        let with = |change: &dyn Fn(&mut Account)| {
            let mut account = honest.clone();
            change(&mut account);
            account
        };
        for owner in [TOKEN_PROGRAM, SYSTEM_PROGRAM, Address::new_from_array([7; 32])] {
            let account = with(&|account| account.owner = owner);
            self.in_place(&format!("owned by {owner}"), account, Expect::Refused(E::WrongOwner));
        }
        let gone = Account { lamports: honest.lamports, owner: SYSTEM_PROGRAM, ..Account::default() };
        if let Some(vacant) = vacant {
            self.in_place("empty", gone, vacant);
        }
        let foreign = Account { owner: TOKEN_PROGRAM, data: Vec::new(), ..honest.clone() };
        self.in_place("empty, of another program", foreign, Expect::Refused(E::WrongOwner));
        let layout = Expect::Refused(E::WrongLayout);
        for kind in (0..=6).chain([99, 255]).filter(|kind| *kind != honest.data[0]) {
            self.in_place(&format!("discriminator {kind}"), with(&|account| account.data[0] = kind), layout);
        }
        for version in [0, 2, 255] {
            self.in_place(&format!("version {version}"), with(&|account| account.data[1] = version), layout);
        }
        let len = honest.data.len();
        let kinds = [accounts::Config::LEN, accounts::Agent::LEN, accounts::Node::LEN, accounts::Operator::LEN];
        let others = [0, 1, 2, 3, len - 1, len + 1, 2 * len, accounts::Channel::LEN].into_iter().chain(kinds);
        for other in others.filter(|other| *other != len) {
            self.in_place(&format!("of {other} bytes"), with(&|account| account.data.resize(other, 0)), layout);
        }
    }

    /// Something lies already where an account is to be made, or the address is another one.
    fn created(&mut self, foreign: E, ours: E) {
        let account = |owner, len| Account { lamports: 10_000_000, owner, data: vec![0; len], ..Account::default() };
        self.in_place("with data of nobody", account(SYSTEM_PROGRAM, 1), Expect::Refused(foreign));
        self.in_place("of another program", account(TOKEN_PROGRAM, 165), Expect::Refused(foreign));
        self.in_place("of another program, empty", account(TOKEN_PROGRAM, 0), Expect::Refused(foreign));
        self.in_place("made before, empty", account(PROGRAM, 0), Expect::Refused(ours));
        self.in_place("made before", account(PROGRAM, 200), Expect::Refused(ours));
        let nowhere = Address::new_from_array([0xe2; 32]);
        self.replaced("another address", nowhere, Expect::Refused(E::WrongAddress));
    }

    fn token_account(&mut self) {
        let honest = self.honest();
        let bad = Expect::Refused(E::BadTokenAccount);
        let mint = Address::new_from_array([9; 32]);
        let with = |change: &dyn Fn(&mut Account)| {
            let mut account = honest.clone();
            change(&mut account);
            account
        };
        for owner in [PROGRAM, SYSTEM_PROGRAM, Address::new_from_array([7; 32])] {
            self.in_place(&format!("owned by {owner}"), with(&|account| account.owner = owner), bad);
        }
        for len in [0, 1, 164, 166, 200] {
            self.in_place(&format!("of {len} bytes"), with(&|account| account.data.resize(len, 0)), bad);
        }
        self.in_place("a mint", with(&|account| account.data = mint_data(None, 6)), bad);
        let foreign = token_data(&mint, &SYSTEM_PROGRAM, 5);
        self.in_place("of another mint", with(&|account| account.data.clone_from(&foreign)), bad);
        for (state, what) in [(0, "not initialised"), (2, "frozen"), (3, "in no known state")] {
            self.in_place(what, with(&|account| account.data[108] = state), bad);
        }
        self.replaced("a wallet", self.case.world.payer_address(), bad);
        if self.case.table.name != "init_config" {
            self.replaced("the vault", vault(), bad);
        }
    }

    fn mint(&mut self) {
        let honest = self.honest();
        let bad = Expect::Refused(E::BadMint);
        let mut attempt = |what: &str, owner, data: Vec<u8>| {
            self.in_place(what, Account { owner, data, ..honest.clone() }, bad);
        };
        attempt("of another program", PROGRAM, honest.data.clone());
        for len in [0, 81, 83, 165] {
            let mut data = honest.data.clone();
            data.resize(len, 0);
            attempt(&format!("of {len} bytes"), TOKEN_PROGRAM, data);
        }
        attempt("of other decimals", TOKEN_PROGRAM, mint_data(None, 9));
        attempt("that can freeze", TOKEN_PROGRAM, mint_data(Some(SYSTEM_PROGRAM), 6));
        let mut raw = mint_data(None, 6);
        raw[45] = 0;
        attempt("not initialised", TOKEN_PROGRAM, raw);
    }

    fn program_data(&mut self) {
        let honest = self.honest();
        self.placed("a copy elsewhere", honest.clone(), Expect::Refused(E::WrongAddress));
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut account = honest.clone();
            change(&mut account.data);
            account
        };
        let layout = Expect::Refused(E::WrongLayout);
        for len in [0, 3, 12, 44] {
            self.in_place(&format!("of {len} bytes"), with(&|data| data.resize(len, 0)), layout);
        }
        for kind in [0, 1, 2, 4] {
            self.in_place(&format!("kind {kind}"), with(&|data| data[0] = kind), layout);
        }
        self.in_place("of another authority", with(&|data| data[13] ^= 1), Expect::Refused(E::Unauthorised));
    }
}
