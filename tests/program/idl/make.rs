//! The description, made from the interface's tables: layouts, account lists, seeds and errors, in Codama's words.

use serde_json::{Value, json};
use settlement_chain::Program;
use settlement_interface::{
    FieldInfo,
    accounts::{Agent, Channel, Config, Node, Operator, VERSION, discriminator},
    errors::SettlementError,
    instructions::table::{self, Slot},
    seeds,
};

use super::{SYSTEM_PROGRAM, TOKEN_PROGRAM};

/// Codama's root node for the whole program.
pub fn description() -> Value {
    json!({
        "kind": "rootNode",
        "standard": "codama",
        "version": "1.0.0",
        "program": {
            "kind": "programNode",
            "name": "aroSettlement",
            "publicKey": Program::local().id.to_string(),
            "version": env!("CARGO_PKG_VERSION"),
            "docs": [
                "Deposits, channels and vouchers of the ARO protocol.",
                "The address is that of local chains; public deployments have their own.",
            ],
            "accounts": accounts(),
            "instructions": table::ALL.iter().map(instruction).collect::<Vec<_>>(),
            "pdas": pdas(),
            "errors": SettlementError::ALL.iter().map(error).collect::<Vec<_>>(),
        },
    })
}

fn accounts() -> Vec<Value> {
    let account = |name: &str, kind: u8, size: usize, docs: &[&str], fields: &[FieldInfo]| {
        let fixed = |field: &FieldInfo| match field.name {
            "discriminator" => Some(kind),
            "version" => Some(VERSION),
            _ => None,
        };
        json!({
            "kind": "accountNode",
            "name": name,
            "size": size,
            "docs": docs_of(docs),
            "data": {
                "kind": "structTypeNode",
                "fields": fields.iter().map(|field| struct_field(field, fixed(field))).collect::<Vec<_>>(),
            },
            "pda": { "kind": "pdaLinkNode", "name": name },
            "discriminators": [
                { "kind": "fieldDiscriminatorNode", "name": "discriminator", "offset": 0 },
                { "kind": "sizeDiscriminatorNode", "size": size },
            ],
        })
    };
    vec![
        account("config", discriminator::CONFIG, Config::LEN, Config::DOCS, Config::FIELDS),
        account("agent", discriminator::AGENT, Agent::LEN, Agent::DOCS, Agent::FIELDS),
        account("node", discriminator::NODE, Node::LEN, Node::DOCS, Node::FIELDS),
        account("operator", discriminator::OPERATOR, Operator::LEN, Operator::DOCS, Operator::FIELDS),
        account("channel", discriminator::CHANNEL, Channel::LEN, Channel::DOCS, Channel::FIELDS),
    ]
}

fn instruction(instruction: &table::Instruction) -> Value {
    let once: Vec<_> =
        instruction.accounts.iter().filter(|slot| !slot.repeated).map(|slot| account(instruction.name, slot)).collect();
    let mut node = json!({
        "kind": "instructionNode",
        "name": camel(instruction.name),
        "docs": docs_of(instruction.docs),
        "arguments": arguments(instruction),
        "discriminators": [{ "kind": "fieldDiscriminatorNode", "name": "tag", "offset": 0 }],
    });
    // Codama leaves an empty list out.
    if !once.is_empty() {
        node["accounts"] = json!(once);
    }
    let each: Vec<&Slot> = instruction.accounts.iter().filter(|slot| slot.repeated).collect();
    if !each.is_empty() {
        node["remainingAccounts"] = json!([remaining(&each)]);
    }
    node
}

/// A batch's `count` is the prefix of its entries, and expiries are what is left after them.
fn arguments(instruction: &table::Instruction) -> Vec<Value> {
    let mut arguments: Vec<Value> = instruction
        .head
        .iter()
        .filter(|field| field.name != "count")
        .map(|field| argument(field, (field.name == "tag").then_some(instruction.tag)))
        .collect();
    if let Some(entry) = instruction.entry {
        let item = json!({
            "kind": "structTypeNode",
            "fields": entry.iter().map(|field| struct_field(field, None)).collect::<Vec<_>>(),
        });
        let count = json!({ "kind": "prefixedCountNode", "prefix": number("u8") });
        arguments.push(json!({
            "kind": "instructionArgumentNode",
            "name": "entries",
            "docs": ["1 to 64 of them, in the order of the accounts that repeat."],
            "type": { "kind": "arrayTypeNode", "item": item, "count": count },
        }));
        if instruction.head.iter().any(|field| field.name == "flags") {
            arguments.push(json!({
                "kind": "instructionArgumentNode",
                "name": "expiries",
                "docs": ["Unix seconds, one for each entry if flags is 1; none if it is 0."],
                "type": { "kind": "arrayTypeNode", "item": number("i64"), "count": { "kind": "remainderCountNode" } },
            }));
        }
    }
    arguments
}

fn argument(field: &FieldInfo, fixed: Option<u8>) -> Value {
    let mut node = json!({
        "kind": "instructionArgumentNode",
        "name": camel(field.name),
        "docs": docs_of(field.docs),
        "type": type_of(field),
    });
    fix(&mut node, fixed);
    node
}

fn struct_field(field: &FieldInfo, fixed: Option<u8>) -> Value {
    let mut node = json!({
        "kind": "structFieldTypeNode",
        "name": camel(field.name),
        "docs": docs_of(field.docs),
        "type": type_of(field),
    });
    fix(&mut node, fixed);
    node
}

/// A value that callers do not choose.
fn fix(node: &mut Value, fixed: Option<u8>) {
    if let Some(number) = fixed {
        node["defaultValueStrategy"] = json!("omitted");
        node["defaultValue"] = json!({ "kind": "numberValueNode", "number": number });
    }
}

