//! The claims by the real binary: the board, its JSON, one claim explained, what a bad name says.

use e2e::{World, has_namespaces, loopback_hosts};
use serde_json::Value;

/// A claim that is quickly tried, on both kinds of hosts; what it says is for the golden evidence.
fn tried(kind: &str) -> (World, Value) {
    let world = World::new();
    let ran = world.run(["claims", "c1", "C1", "--lab", kind, "--db", "x.db", "--json"]);
    let value: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.told()));
    let claims = value["claims"].as_array().expect("a list");
    assert_eq!(claims.len(), 1, "asked for twice, tried once: {}", ran.told());
    let verdict = claims[0]["verdict"].as_str().expect("a word").to_owned();
    ran.exits(if verdict == "inconclusive" { 4 } else { 0 });
    (world, claims[0].clone())
}

#[test]
fn a_claim_is_tried_in_namespaces_twice_with_the_same_verdict_and_can_be_explained_and_judged_again() {
    if !has_namespaces() {
        return;
    }
    let (world, first) = tried("namespaces");
    assert_eq!((first["claim"].as_str(), first["verdict"].as_str()), (Some("C1"), Some("qualified")));
    let points = first["evidence"]["points"].as_array().expect("points");
    assert!(points.len() > 5 && points.iter().all(|point| point["bearing"] != "missing"), "{first}");

    let run = first["evidence"]["run"].as_str().expect("an id");
    let shown = world.run(["show", run, "--db", "x.db"]).exits(0);
    assert!(
        shown.stdout.contains("EADDRINUSE") && shown.stdout.contains("qualified    C1"),
        "{}",
        shown.told()
    );
    let judged = world.run(["judge", run, "--db", "x.db", "--json"]).exits(0);
    let judged: Value = serde_json::from_str(&judged.stdout).expect("JSON");
    assert_eq!(judged[0]["because"], first["because"], "judged again from what is kept");

    let explained = world.run(["claims", "--explain", "c1", "--db", "x.db"]).exits(0);
    for part in
        ["how it works", "how it is tried (plans/claims/", "what would change", "RFC 9293", "qualified"]
    {
        assert!(explained.stdout.contains(part), "{part}: {}", explained.told());
    }
    let (_, second) = tried("namespaces");
    assert_eq!(
        (&second["verdict"], points.len()),
        (&first["verdict"], second["evidence"]["points"].as_array().map_or(0, Vec::len))
    );
}

#[test]
fn a_claim_over_loopback_hosts_leaves_open_what_they_cannot_show_and_says_why() {
    loopback_hosts();
    let (_, row) = tried("loopback");
    assert_ne!(row["verdict"], "refuted", "{row}");
    if row["verdict"] == "inconclusive" {
        assert!(row["because"].as_str().is_some_and(|why| why.len() > 20), "{row}");
    }
}

#[test]
fn a_claim_that_is_none_is_a_usage_error_and_one_not_tried_yet_is_said() {
    let world = World::new();
    let ended = world.run(["claims", "C9"]).exits(2);
    assert!(ended.stderr.contains("'C9' is no claim: write C1 to C8"), "{}", ended.told());
    let explained = world.run(["claims", "--explain", "C7", "--json"]).exits(0);
    let value: Value = serde_json::from_str(&explained.stdout).expect("JSON");
    assert!(value["last"].is_null() && value["explanation"]["mechanism"].is_string(), "{value}");
}

#[test]
fn the_plan_of_ten_million_fits_the_fleet_and_on_a_smaller_one_says_what_binds_where() {
    let world = World::new();
    let plans = concat!(env!("CARGO_MANIFEST_DIR"), "/../plans/scale");
    let plan = format!("{plans}/ten-million.toml");
    let fleet = std::fs::read_to_string(format!("{plans}/fleet.json")).expect("is shipped");
    let fits = world.run(["check", &plan, "--inventory", &format!("{plans}/fleet.json")]).exits(0);
    assert!(fits.stdout.contains("10,000,000 connections, bound by plan"), "{}", fits.told());
    let small = world.write(
        "small.json",
        fleet.replace("\"memory_available\": 68719476736", "\"memory_available\": 8589934592"),
    );
    let short = world.run(["check", &plan, "--inventory", &small]).exits(6);
    for part in ["possible by memory on server-1", "10,000,000 asked", "free memory"] {
        assert!(short.stderr.contains(part), "{part}: {}", short.told());
    }
}
