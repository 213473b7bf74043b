//! What each slot is for, and with what a stranger's account in it is refused: the table that the attempts follow.

use settlement_interface::errors::SettlementError as E;

use crate::cases::Case;

/// What an account is to its instruction. An error tells how another account of the right kind is refused.
#[derive(Clone, Copy)]
pub enum Role {
    /// Whoever signs may stand here.
    AnySigner,
    /// As [`Role::AnySigner`]; would pay rent, but in this case there is none to pay.
    UnusedPayer,
    /// One key and no other.
    Signer(E),
    /// One wallet and no other; it need not sign.
    Wallet(E),
    /// Whoever may spend the source: the token program is the judge.
    Depositor,
    /// The one config.
    Config,
    Agent(E),
    /// An agent's account, which is made if it is not there.
    AgentOrNew(E),
    Node(E),
    /// An operator or a node, whose fees are paid out.
    FeeSource(E),
    /// The operator that the node has chosen.
    ChosenOperator(E),
    /// An operator that is being chosen: any will do, but it must be one.
    AnyOperator,
    Channel(E),
    /// A channel of a batch: where nothing lives, the entry is skipped. `None`: a stranger's is skipped too.
    BatchChannel(Option<E>),
    /// Is made here.
    Created,
    /// As [`Role::Created`], where one that lives already would be used.
    CreatedAgent,
    /// A token account. `None`: another good one will do.
    Tokens(Option<E>),
    /// The one vault.
    Vault,
    Mint,
    ProgramData,
    /// A program at its one address.
    Program,
}

/// The role of a slot in a case.
pub fn role(case: &Case, slot: &str) -> Role {
    let is_first = case.name == "deposit, the first";
    match (case.table.name, slot) {
        (_, "token_program" | "system_program") => Role::Program,
        ("init_config", "config" | "vault") => Role::Created,
        (_, "config") => Role::Config,
        (_, "vault") => Role::Vault,

        ("init_config" | "register_operator" | "register_node", "payer") => Role::AnySigner,
        ("init_config", "admin") => Role::Signer(E::Unauthorised),
        ("init_config", "mint") => Role::Mint,
        ("init_config", "program_data") => Role::ProgramData,
        ("init_config" | "set_config", "treasury") => Role::Tokens(None),
        ("set_config", "admin") => Role::Signer(E::Unauthorised),
        ("accept_admin", "pending_admin") => Role::Signer(E::Unauthorised),

        // The address of the account to be made follows from this key.
        ("register_operator", "authority") | ("register_node", "id") => Role::Signer(E::WrongAddress),
        ("register_operator", "operator") | ("register_node", "node") => Role::Created,
        ("register_operator" | "register_node" | "update_node", "payout") => Role::Tokens(None),
        ("register_node", "owner") => Role::AnySigner,
        ("register_node" | "update_node", "operator") => Role::AnyOperator,
        ("update_node", "owner") => Role::Signer(E::Unauthorised),
        ("update_node", "node") => Role::Node(E::Unauthorised),

        ("deposit", "depositor") if is_first => Role::Depositor,
        ("deposit", "depositor") => Role::UnusedPayer,
        ("deposit", "owner") => Role::Wallet(if is_first { E::WrongAddress } else { E::WrongParty }),
        ("deposit", "agent") if is_first => Role::CreatedAgent,
        ("deposit", "agent") => Role::AgentOrNew(E::WrongParty),
        ("deposit", "source") => Role::Tokens(None),
        ("withdraw_available" | "open_batch" | "top_up" | "request_close", "owner") => Role::Signer(E::Unauthorised),
        ("withdraw_available" | "open_batch" | "top_up" | "request_close", "agent") => Role::Agent(E::Unauthorised),
        ("withdraw_available", "destination") => Role::Tokens(None),

        ("open_batch", "rent_payer") => Role::AnySigner,
        // The channel's address follows from the node.
        ("open_batch", "node") => Role::Node(E::WrongAddress),
        ("open_batch", "channel") => Role::Created,
        ("top_up" | "request_close", "channel") => Role::Channel(E::WrongParty),

        ("settle_batch" | "close_batch" | "withdraw_earned", "node") => Role::Node(E::WrongParty),
        ("settle_batch" | "close_batch" | "withdraw_earned", "operator") => Role::ChosenOperator(E::WrongParty),
        ("close_batch" | "withdraw_earned", "authority") => Role::Signer(E::Unauthorised),
        ("settle_batch" | "close_batch", "channel") => Role::BatchChannel(Some(E::WrongParty)),
        ("finalize_batch", "channel") => Role::BatchChannel(None),
        ("reclaim_batch", "agent") => Role::Agent(E::WrongParty),
        ("reclaim_batch", "rent_payer") => Role::Wallet(E::WrongParty),
        ("reclaim_batch", "channel") => Role::BatchChannel(Some(E::WrongParty)),

        ("withdraw_earned", "payout") => Role::Tokens(Some(E::BadTokenAccount)),
        ("withdraw_fees", "source") => Role::FeeSource(E::BadTokenAccount),
        ("withdraw_fees", "destination") => Role::Tokens(Some(E::BadTokenAccount)),
        (instruction, slot) => panic!("no role for {slot} of {instruction}"),
    }
}
