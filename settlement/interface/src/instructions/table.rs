//! Which accounts each instruction takes, in order: one table, read by people, client builders and tests.

use super::{
    AcceptAdmin, Deposit, FinalizeBatch, InitConfig, OpenBatch, OpenEntry, ReclaimBatch, RegisterNode,
    RegisterOperator, RequestClose, SetConfig, TopUp, UpdateNode, VoucherBatch, VoucherEntry, WithdrawAvailable,
    WithdrawEarned, WithdrawFees, tag,
};
use crate::FieldInfo;

/// An instruction as data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Instruction {
    /// Its name.
    pub name: &'static str,
    /// First byte of its data.
    pub tag: u8,
    /// What it does, one line of documentation each.
    pub docs: &'static [&'static str],
    /// The fixed fields of its data, tag included.
    pub head: &'static [FieldInfo],
    /// The fields of one batch entry; as many entries as the head's `count` follow the head.
    pub entry: Option<&'static [FieldInfo]>,
    /// Its accounts, in order. Those that repeat come last, and repeat together.
    pub accounts: &'static [Slot],
}

/// One account of an instruction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: &'static str,
    /// The instruction changes it. Where [`or_none`](Self::or_none) is used, the system program is not written.
    pub writable: bool,
    /// It signs.
    pub signer: bool,
    /// There is one for each entry of the batch.
    pub repeated: bool,
    /// The system program stands here for "none".
    pub or_none: bool,
    /// What it is.
    pub doc: &'static str,
}

impl Slot {
    const fn each(self) -> Self {
        Self { repeated: true, ..self }
    }

    const fn or_none(self) -> Self {
        Self { or_none: true, ..self }
    }
}

impl Instruction {
    /// The instruction of a tag.
    pub const fn of(tag: u8) -> Option<&'static Self> {
        let at = tag as usize;
        if at < ALL.len() { Some(&ALL[at]) } else { None }
    }
}