fn account(instruction: &str, slot: &Slot) -> Value {
    let mut docs = vec![slot.doc.to_owned()];
    if slot.or_none {
        docs.push("The system program for none.".into());
    }
    let mut node = json!({
        "kind": "instructionAccountNode",
        "name": camel(slot.name),
        "isWritable": slot.writable,
        "isSigner": slot.signer,
        "docs": docs,
    });
    let public_key = |key: &str| json!({ "kind": "publicKeyValueNode", "publicKey": key });
    let fixed_pda = |name: &str| json!({ "kind": "pdaValueNode", "pda": { "kind": "pdaLinkNode", "name": name } });
    let pda = |name: &str, seeds: Value| {
        let mut node = fixed_pda(name);
        node["seeds"] = seeds;
        node
    };
    let from = |seed: &str, account: &str| {
        let value = json!({ "kind": "accountValueNode", "name": account });
        json!([{ "kind": "pdaSeedValueNode", "name": seed, "value": value }])
    };
    let default = match (instruction, slot.name) {
        (_, "system_program") => Some(public_key(SYSTEM_PROGRAM)),
        (_, "token_program") => Some(public_key(TOKEN_PROGRAM)),
        (_, "config" | "vault") => Some(fixed_pda(slot.name)),
        ("reclaim_batch", _) => None,
        (_, "agent") => Some(pda("agent", from("owner", "owner"))),
        ("register_operator", "operator") => Some(pda("operator", from("authority", "authority"))),
        ("register_node", "node") => Some(pda("node", from("id", "id"))),
        _ if slot.or_none => Some(public_key(SYSTEM_PROGRAM)),
        _ => None,
    };
    if let Some(default) = default {
        node["defaultValue"] = default;
    }
    node
}

/// The accounts that repeat with the entries, as one list: Codama has no word for a list of pairs.
fn remaining(each: &[&Slot]) -> Value {
    let mut docs: Vec<String> = each.iter().map(|slot| format!("{}: {}", slot.name, slot.doc)).collect();
    if each.len() > 1 {
        docs.push("In pairs, entry by entry; only those that are created or changed need to be writable.".into());
    }
    let names: Vec<_> = each.iter().map(|slot| format!("{}s", slot.name)).collect();
    json!({
        "kind": "instructionRemainingAccountsNode",
        "isSigner": false,
        "isWritable": each.iter().any(|slot| slot.writable),
        "docs": docs,
        "value": { "kind": "argumentValueNode", "name": camel(&names.join("_and_")) },
    })
}

fn pdas() -> Vec<Value> {
    let key = |name: &str, doc: &str| {
        json!({
            "kind": "variablePdaSeedNode",
            "name": name,
            "docs": [doc],
            "type": { "kind": "publicKeyTypeNode" },
        })
    };
    let nonce = json!({
        "kind": "variablePdaSeedNode",
        "name": "nonce",
        "docs": ["The incarnation: rises with every channel of the agent."],
        "type": number("u64"),
    });
    let pda = |name: &str, prefix: &[u8], variable: Vec<Value>| {
        let prefix = String::from_utf8(prefix.to_vec()).unwrap();
        let mut seeds = vec![json!({
            "kind": "constantPdaSeedNode",
            "type": { "kind": "stringTypeNode", "encoding": "utf8" },
            "value": { "kind": "stringValueNode", "string": prefix },
        })];
        seeds.extend(variable);
        json!({ "kind": "pdaNode", "name": name, "seeds": seeds })
    };
    let channel = vec![key("agent", "The paying agent's account."), key("node", "The earning node's account."), nonce];
    vec![
        pda("config", seeds::CONFIG, vec![]),
        pda("vault", seeds::VAULT, vec![]),
        pda("agent", seeds::AGENT, vec![key("owner", "The wallet.")]),
        pda("node", seeds::NODE, vec![key("id", "The node's transport key.")]),
        pda("operator", seeds::OPERATOR, vec![key("authority", "The operator's hot key.")]),
        pda("channel", seeds::CHANNEL, channel),
    ]
}

fn error(error: &SettlementError) -> Value {
    let name = format!("{error:?}");
    let (first, rest) = name.split_at(1);
    json!({
        "kind": "errorNode",
        "name": first.to_lowercase() + rest,
        "code": error.code(),
        "message": error.message().trim(),
    })
}

fn type_of(field: &FieldInfo) -> Value {
    match field.ty {
        "Key" => json!({ "kind": "publicKeyTypeNode" }),
        "u8" | "u16" | "u32" | "u64" | "i64" => number(field.ty),
        bytes if bytes.starts_with("[u8;") => {
            json!({ "kind": "fixedSizeTypeNode", "size": field.len, "type": { "kind": "bytesTypeNode" } })
        }
        other => panic!("no word for {other}"),
    }
}

fn number(format: &str) -> Value {
    json!({ "kind": "numberTypeNode", "format": format, "endian": "le" })
}

fn camel(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at(1);
        name + &head.to_uppercase() + tail
    })
}

/// Documentation without the links that only rustdoc follows.
fn docs_of(docs: &[&str]) -> Vec<String> {
    docs.iter().map(|line| plain(line.trim())).collect()
}

fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, link)) = rest.split_once("[`") {
        let (name, after) = link.split_once("`]").expect("a link ends on its line");
        text.push_str(before);
        text.push('`');
        text.push_str(name);
        text.push('`');
        rest = match after.strip_prefix('(').and_then(|target| target.split_once(')')) {
            Some((_, after)) => after,
            None => after,
        };
    }
    text + rest
}
