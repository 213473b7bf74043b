//! The program's interface for other languages: `settlement/interface/idl.json`, in the format of Codama, from which
//! its generators make clients. It is made from the interface's own tables and read back here as a stranger would:
//! with Codama's own types, byte by byte against the layouts, and against calls that the program carries out.

mod make;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
};

use codama_nodes::RootNode;
use serde_json::Value;
use settlement_chain::{Address, Program};
use settlement_interface::{
    FieldInfo,
    accounts::{Agent, Channel, Config, Node, Operator, VERSION},
    errors::SettlementError,
    instructions::table,
};

use crate::cases;

const SYSTEM_PROGRAM: &str = "11111111111111111111111111111111";
const TOKEN_PROGRAM: &str = "TokenkegQfeZyiNwAJbNbGKPFXCWuBvf9Ss623VQ5DA";

#[test]
fn the_committed_description_is_what_the_interface_makes() {
    let path = path();
    let made = make::description();
    if std::env::var_os("ARO_UPDATE").is_some() {
        std::fs::write(&path, serde_json::to_string_pretty(&sorted(made.clone())).unwrap() + "\n").unwrap();
    }
    assert!(committed() == made, "idl.json is not what the interface makes; run this test with ARO_UPDATE=1");
}

#[test]
fn codamas_own_types_read_it_and_lose_nothing() {
    let there = committed();
    let root: RootNode = serde_json::from_value(there.clone()).expect("Codama's format");
    let again = serde_json::to_value(&root).unwrap();
    let [again, there] = [again, there].map(|value| serde_json::to_string_pretty(&sorted(value)).unwrap());
    for (line, (again, there)) in again.lines().zip(there.lines()).enumerate() {
        assert_eq!(again, there, "line {}", line + 1);
    }
    assert_eq!(again.lines().count(), there.lines().count());
}

#[test]
fn every_byte_of_every_account_has_a_field() {
    let layouts: [(&str, usize, &[FieldInfo]); 5] = [
        ("config", Config::LEN, Config::FIELDS),
        ("agent", Agent::LEN, Agent::FIELDS),
        ("node", Node::LEN, Node::FIELDS),
        ("operator", Operator::LEN, Operator::FIELDS),
        ("channel", Channel::LEN, Channel::FIELDS),
    ];
    let root = committed();
    let accounts = list(&root["program"]["accounts"]);
    assert_eq!(accounts.len(), layouts.len());
    for (account, (name, len, fields)) in accounts.iter().zip(layouts) {
        assert_eq!(account["name"], name);
        assert_eq!(account["size"], len);
        let mut data = vec![0u8; len];
        // Each field is read where the layout has it, and nothing is left over.
        let described = list(&account["data"]["fields"]);
        assert_eq!(described.len(), fields.len());
        for (described, field) in described.iter().zip(fields) {
            data[field.offset] = 1;
            let mut reader = Reader { data: &data[field.offset..] };
            reader.skip(&described["type"]);
            assert_eq!(len - field.offset - reader.data.len(), field.len, "{name}, {}", field.name);
        }
        let mut reader = Reader { data: &data };
        reader.skip(&account["data"]);
        assert!(reader.data.is_empty(), "{name}");
        assert_eq!(described[1]["defaultValue"]["number"], VERSION);
    }
}

#[test]
fn honest_calls_read_as_described() {
    let root = committed();
    let instructions = list(&root["program"]["instructions"]);
    assert_eq!(instructions.len(), table::ALL.len());
    for case in cases::all() {
        let described = &instructions[usize::from(case.table.tag)];
        let mut reader = Reader { data: &case.instruction.data };
        for argument in list(&described["arguments"]) {
            if let Some(fixed) = argument["defaultValue"]["number"].as_u64() {
                assert_eq!(u64::from(reader.data[0]), fixed, "{}", case.name);
            }
            reader.skip(&argument["type"]);
        }
        assert!(reader.data.is_empty(), "{}: {} bytes are not described", case.name, reader.data.len());

        let accounts = described["accounts"].as_array().cloned().unwrap_or_default();
        for (account, meta) in accounts.iter().zip(&case.instruction.accounts) {
            assert_eq!(account["isSigner"], meta.is_signer, "{}, {}", case.name, account["name"]);
            assert_eq!(account["isWritable"], meta.is_writable, "{}, {}", case.name, account["name"]);
        }
        let repeats = described["remainingAccounts"].is_array();
        assert_eq!(accounts.len() < case.instruction.accounts.len(), repeats, "{}", case.name);
    }
}

