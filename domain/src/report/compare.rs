//! Two runs side by side: both numbers, their difference, and what was different around them.

use super::model::{CaseReport, Report};
use super::record::RunRecord;
use crate::capacity::facts::HostFacts;
use crate::plan::{Plan, PlanFile, check};
use crate::sysctl::Sysctl;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// Two runs, case by case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Comparison {
    /// The first run.
    pub first: String,
    /// The second run.
    pub second: String,
    /// Where the hosts of each run were, taken together, as far as it differs.
    #[serde(default)]
    pub place: Vec<Difference>,
    /// Cases of the same name and trial, in the order of the first run.
    pub cases: Vec<CaseDifference>,
    /// Cases that only one of the runs has, with its side (`first` or `second`).
    pub unmatched: Vec<(String, String)>,
    /// Values of the plans that differ, by their key.
    pub plan: Vec<Difference>,
    /// Kernels, settings and limits of the hosts that differ, by host and name.
    pub hosts: Vec<Difference>,
}

/// One value that differs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Difference {
    /// What.
    pub name: String,
    /// In the first run; absent where it has no such thing.
    pub first: Option<String>,
    /// In the second run.
    pub second: Option<String>,
}

/// One case of both runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct CaseDifference {
    /// The case's name, with its trial where there are several.
    pub name: String,
    /// What is measured, and its value in both runs; a rate or a time may be absent.
    pub measures: Vec<(String, Option<f64>, Option<f64>)>,
}

/// Compares two runs.
pub fn compare(first: &RunRecord, second: &RunRecord) -> Comparison {
    let (a, b) = (Report::new(first), Report::new(second));
    let mut cases = Vec::new();
    let mut unmatched = Vec::new();
    for case in &a.cases {
        match b.cases.iter().find(|other| key(other) == key(case)) {
            Some(other) => cases.push(CaseDifference { name: key(case), measures: measures(case, other) }),
            None => unmatched.push((key(case), "first".to_owned())),
        }
    }
    for case in &b.cases {
        if !a.cases.iter().any(|other| key(other) == key(case)) {
            unmatched.push((key(case), "second".to_owned()));
        }
    }
    Comparison {
        first: a.run,
        second: b.run,
        place: differences(&place_values(first), &place_values(second)),
        cases,
        unmatched,
        plan: plan_differences(first, second),
        hosts: differences(&host_values(first, second), &host_values(second, first)),
    }
}

fn key(case: &CaseReport) -> String {
    if case.trial > 1 { format!("{} (trial {})", case.name, case.trial) } else { case.name.clone() }
}

fn measures(a: &CaseReport, b: &CaseReport) -> Vec<(String, Option<f64>, Option<f64>)> {
    let row = |name: &str, of: &dyn Fn(&CaseReport) -> Option<f64>| (name.to_owned(), of(a), of(b));
    vec![
        row("predicted", &|case| Some(case.predicted as f64)),
        row("established", &|case| Some(case.established.client.min(case.established.server) as f64)),
        row("failed", &|case| Some(case.failed.total() as f64)),
        row("rate_per_second", &|case| case.rate_per_second),
        row("connect p50_micros", &|case| case.connect.as_ref().map(|c| c.p50_micros as f64)),
        row("connect p99_micros", &|case| case.connect.as_ref().map(|c| c.p99_micros as f64)),
        row("ramp_error_ppm", &|case| case.ramp.map(|ramp| ramp.ramp_error_ppm as f64)),
        row("cpu_micros_per_connection", &|case| case.cpu_micros_per_connection),
        row("user_bytes_per_connection", &|case| case.user_bytes_per_connection),
        row("slab_bytes_per_connection", &|case| case.slab_bytes_per_connection),
    ]
}

fn differences(a: &BTreeMap<String, String>, b: &BTreeMap<String, String>) -> Vec<Difference> {
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    names
        .into_iter()
        .filter(|name| a.get(*name) != b.get(*name))
        .map(|name| Difference {
            name: name.clone(),
            first: a.get(name).cloned(),
            second: b.get(name).cloned(),
        })
        .collect()
}

fn plan_differences(first: &RunRecord, second: &RunRecord) -> Vec<Difference> {
    let read = |record: &RunRecord| PlanFile::parse(&record.plan_source).and_then(check).ok();
    let (a, b) = (read(first), read(second));
    let values = |plan: &Option<Plan>, other: &Option<Plan>| {
        let common = |name: &str| other.iter().flat_map(|other| &other.cases).any(|case| case.name == name);
        plan.as_ref().map(|plan| plan_values(plan, common)).unwrap_or_default()
    };
    differences(&values(&a, &b), &values(&b, &a))
}