/// Every instruction, by tag.
pub const ALL: &[Instruction] = &[
    Instruction {
        name: "init_config",
        tag: tag::INIT_CONFIG,
        docs: InitConfig::DOCS,
        head: InitConfig::FIELDS,
        entry: None,
        accounts: &[
            ws("payer", "Pays the rent of config and vault."),
            s("admin", "May change the parameters from now on; the program's upgrade authority if it has one."),
            w("config", "Derived; created."),
            w("vault", "Derived; created as a token account whose authority is the config."),
            r("mint", "The $ARO mint."),
            r("treasury", "Token account that protocol fees go to."),
            r("program_data", "The upgradeable loader's account for this program; it names the upgrade authority."),
            TOKEN_PROGRAM,
            SYSTEM_PROGRAM,
        ],
    },
    Instruction {
        name: "register_operator",
        tag: tag::REGISTER_OPERATOR,
        docs: RegisterOperator::DOCS,
        head: RegisterOperator::FIELDS,
        entry: None,
        accounts: &[
            ws("payer", "Pays the rent."),
            s("authority", "The operator's hot key."),
            w("operator", "Derived; created."),
            r("payout", "Token account that fees go to."),
            CONFIG,
            SYSTEM_PROGRAM,
        ],
    },
    Instruction {
        name: "register_node",
        tag: tag::REGISTER_NODE,
        docs: RegisterNode::DOCS,
        head: RegisterNode::FIELDS,
        entry: None,
        accounts: &[
            ws("payer", "Pays the rent."),
            s("owner", "The node's cold key."),
            s("id", "The node's transport key, so that nobody can take another's id."),
            w("node", "Derived; created."),
            r("payout", "Token account that earnings go to."),
            CONFIG,
            r("operator", "The operator that settles for the node.").or_none(),
            SYSTEM_PROGRAM,
        ],
    },
    Instruction {
        name: "deposit",
        tag: tag::DEPOSIT,
        docs: Deposit::DOCS,
        head: Deposit::FIELDS,
        entry: None,
        accounts: &[
            ws("depositor", "Authority of the source; pays the rent of a new agent account."),
            r("owner", "The wallet whose agent account is credited."),
            w("agent", "Derived; created if it is not there."),
            w("source", "Token account that pays."),
            VAULT,
            CONFIG,
            TOKEN_PROGRAM,
            SYSTEM_PROGRAM,
        ],
    },
    Instruction {
        name: "withdraw_available",
        tag: tag::WITHDRAW_AVAILABLE,
        docs: WithdrawAvailable::DOCS,
        head: WithdrawAvailable::FIELDS,
        entry: None,
        accounts: &[
            s("owner", "The agent's owner."),
            w("agent", "The owner's agent account."),
            w("destination", "Token account of the owner's choice."),
            VAULT,
            CONFIG,
            TOKEN_PROGRAM,
        ],
    },
    Instruction {
        name: "open_batch",
        tag: tag::OPEN_BATCH,
        docs: OpenBatch::DOCS,
        head: OpenBatch::FIELDS,
        entry: Some(OpenEntry::FIELDS),
        accounts: &[
            s("owner", "The agent's owner."),
            ws("rent_payer", "Pays the rent of the channels and gets it back at reclaim."),
            w("agent", "The owner's agent account."),
            CONFIG,
            SYSTEM_PROGRAM,
            r("node", "The node that the channel pays.").each(),
            w("channel", "Derived; created.").each(),
        ],
    },
    Instruction {
        name: "top_up",
        tag: tag::TOP_UP,
        docs: TopUp::DOCS,
        head: TopUp::FIELDS,
        entry: None,
        accounts: &[
            s("owner", "The agent's owner."),
            w("agent", "The owner's agent account."),
            w("channel", "An open channel of this agent."),
        ],
    },
    Instruction {
        name: "settle_batch",
        tag: tag::SETTLE_BATCH,
        docs: VoucherBatch::DOCS,
        head: VoucherBatch::FIELDS,
        entry: Some(VoucherEntry::FIELDS),
        accounts: &[
            w("node", "The node that all channels pay."),
            w("operator", "The operator that the node names.").or_none(),
            w("channel", "A channel to this node.").each(),
        ],
    },
    Instruction {
        name: "close_batch",
        tag: tag::CLOSE_BATCH,
        docs: VoucherBatch::DOCS,
        head: VoucherBatch::FIELDS,
        entry: Some(VoucherEntry::FIELDS),
        accounts: &[
            NODE_AUTHORITY,
            w("node", "The node that all channels pay."),
            w("operator", "The operator that the node names.").or_none(),
            w("channel", "A channel to this node.").each(),
        ],
    },
    Instruction {
        name: "request_close",
        tag: tag::REQUEST_CLOSE,
        docs: RequestClose::DOCS,
        head: RequestClose::FIELDS,
        entry: None,
        accounts: &[
            s("owner", "The agent's owner."),
            r("agent", "The owner's agent account."),
            w("channel", "An open channel of this agent."),
        ],
    },
    Instruction {
        name: "finalize_batch",
        tag: tag::FINALIZE_BATCH,
        docs: FinalizeBatch::DOCS,
        head: FinalizeBatch::FIELDS,
        entry: None,
        accounts: &[w("channel", "A closing channel; 1 to 64 of them.").each()],
    },
    Instruction {
        name: "reclaim_batch",
        tag: tag::RECLAIM_BATCH,
        docs: ReclaimBatch::DOCS,
        head: ReclaimBatch::FIELDS,
        entry: None,
        accounts: &[
            w("agent", "The agent account of all channels."),
            w("rent_payer", "Who paid for all channels."),
            w("channel", "A closed channel; 1 to 64 of them.").each(),
        ],
    },
    Instruction {
        name: "withdraw_earned",
        tag: tag::WITHDRAW_EARNED,
        docs: WithdrawEarned::DOCS,
        head: WithdrawEarned::FIELDS,
        entry: None,
        accounts: &[
            NODE_AUTHORITY,
            w("node", "The node."),
            r("operator", "The operator that the node names.").or_none(),
            w("payout", "The node's payout at this second."),
            VAULT,
            CONFIG,
            TOKEN_PROGRAM,
        ],
    },
    Instruction {
        name: "withdraw_fees",
        tag: tag::WITHDRAW_FEES,
        docs: WithdrawFees::DOCS,
        head: WithdrawFees::FIELDS,
        entry: None,
        accounts: &[
            w("source", "An operator account or a node account."),
            w("destination", "The operator's payout, or for a node the config's treasury."),
            VAULT,
            CONFIG,
            TOKEN_PROGRAM,
        ],
    },
    Instruction {
        name: "set_config",
        tag: tag::SET_CONFIG,
        docs: SetConfig::DOCS,
        head: SetConfig::FIELDS,
        entry: None,
        accounts: &[
            s("admin", "The config's admin."),
            w("config", "The program's parameters."),
            r("treasury", "Token account that protocol fees go to from now on; checked if it is another one."),
        ],
    },
    Instruction {
        name: "accept_admin",
        tag: tag::ACCEPT_ADMIN,
        docs: AcceptAdmin::DOCS,
        head: AcceptAdmin::FIELDS,
        entry: None,
        accounts: &[s("pending_admin", "The key that the admin proposed."), w("config", "The program's parameters.")],
    },
    Instruction {
        name: "update_node",
        tag: tag::UPDATE_NODE,
        docs: UpdateNode::DOCS,
        head: UpdateNode::FIELDS,
        entry: None,
        accounts: &[
            s("owner", "The node's cold key."),
            w("node", "The node."),
            r("payout", "Token account that earnings shall go to; checked if it is another one."),
            CONFIG,
            r("operator", "The operator that settles for the node from now on.").or_none(),
        ],
    },
];

