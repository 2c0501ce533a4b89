//! The cases of a plan file: listed, or swept over.

use super::file::unknown;
use super::problem::PlanProblem;
use super::schema::{Known, case_keys, known_at};
use std::collections::BTreeSet;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// More cases than this in one plan are refused before any is made.
const MOST_CASES: usize = 1_000;

/// A case's own values before they are written over the base.
pub(super) struct OwnValues<'a, 'i> {
    pub(super) name: Option<String>,
    pub(super) values: Vec<(String, &'a Spanned<DeValue<'i>>)>,
}

/// A leaf of a table: its dotted key, where that stands, its value.
pub(super) type Leaf<'a, 'i> = (String, Range<usize>, &'a Spanned<DeValue<'i>>);

/// All leaves below a table, by their dotted key; both `"clients.hosts" = 2` and `clients.hosts = 2`
/// name the same one.
fn leaves<'a, 'i>(table: &'a DeTable<'i>, path: &str, found: &mut Vec<Leaf<'a, 'i>>) {
    for (key, value) in table {
        let path =
            if path.is_empty() { key.get_ref().to_string() } else { format!("{path}.{}", key.get_ref()) };
        match value.get_ref() {
            DeValue::Table(table) => leaves(table, &path, found),
            _ => found.push((path, key.span(), value)),
        }
    }
}

/// Adds a problem unless a case may set this key.
fn known_in_a_case(key: &str, place: &Range<usize>, problems: &mut Vec<PlanProblem>) -> bool {
    let known = case_keys();
    let (owner, below) = match key.match_indices('.').nth(1) {
        // The rest of the key is a label or a setting, dots and all.
        Some((dot, _)) => (key.get(..dot).unwrap_or(key), true),
        None => (key, false),
    };
    if known.iter().any(|k| k == owner) && (!below || matches!(known_at(owner), Known::Anything)) {
        return true;
    }
    problems.push(unknown(place.clone(), key, &known));
    false
}

/// Adds a problem for every key that is written twice, as `"clients.hosts"` and `clients.hosts` are.
fn written_twice(found: &[Leaf<'_, '_>], problems: &mut Vec<PlanProblem>) {
    let mut seen = BTreeSet::new();
    for (key, place, _) in found {
        if !seen.insert(key) {
            problems.push(PlanProblem::at(place.clone(), format!("'{key}' is given twice")));
        }
    }
}

/// The cases that the file lists or sweeps over; one with nothing of its own where it does neither.
pub(super) fn listed_cases<'a, 'i>(
    list: Option<&'a Spanned<DeValue<'i>>>,
    sweep: Option<&'a Spanned<DeValue<'i>>>,
    problems: &mut Vec<PlanProblem>,
) -> Vec<OwnValues<'a, 'i>> {
    match (list, sweep) {
        (Some(_), Some(sweep)) => {
            problems.push(
                PlanProblem::at(sweep.span(), "a plan has either [sweep] or [[case]], not both")
                    .remedy("write the points of the sweep as further [[case]] entries"),
            );
            Vec::new()
        }
        (Some(list), None) => cases_of_list(list, problems),
        (None, Some(sweep)) => cases_of_sweep(sweep, problems),
        (None, None) => vec![OwnValues { name: None, values: Vec::new() }],
    }
}

fn cases_of_list<'a, 'i>(
    list: &'a Spanned<DeValue<'i>>,
    problems: &mut Vec<PlanProblem>,
) -> Vec<OwnValues<'a, 'i>> {
    let mut cases = Vec::new();
    let DeValue::Array(items) = list.get_ref() else {
        problems.push(PlanProblem::at(list.span(), "'case' is a list: write [[case]]"));
        return cases;
    };
    if items.len() > MOST_CASES {
        problems.push(too_many_cases(list.span(), items.len()));
        return cases;
    }
    for item in items.iter() {
        let DeValue::Table(table) = item.get_ref() else {
            problems.push(PlanProblem::at(item.span(), "a case is a table: write [[case]]"));
            continue;
        };
        let mut found = Vec::new();
        leaves(table, "", &mut found);
        written_twice(&found, problems);
        let mut own = OwnValues { name: None, values: Vec::new() };
        for (key, place, value) in found {
            if key == "name" {
                match value.get_ref().as_str() {
                    Some(name)
                        if (1..=100).contains(&name.chars().count()) && !name.contains(char::is_control) =>
                    {
                        own.name = Some(name.to_owned())
                    }
                    _ => problems.push(PlanProblem::at(
                        value.span(),
                        "a case's name is a line of 1 to 100 characters",
                    )),
                }
            } else if known_in_a_case(&key, &place, problems) {
                own.values.push((key, value));
            }
        }
        cases.push(own);
    }
    cases
}

fn cases_of_sweep<'a, 'i>(
    sweep: &'a Spanned<DeValue<'i>>,
    problems: &mut Vec<PlanProblem>,
) -> Vec<OwnValues<'a, 'i>> {
    let mut cases = vec![OwnValues { name: None, values: Vec::new() }];
    let DeValue::Table(table) = sweep.get_ref() else {
        problems.push(PlanProblem::at(sweep.span(), "'sweep' is a table: write [sweep]"));
        return cases;
    };
    let mut found = Vec::new();
    leaves(table, "", &mut found);
    // In the order of the file: the first key changes slowest.
    found.sort_by_key(|(_, place, _)| place.start);
    written_twice(&found, problems);
    for (key, place, values) in found {
        if !known_in_a_case(&key, &place, problems) {
            continue;
        }
        let DeValue::Array(values) = values.get_ref() else {
            problems.push(
                PlanProblem::at(values.span(), format!("'{key}' is swept over a list of values"))
                    .remedy("write the values in brackets, as in [1, 2, 4]"),
            );
            continue;
        };
        if values.is_empty() {
            problems.push(
                PlanProblem::at(place, format!("'{key}' is swept over no value")).remedy("give at least one"),
            );
            continue;
        }
        let product = cases.len().saturating_mul(values.len());
        if product > MOST_CASES {
            problems.push(too_many_cases(sweep.span(), product));
            return Vec::new();
        }
        cases = cases
            .iter()
            .flat_map(|case| {
                values.iter().map(|value| {
                    let mut own = case.values.clone();
                    own.push((key.clone(), value));
                    OwnValues { name: None, values: own }
                })
            })
            .collect();
    }
    cases
}

fn too_many_cases(place: Range<usize>, count: usize) -> PlanProblem {
    PlanProblem::at(place, format!("the plan has {count} cases; at most {MOST_CASES} are run as one plan"))
        .remedy("split it into several plans")
}

/// Writes a value at the dotted key of a case (`section.key`, or `section.key.label`), making the
/// tables on the way.
pub(super) fn put<'i>(table: &mut DeTable<'i>, key: &str, value: Spanned<DeValue<'i>>) {
    let mut below = table;
    let mut parts = key.splitn(3, '.').peekable();
    while let Some(part) = parts.next() {
        let name = || Spanned::new(value.span(), part.to_owned().into());
        if parts.peek().is_none() {
            below.insert(name(), value);
            return;
        }
        if !below.get(part).is_some_and(|value| value.get_ref().is_table()) {
            below.insert(name(), Spanned::new(value.span(), DeValue::Table(DeTable::new())));
        }
        let Some(DeValue::Table(next)) = below.get_mut(part).map(Spanned::get_mut) else { return };
        below = next;
    }
}
