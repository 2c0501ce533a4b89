//! Who may import whom: the wall of docs/ARCHITECTURE.md, read from the manifests.
#![expect(clippy::disallowed_methods, reason = "a test of the manifests reads the manifests")]

use std::collections::BTreeSet;
use toml::Table;

/// The names below `[dependencies]`, `[build-dependencies]` and the same of a target; those below
/// `[dev-dependencies]` where `dev` says so.
fn imports(member: &str, dev: bool) -> BTreeSet<String> {
    let path = format!("{}/../{member}/Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    let manifest: Table = text.parse().unwrap_or_else(|error| panic!("{path}: {error}"));
    let of_targets =
        manifest.get("target").and_then(toml::Value::as_table).into_iter().flat_map(Table::values);
    let tables: Vec<&Table> = of_targets.filter_map(toml::Value::as_table).chain([&manifest]).collect();
    let kinds = ["dependencies", "build-dependencies", "dev-dependencies"];
    kinds
        .into_iter()
        .take(if dev { 3 } else { 2 })
        .flat_map(|kind| tables.iter().filter_map(move |table| table.get(kind)?.as_table()))
        .flat_map(|table| table.keys().cloned())
        .collect()
}

/// Which crates of ours a crate imports, without the prefix; the binary is `cli`.
fn ours(member: &str) -> BTreeSet<String> {
    let imports = imports(member, true);
    let own = imports.iter().filter_map(|name| name.strip_prefix("tuplelab-").map(str::to_owned));
    own.chain(imports.contains("tuplelab").then(|| "cli".to_owned())).collect()
}

#[test]
fn the_domain_imports_nothing_that_could_act() {
    let known = [
        "annotate-snippets",
        "hdrhistogram",
        "ipnet",
        "jiff",
        "schemars",
        "serde",
        "serde_json",
        "sha2",
        "siphasher",
        "strsim",
        "thiserror",
        "toml",
    ];
    assert_eq!(imports("domain", false), known.into_iter().map(str::to_owned).collect());
}

#[test]
fn crates_import_in_one_direction() {
    for (member, allowed) in [
        ("domain", &[][..]),
        ("proto", &["domain"]),
        ("worker", &["domain"]),
        ("agent", &["domain", "proto", "worker"]),
        ("controller", &["domain", "proto"]),
        ("lab", &["domain"]),
        ("cli", &["agent", "controller", "domain", "lab", "proto", "worker"]),
        ("e2e", &["domain"]),
    ] {
        let strangers: Vec<_> =
            ours(member).into_iter().filter(|name| !allowed.contains(&name.as_str())).collect();
        assert!(strangers.is_empty(), "{member} imports {strangers:?}; it may import {allowed:?}");
    }
}

#[test]
fn every_member_of_the_workspace_stands_behind_the_wall() {
    let path = format!("{}/../Cargo.toml", env!("CARGO_MANIFEST_DIR"));
    let manifest: Table = std::fs::read_to_string(&path).expect("the workspace").parse().expect("TOML");
    let members = manifest
        .get("workspace")
        .and_then(|workspace| workspace.get("members"))
        .and_then(toml::Value::as_array);
    let members: Vec<_> = members.expect("members").iter().filter_map(toml::Value::as_str).collect();
    assert_eq!(members, ["domain", "proto", "worker", "agent", "controller", "lab", "cli", "e2e"]);
}

#[test]
fn the_worker_has_no_runtime_and_the_domain_and_the_worker_no_wire() {
    for member in ["domain", "worker"] {
        let imports = imports(member, true);
        for stranger in ["tokio", "tonic", "prost", "hyper-util", "sqlx", "futures"] {
            assert!(!imports.contains(stranger), "{member} imports {stranger}");
        }
    }
    for member in ["proto", "worker", "agent", "lab", "e2e"] {
        assert!(
            !imports(member, true).contains("sqlx"),
            "{member} imports sqlx: SQL lives in the controller's store"
        );
    }
}
