//! Dependencies between our crates follow the one list below.

use std::collections::BTreeSet;
use std::process::Command;

/// Every arrow that may exist. `aro-tests` may know everything; the chain program is reached as a file, never linked.
const ALLOWED: &[(&str, &[&str])] = &[
    ("settlement-interface", &[]),
    ("aro-proto", &["settlement-interface"]),
    ("settlement-chain", &["settlement-interface"]),
    ("settlement-devnet", &["settlement-chain", "settlement-interface"]),
    ("settlement-operator", &["aro-proto", "settlement-chain", "settlement-interface"]),
    ("uncached-file", &[]),
    ("agent-client", &["aro-proto", "settlement-chain", "settlement-interface", "uncached-file"]),
    ("node-server", &["aro-proto", "settlement-chain", "settlement-interface", "uncached-file"]),
    (
        "aro-tests",
        &[
            "agent-client",
            "aro-proto",
            "node-server",
            "settlement-chain",
            "settlement-interface",
            "settlement-operator",
            "uncached-file",
        ],
    ),
];

#[test]
fn crates_depend_only_along_the_arrows() {
    let packages = workspace_packages();
    let ours: BTreeSet<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    let listed: BTreeSet<&str> = ALLOWED.iter().map(|(name, _)| *name).collect();
    assert_eq!(ours, listed, "every crate of the workspace is in the list, and nothing else is");

    for package in &packages {
        let (_, allowed) = ALLOWED.iter().find(|(name, _)| *name == package.name).expect("checked above");
        for dependency in &package.dependencies {
            // A crate may name itself for its own dev features.
            let inside = ours.contains(dependency.as_str()) && *dependency != package.name;
            assert!(
                !inside || allowed.contains(&dependency.as_str()),
                "{} -> {dependency} is no arrow of the house",
                package.name
            );
        }
    }
}

#[test]
fn the_ground_floor_has_no_dependencies() {
    let packages = workspace_packages();
    let interface = packages.iter().find(|package| package.name == "settlement-interface").expect("it is a member");
    assert_eq!(interface.dependencies, Vec::<String>::new());
}

struct Package {
    name: String,
    dependencies: Vec<String>,
}

fn workspace_packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON");
    let text = |value: &serde_json::Value| value.as_str().expect("a name").to_owned();
    let list = |value: &serde_json::Value| value.as_array().expect("a list").clone();
    list(&metadata["packages"])
        .iter()
        .map(|package| Package {
            name: text(&package["name"]),
            dependencies: list(&package["dependencies"]).iter().map(|dependency| text(&dependency["name"])).collect(),
        })
        .collect()
}