/// The values of a plan, and what is particular to each of its cases that the other plan has too.
fn plan_values(plan: &Plan, common: impl Fn(&str) -> bool) -> BTreeMap<String, String> {
    let claims: Vec<_> = plan.claims.iter().map(ToString::to_string).collect();
    let mut values = BTreeMap::from([
        ("question".to_owned(), plan.question.clone()),
        ("trials".to_owned(), plan.trials.to_string()),
        ("claims".to_owned(), claims.join(", ")),
    ]);
    for (index, expectation) in plan.expectations.iter().enumerate() {
        values.insert(format!("expect[{index}]"), expectation.to_string());
    }
    let base = serde_json::to_value(&plan.base).unwrap_or_default();
    flatten(&base, "", &mut values);
    for case in plan.cases.iter().filter(|case| common(&case.name)) {
        let own = case.parameters.iter().map(|(key, value)| (format!("{}: {key}", case.name), value.clone()));
        values.extend(own);
    }
    values
}

/// What the hosts of a run are, together: runs in different places rarely have hosts of one name.
fn place_values(record: &RunRecord) -> BTreeMap<String, String> {
    let counted = |of: &dyn Fn(&HostFacts) -> String| {
        let mut counts = BTreeMap::<String, usize>::new();
        record.hosts.iter().for_each(|host| *counts.entry(of(&host.facts)).or_default() += 1);
        let words = counts.into_iter().map(|(value, count)| format!("{count} x {value}"));
        words.collect::<Vec<_>>().join(", ")
    };
    let or_none = |limit: Option<u64>| limit.map_or_else(|| "none".to_owned(), |limit| limit.to_string());
    let kernels: BTreeSet<&str> = record.hosts.iter().map(|host| host.facts.boot_id.as_str()).collect();
    let networks: BTreeSet<String> =
        record.hosts.iter().flat_map(|host| &host.facts.networks).map(ToString::to_string).collect();
    let sysctls: BTreeSet<Sysctl> =
        record.hosts.iter().flat_map(|host| host.facts.sysctls.keys().copied()).collect();
    let sysctls = sysctls.into_iter().map(|sysctl| {
        let value =
            |facts: &HostFacts| facts.sysctls.get(&sysctl).cloned().unwrap_or_else(|| "unknown".into());
        (sysctl.name().to_owned(), counted(&value))
    });
    let yes_no = |is: Option<bool>| is.map_or("unknown", |is| if is { "yes" } else { "no" }).to_owned();
    let mut values = BTreeMap::from([
        ("kind".to_owned(), counted(&|facts| facts.place.kind.to_string())),
        ("virtual machine".to_owned(), counted(&|facts| yes_no(facts.place.virtual_machine))),
        ("kernel release".to_owned(), counted(&|facts| facts.kernel.clone())),
        ("kernels".to_owned(), format!("{} under {} host(s)", kernels.len(), record.hosts.len())),
        ("cpus".to_owned(), counted(&|facts| facts.cpus.to_string())),
        ("memory.max".to_owned(), counted(&|facts| or_none(facts.place.memory_max))),
        ("pids.max".to_owned(), counted(&|facts| or_none(facts.place.pids_max))),
        (
            "connection tracking".to_owned(),
            counted(&|facts| if facts.conntrack.is_some() { "active" } else { "inactive" }.to_owned()),
        ),
        ("networks".to_owned(), networks.into_iter().collect::<Vec<_>>().join(", ")),
    ]);
    values.extend(sysctls);
    values
}

/// What each host is that both runs have by name; of others `place` tells all.
fn host_values(record: &RunRecord, other: &RunRecord) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for host in record.hosts.iter().filter(|host| other.hosts.iter().any(|o| o.name == host.name)) {
        let facts = &host.facts;
        let mut put = |name: &str, value: String| values.insert(format!("{}: {name}", host.name), value);
        put("kernel", facts.kernel.clone());
        put("cpus", facts.cpus.to_string());
        put("open files per table", facts.open_files.per_table.to_string());
        put("fs.file-max", facts.open_files.system.to_string());
        put("addresses", facts.addresses.len().to_string());
        put("conntrack", facts.conntrack.map_or_else(|| "inactive".into(), |c| format!("at most {}", c.max)));
        for (sysctl, value) in &facts.sysctls {
            put(sysctl.name(), value.clone());
        }
    }
    values
}

fn flatten(value: &serde_json::Value, path: &str, into: &mut BTreeMap<String, String>) {
    match value {
        serde_json::Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(value, &path, into);
            }
        }
        serde_json::Value::String(text) => drop(into.insert(path.to_owned(), text.clone())),
        other => drop(into.insert(path.to_owned(), other.to_string())),
    }
}
