//! What the project is built from: licences, sources and duplicate versions of every package that
//! ships.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// Licences that let people ship the binary. A package passes if one alternative of its expression
/// holds only these.
const LICENCES: [&str; 15] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
    "MPL-2.0",
];

/// Packages that come in several versions because their users have not moved together: actix-http
/// and ureq hold http and webpki-roots back, tokenizers base64 and itertools, actix the rest. A new
/// name here needs a reason.
const DUPLICATES: [&str; 8] = ["base64", "getrandom", "hashbrown", "http", "itertools", "rand_core", "syn", "webpki-roots"];

fn metadata() -> Value {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--locked", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// The ids of the packages that end up in the binary: reached from the root package without
/// development dependencies.
fn shipped(metadata: &Value) -> BTreeSet<String> {
    let nodes = metadata["resolve"]["nodes"].as_array().expect("nodes");
    let edges: BTreeMap<&str, Vec<&str>> = nodes
        .iter()
        .map(|node| {
            let normal = node["deps"]
                .as_array()
                .expect("deps")
                .iter()
                .filter(|dep| dep["dep_kinds"].as_array().expect("kinds").iter().any(|kind| kind["kind"].is_null()));
            (node["id"].as_str().expect("id"), normal.map(|dep| dep["pkg"].as_str().expect("package")).collect())
        })
        .collect();
    let mut reached = BTreeSet::new();
    let mut ahead = vec![metadata["resolve"]["root"].as_str().expect("a root package")];
    while let Some(id) = ahead.pop() {
        if reached.insert(id.to_owned()) {
            ahead.extend(&edges[id]);
        }
    }
    reached
}

fn shipped_packages(metadata: &Value) -> Vec<&Value> {
    let shipped = shipped(metadata);
    let packages = metadata["packages"].as_array().expect("packages");
    packages.iter().filter(|package| shipped.contains(package["id"].as_str().expect("id"))).collect()
}

/// Whether an SPDX expression lets us ship: `A OR B` needs one side, `A AND B` both. Nesting beyond
/// one level of parentheses does not occur in the tree; it would fail here and be seen.
fn may_ship(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    expression.split(" AND ").all(|part| {
        part.trim_matches(['(', ')', ' '])
            .split(" OR ")
            .any(|licence| LICENCES.contains(&licence.trim_matches(['(', ')', ' '])))
    })
}

#[test]
fn every_licence_lets_us_ship() {
    let metadata = metadata();
    let offences: Vec<_> = shipped_packages(&metadata)
        .iter()
        .filter(|package| !may_ship(package["license"].as_str().unwrap_or_default()))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(offences.is_empty(), "licences outside the list:\n{}", offences.join("\n"));
}

#[test]
fn a_licence_outside_the_list_is_noticed() {
    assert!(may_ship("MIT OR Apache-2.0") && may_ship("(MIT OR GPL-3.0) AND Unicode-3.0") && may_ship("MIT/GPL-3.0"));
    assert!(!may_ship("GPL-3.0") && !may_ship("MIT AND GPL-3.0") && !may_ship(""));
}

#[test]
fn packages_come_from_the_registry_or_from_here() {
    let metadata = metadata();
    for package in shipped_packages(&metadata) {
        let source = package["source"].as_str();
        let known = source.is_none_or(|source| source.starts_with("registry+"));
        assert!(known, "{} comes from {source:?}", package["name"]);
    }
}

#[test]
fn duplicate_versions_are_the_known_ones() {
    let metadata = metadata();
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in shipped_packages(&metadata) {
        let (name, version) = (package["name"].as_str().expect("name"), package["version"].as_str().expect("version"));
        versions.entry(name).or_default().insert(version);
    }
    let found: BTreeSet<&str> = versions.iter().filter(|(_, all)| all.len() > 1).map(|(name, _)| *name).collect();
    let known: BTreeSet<&str> = DUPLICATES.into_iter().collect();
    assert_eq!(found, known, "packages in several versions, left: found, right: known; {versions:?}");
}