const CONFIG: Slot = r("config", "The program's parameters.");
const VAULT: Slot = w("vault", "The token account that holds all deposits.");
const TOKEN_PROGRAM: Slot = r("token_program", "The classic SPL token program.");
const SYSTEM_PROGRAM: Slot = r("system_program", "The system program.");
const NODE_AUTHORITY: Slot = s("authority", "The node's owner or its operator's authority.");

const fn r(name: &'static str, doc: &'static str) -> Slot {
    Slot { name, writable: false, signer: false, repeated: false, or_none: false, doc }
}

const fn w(name: &'static str, doc: &'static str) -> Slot {
    Slot { writable: true, ..r(name, doc) }
}

const fn s(name: &'static str, doc: &'static str) -> Slot {
    Slot { signer: true, ..r(name, doc) }
}

const fn ws(name: &'static str, doc: &'static str) -> Slot {
    Slot { signer: true, ..w(name, doc) }
}

/// The table is indexed by tag.
const _: () = {
    let mut at = 0;
    while at < ALL.len() {
        assert!(ALL[at].tag as usize == at, "an instruction is not at its tag");
        at += 1;
    }
    assert!(ALL.len() == tag::COUNT, "an instruction has no table");
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_begin_with_the_tag_and_repeated_accounts_come_last() {
        for instruction in ALL {
            assert_eq!((instruction.head[0].name, instruction.head[0].ty), ("tag", "u8"), "{}", instruction.name);
            let once = instruction.accounts.iter().take_while(|slot| !slot.repeated).count();
            assert!(instruction.accounts[once..].iter().all(|slot| slot.repeated), "{}", instruction.name);
            let counts = instruction.head.iter().any(|field| field.name == "count");
            assert_eq!(counts, instruction.entry.is_some(), "{}", instruction.name);
            assert_eq!(Instruction::of(instruction.tag), Some(instruction));
        }
        assert_eq!(Instruction::of(u8::MAX), None);
    }
}