#[test]
fn addresses_derive_from_the_described_seeds() {
    let program = Program::local();
    let [one, other] = [[1; 32], [2; 32]].map(Address::new_from_array);
    let expected = [
        ("config", vec![], program.config().0),
        ("vault", vec![], program.vault().0),
        ("agent", vec![one.to_bytes().to_vec()], program.agent(&one).0),
        ("node", vec![one.to_bytes().to_vec()], program.node(&one).0),
        ("operator", vec![one.to_bytes().to_vec()], program.operator(&one).0),
        (
            "channel",
            vec![one.to_bytes().to_vec(), other.to_bytes().to_vec(), 77u64.to_le_bytes().to_vec()],
            program.channel(&one, &other, 77).0,
        ),
    ];
    let root = committed();
    assert_eq!(root["program"]["publicKey"], program.id.to_string());
    let pdas = list(&root["program"]["pdas"]);
    assert_eq!(pdas.len(), expected.len());
    for (pda, (name, values, address)) in pdas.iter().zip(expected) {
        assert_eq!(pda["name"], name);
        let mut values = values.into_iter();
        let seeds: Vec<Vec<u8>> = list(&pda["seeds"])
            .iter()
            .map(|seed| match seed["kind"].as_str() {
                Some("constantPdaSeedNode") => seed["value"]["string"].as_str().unwrap().as_bytes().to_vec(),
                _ => {
                    let value = values.next().expect("a value for every seed");
                    let mut reader = Reader { data: &value };
                    reader.skip(&seed["type"]);
                    assert!(reader.data.is_empty());
                    value
                }
            })
            .collect();
        let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
        assert_eq!(Address::find_program_address(&seeds, &program.id).0, address, "{name}");
    }
}

#[test]
fn every_error_is_described_once() {
    let root = committed();
    let described: BTreeSet<_> = list(&root["program"]["errors"])
        .iter()
        .map(|error| (error["code"].as_u64().unwrap(), error["message"].as_str().unwrap().to_owned()))
        .collect();
    let ours: BTreeSet<_> =
        SettlementError::ALL.iter().map(|error| (u64::from(error.code()), error.message().trim().to_owned())).collect();
    assert_eq!(described, ours);
}

/// Reads bytes by nothing but the description.
struct Reader<'a> {
    data: &'a [u8],
}

impl Reader<'_> {
    fn skip(&mut self, ty: &Value) {
        match ty["kind"].as_str().unwrap() {
            "numberTypeNode" => {
                assert_eq!(ty["endian"], "le");
                let bits: usize = ty["format"].as_str().unwrap()[1..].parse().unwrap();
                self.take(bits / 8);
            }
            "publicKeyTypeNode" => {
                self.take(32);
            }
            "fixedSizeTypeNode" => {
                self.take(ty["size"].as_u64().unwrap() as usize);
            }
            "structTypeNode" => {
                for field in list(&ty["fields"]) {
                    self.skip(&field["type"]);
                }
            }
            "arrayTypeNode" => match ty["count"]["kind"].as_str().unwrap() {
                "prefixedCountNode" => {
                    assert_eq!(ty["count"]["prefix"]["format"], "u8");
                    for _ in 0..self.take(1)[0] {
                        self.skip(&ty["item"]);
                    }
                }
                "remainderCountNode" => {
                    while !self.data.is_empty() {
                        self.skip(&ty["item"]);
                    }
                }
                other => panic!("a count of kind {other}"),
            },
            other => panic!("a type of kind {other}"),
        }
    }

    fn take(&mut self, len: usize) -> &[u8] {
        let (taken, left) = self.data.split_at(len);
        self.data = left;
        taken
    }
}

/// The same with every object's keys in order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(map) => {
            let ordered: BTreeMap<String, Value> = map.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            Value::Object(ordered.into_iter().collect())
        }
        Value::Array(list) => Value::Array(list.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn list(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap()
}

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../settlement/interface/idl.json"))
}

fn committed() -> Value {
    serde_json::from_str(&std::fs::read_to_string(path()).expect("idl.json is there")).expect("JSON")
}
