//! The plan file as the user typed it: syntax and keys are looked at here, values in `check`.
//!
//! Every case is a whole file of its own: the base with the case's values written over it. Because
//! the values keep their places in the source, a problem of a swept value points at the sweep.

use super::accept::Accept;
use super::activity::Activity;
use super::cases::{listed_cases, put};
use super::close::Close;
use super::depth::too_deep;
use super::given::Given;
use super::model::{AnswerIs, Connections, Family, Labels, SourcePorts};
use super::problem::PlanProblem;
use super::route::RouteText;
use super::schema::{Known, known_at};
use super::stage::Stage;
use crate::capacity::Limit;
use crate::ports::PortSet;
use crate::sysctl::Sysctl;
use crate::units::{Count, Ppm, Rate, Span};
use crate::verdict::ClaimId;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_json::json;
use std::collections::BTreeMap;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeArray, DeTable, DeValue, ValueDeserializer};

/// A longer file is refused unread.
const MOST_BYTES: usize = 256 << 10;

/// Every case is read as a file of its own: so many values are a second's work.
const MOST_VALUES: usize = 200_000;

/// The tables that a case may change.
pub(super) const SECTIONS: [&str; 3] = ["servers", "clients", "load"];

/// The text that a case may change.
pub(super) const STEPS: &str = "steps";

/// What a person typed: good syntax, known keys or the problems with them, values not yet checked.
#[derive(Debug)]
pub struct PlanFile {
    pub(super) source: String,
    pub(super) head: Head,
    pub(super) base: Body,
    pub(super) cases: Vec<CaseText>,
    pub(super) problems: Vec<PlanProblem>,
}

/// One case of the file: its own values, and the file as it reads with them.
#[derive(Debug)]
pub(super) struct CaseText {
    pub(super) name: Option<String>,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) body: Body,
}

/// What belongs to the plan as a whole.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Head {
    /// The question, in one sentence.
    #[schemars(with = "Option<String>")]
    pub(super) question: Given<String>,
    /// How often each case is repeated (default 1).
    #[schemars(with = "Option<u32>", range(min = 1, max = 1000))]
    pub(super) trials: Given<Count>,
    /// The common statements about TCP that this plan's evidence bears on: ["c3", "c4"].
    #[schemars(with = "Option<Vec<ClaimId>>")]
    pub(super) claims: Given<Vec<ClaimId>>,
    /// Whether cases that do not fit on the hosts are left out, with the reason, instead of the whole
    /// plan being refused (default false).
    #[schemars(with = "Option<bool>")]
    pub(super) partial: Given<bool>,
    /// Networks that a router joins, where hosts cannot know: client addresses in `from` reach server
    /// addresses in `to`.
    pub(super) route: Vec<RouteText>,
    /// Sentences that can be false, one key in each.
    pub(super) expect: Vec<ExpectText>,
}

/// What a case may change.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct Body {
    /// The passive openers.
    pub(super) servers: ServersText,
    /// The active openers.
    pub(super) clients: ClientsText,
    /// The load.
    pub(super) load: LoadText,
    /// A script in place of the load: one socket call, or question to a kernel, a line.
    #[schemars(with = "Option<String>")]
    pub(super) steps: Given<String>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct ServersText {
    /// How many hosts (default 1).
    #[schemars(with = "Option<Count>")]
    pub(super) hosts: Given<Count>,
    /// Addresses used on each host (default 1); more than one makes it multi-homed.
    #[schemars(with = "Option<Count>")]
    pub(super) addresses: Given<Count>,
    /// Ports listened on at each address (default "7000").
    #[schemars(with = "Option<PortText>")]
    pub(super) ports: Given<PortText>,
    /// The backlog given to listen() (default 4096).
    #[schemars(with = "Option<Count>")]
    pub(super) backlog: Given<Count>,
    /// Whether connection tracking is made active on each host for the case (default false).
    #[schemars(with = "Option<bool>")]
    pub(super) conntrack: Given<bool>,
    /// What is done with finished handshakes: "all" (default), "never", "close", "200/s", "until 500".
    #[schemars(with = "Option<Accept>")]
    pub(super) accept: Given<Accept>,
    /// Descriptors that one table of a host may hold (default: as many as the host allows).
    #[schemars(with = "Option<Count>")]
    pub(super) files: Given<Count>,
    /// Labels that a host must carry (default none).
    #[schemars(with = "Option<Labels>")]
    pub(super) labels: Given<Labels>,
    /// Kernel settings given to each host for the case, by their last name (default none).
    #[schemars(with = "Option<BTreeMap<Sysctl, SettingText>>")]
    pub(super) sysctls: Given<BTreeMap<String, toml::Value>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct ClientsText {
    /// How many hosts (default 1).
    #[schemars(with = "Option<Count>")]
    pub(super) hosts: Given<Count>,
    /// Source addresses used on each host (default 1).
    #[schemars(with = "Option<Count>")]
    pub(super) addresses: Given<Count>,
    /// "kernel", or the ports to bind (default "1024-65535").
    #[schemars(with = "Option<SourcePorts>")]
    pub(super) source_ports: Given<SourcePorts>,
    /// Whether connection tracking is made active on each host for the case (default false).
    #[schemars(with = "Option<bool>")]
    pub(super) conntrack: Given<bool>,
    /// Descriptors that one table of a host may hold (default: as many as the host allows).
    #[schemars(with = "Option<Count>")]
    pub(super) files: Given<Count>,
    /// Labels that a host must carry (default none).
    #[schemars(with = "Option<Labels>")]
    pub(super) labels: Given<Labels>,
    /// Kernel settings given to each host for the case, by their last name (default none).
    #[schemars(with = "Option<BTreeMap<Sysctl, SettingText>>")]
    pub(super) sysctls: Given<BTreeMap<String, toml::Value>>,
}

#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct LoadText {
    /// "ipv4" or "ipv6" (default "ipv4").
    #[schemars(with = "Option<Family>")]
    pub(super) family: Given<Family>,
    /// "max" or how many (default "max").
    #[schemars(with = "Option<Connections>")]
    pub(super) connections: Given<Connections>,
    /// How many more than the "max" of the model are tried, to see what becomes of them (default 0).
    #[schemars(with = "Option<Count>")]
    pub(super) excess: Given<Count>,
    /// Whether a connection counts once the server's application has answered (default true); else,
    /// once its handshake is over.
    #[schemars(with = "Option<bool>")]
    pub(super) answered: Given<bool>,
    /// "unlimited" or connects per second over all clients (default "unlimited").
    #[schemars(with = "Option<Rate>")]
    pub(super) rate: Given<Rate>,
    /// The ramp in place of a rate, stage by stage: "10k at 1k/s", "pause 5s", "rest at unlimited".
    #[schemars(with = "Option<Vec<Stage>>")]
    pub(super) stages: Given<Vec<Stage>>,
    /// Connections replaced per second over all clients while they are held: "1k/s" (default none).
    #[schemars(with = "Option<Rate>")]
    pub(super) churn: Given<Rate>,
    /// How a connection that is replaced is closed: "rst" (default) or "fin".
    #[schemars(with = "Option<Close>")]
    pub(super) close: Given<Close>,
    /// What each held connection sends, and gets back: "64B every 10s" (default nothing).
    #[schemars(with = "Option<Activity>")]
    pub(super) activity: Given<Activity>,
    /// How long the connections are held once the last is up (default "1s").
    #[schemars(with = "Option<Span>")]
    pub(super) hold: Given<Span>,
    /// How long one connection may take to be answered (default "10s").
    #[schemars(with = "Option<Span>")]
    pub(super) timeout: Given<Span>,
}

/// One `[[expect]]`: exactly one key.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default)]
pub(super) struct ExpectText {
    /// "predicted" (the capacity model's own number, exactly) or at least this many.
    #[schemars(with = "Option<SettingText>")]
    pub(super) established: Given<toml::Value>,
    /// At most this share of the flows begun: "0ppm".
    #[schemars(with = "Option<Ppm>")]
    pub(super) failed: Given<Ppm>,
    /// At least this rate of establishment: "10k/s".
    #[schemars(with = "Option<Rate>")]
    pub(super) rate: Given<Rate>,
    /// Within this time 99 of 100 connects are established: "10ms".
    #[schemars(with = "Option<Span>")]
    pub(super) connect_p99: Given<Span>,
    /// In no full second is load.rate missed by more than this share: "10000ppm".
    #[schemars(with = "Option<Ppm>")]
    pub(super) ramp_error: Given<Ppm>,
    /// The limit that binds: "four_tuples".
    #[schemars(with = "Option<Limit>")]
    pub(super) bound_by: Given<Limit>,
    /// What a step answers: "LABEL = ok", "LABEL = EADDRINUSE", "LABEL = 21", "LABEL:DETAIL = 21".
    #[schemars(with = "Option<AnswerIs>")]
    pub(super) answer: Given<AnswerIs>,
}

/// Ports as text or as one number.
#[derive(Debug)]
pub(super) struct PortText(pub(super) PortSet);

impl JsonSchema for PortText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        PortSet::schema_name()
    }
    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let mut schema = PortSet::json_schema(generator);
        schema.insert("type".into(), json!(["string", "integer"]));
        schema
    }
}

/// What may stand where a word or a number may.
struct SettingText;

impl JsonSchema for SettingText {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "SettingText".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        schemars::json_schema!({ "type": ["string", "integer"] })
    }
}

impl<'de> Deserialize<'de> for PortText {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => text,
            other => other.to_string(),
        };
        text.parse().map(Self).map_err(serde::de::Error::custom)
    }
}

impl PlanFile {
    /// Reads a plan file.
    ///
    /// # Errors
    /// All syntax errors that the parser can tell apart. Unknown keys and bad values are no errors
    /// here: `check` reports them together with everything else.
    pub fn parse(source: &str) -> Result<Self, Vec<PlanProblem>> {
        if source.len() > MOST_BYTES {
            let what = format!("the file has {} bytes; a plan has at most {MOST_BYTES}", source.len());
            return Err(vec![PlanProblem::of_file(what)]);
        }
        if let Some(at) = too_deep(source) {
            return Err(vec![PlanProblem::at(at..at + 1, "the file nests deeper here than a plan can")]);
        }
        let (table, errors) = DeTable::parse_recoverable(source);
        if !errors.is_empty() {
            return Err(errors.iter().map(syntax_problem).collect());
        }
        let whole = table.span();
        let mut top = table.into_inner();
        let mut problems = Vec::new();
        let sweep = top.remove("sweep");
        let list = top.remove("case");
        for value in top.values().chain(&sweep).chain(&list) {
            too_large(value, &mut problems);
        }
        if !problems.is_empty() {
            // The parser reads no table that holds such a number.
            return Err(problems);
        }
        unknown_keys(&top, "", &mut problems);
        wrong_forms(&mut top, &mut problems);
        let base: Body = read(&top, &whole, &mut problems);
        let head: Head = read(&top, &whole, &mut problems);
        let of_cases = |(key, _): &(Spanned<_>, _)| {
            let key = AsRef::<str>::as_ref(key.get_ref());
            SECTIONS.contains(&key) || key == STEPS
        };
        let sections: DeTable<'_> = top.into_iter().filter(of_cases).collect();
        let listed = listed_cases(list.as_ref(), sweep.as_ref(), &mut problems);
        let own =
            listed.iter().flat_map(|case| &case.values).map(|(_, value)| values_in(value)).sum::<usize>();
        let base_values = sections.values().map(values_in).sum::<usize>();
        if base_values.saturating_mul(listed.len()).saturating_add(own) > MOST_VALUES {
            let what = format!("the plan's cases have more than {MOST_VALUES} values between them");
            return Err(vec![PlanProblem::of_file(what).remedy("use fewer cases, labels or settings")]);
        }
        let mut cases = Vec::new();
        for own in listed {
            let mut file = sections.clone();
            let mut parameters = BTreeMap::new();
            for (key, value) in &own.values {
                // A script is no parameter: it would be the case's whole text.
                if key != STEPS {
                    parameters.insert(key.clone(), plain(value.get_ref()));
                }
                put(&mut file, key, Spanned::clone(value));
            }
            let body = read(&file, &whole, &mut problems);
            cases.push(CaseText { name: own.name, parameters, body });
        }
        Ok(Self { source: source.to_owned(), head, base, cases, problems })
    }
}

/// Adds a problem for every number that TOML's types cannot hold.
fn too_large(value: &Spanned<DeValue<'_>>, problems: &mut Vec<PlanProblem>) {
    match value.get_ref() {
        DeValue::Array(items) => items.iter().for_each(|item| too_large(item, problems)),
        DeValue::Table(table) => table.values().for_each(|value| too_large(value, problems)),
        DeValue::Integer(_) | DeValue::Float(_) => {
            if toml::Value::deserialize(ValueDeserializer::from(value.clone())).is_err() {
                let what = format!("{} is no number that can be used here", plain(value.get_ref()));
                problems.push(PlanProblem::at(value.span(), what));
            }
        }
        DeValue::String(_) | DeValue::Boolean(_) | DeValue::Datetime(_) => {}
    }
}

/// Takes out, with a problem, what is not of the form that its key has: what is left can be read.
fn wrong_forms(top: &mut DeTable<'_>, problems: &mut Vec<PlanProblem>) {
    for section in SECTIONS {
        if top.get(section).is_some_and(|value| !value.get_ref().is_table())
            && let Some(value) = top.remove(section)
        {
            problems
                .push(PlanProblem::at(value.span(), format!("'{section}' is a table: write [{section}]")));
        }
    }
    tables(top, "route", "from = \"10.2.0.0/16\" and to = \"10.1.0.0/16\"", problems);
    tables(top, "expect", "one sentence that can be false, as in established = \"predicted\"", problems);
}

/// Takes out of a list, with a problem, what is no table with keys.
fn tables(top: &mut DeTable<'_>, key: &'static str, holds: &str, problems: &mut Vec<PlanProblem>) {
    let Some(list) = top.remove(key) else { return };
    let place = list.span();
    let DeValue::Array(items) = list.into_inner() else {
        problems.push(PlanProblem::at(place, format!("'{key}' is a list: write [[{key}]]")));
        return;
    };
    let mut kept = DeArray::new();
    for item in items {
        match item.get_ref() {
            DeValue::Table(table) if table.is_empty() => problems.push(
                PlanProblem::at(item.span(), format!("this [[{key}]] says nothing"))
                    .remedy(format!("write {holds}")),
            ),
            DeValue::Table(_) => kept.push(item),
            _ => problems.push(PlanProblem::at(
                item.span(),
                format!("an entry of '{key}' is a table: write [[{key}]]"),
            )),
        }
    }
    top.insert(Spanned::new(place.clone(), key.into()), Spanned::new(place, DeValue::Array(kept)));
}

/// How many values there are at and below this one.
fn values_in(value: &Spanned<DeValue<'_>>) -> usize {
    1 + match value.get_ref() {
        DeValue::Array(items) => items.iter().map(values_in).sum(),
        DeValue::Table(table) => table.values().map(values_in).sum(),
        _ => 0,
    }
}

fn syntax_problem(error: &toml::de::Error) -> PlanProblem {
    PlanProblem {
        what: format!("the file is no TOML: {}", error.message().trim_end()),
        place: error.span(),
        remedy: None,
    }
}

fn read<T: for<'de> Deserialize<'de> + Default>(
    table: &DeTable<'_>,
    whole: &Range<usize>,
    problems: &mut Vec<PlanProblem>,
) -> T {
    let table = Spanned::new(whole.clone(), table.clone());
    T::deserialize(toml::de::Deserializer::from(table)).unwrap_or_else(|error| {
        let problem =
            PlanProblem { what: error.message().trim_end().to_owned(), place: error.span(), remedy: None };
        if !problems.contains(&problem) {
            problems.push(problem);
        }
        T::default()
    })
}

/// Adds a problem for every key that no part of a plan has, with the nearest that there is.
fn unknown_keys(table: &DeTable<'_>, path: &str, problems: &mut Vec<PlanProblem>) {
    let Known::Keys(known) = known_at(path) else { return };
    for (key, value) in table {
        let name = key.get_ref().as_ref();
        if !known.iter().any(|k| k == name) {
            problems.push(unknown(key.span(), name, &known));
            continue;
        }
        let below = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        match value.get_ref() {
            DeValue::Table(table) => unknown_keys(table, &below, problems),
            DeValue::Array(items) => {
                for item in items.iter() {
                    if let DeValue::Table(table) = item.get_ref() {
                        unknown_keys(table, &below, problems);
                    }
                }
            }
            _ => {}
        }
    }
}

pub(super) fn unknown(place: Range<usize>, name: &str, known: &[String]) -> PlanProblem {
    let nearest = known
        .iter()
        .filter(|k| name.len() <= 2 * k.len())
        .map(|k| (strsim::damerau_levenshtein(k, name), k))
        .min()
        .filter(|(distance, k)| *distance <= 1 + k.len() / 3);
    let problem = PlanProblem::at(place, format!("unknown key '{name}'"));
    match nearest {
        Some((_, k)) => problem.remedy(format!("did you mean '{k}'?")),
        None => problem.remedy(format!("known here: {}", known.join(", "))),
    }
}

/// A value as a table shows it: text without its quotes.
fn plain(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(text) => text.to_string(),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        DeValue::Datetime(time) => time.to_string(),
        DeValue::Array(items) => items.iter().map(|item| plain(item.get_ref())).collect::<Vec<_>>().join(" "),
        DeValue::Table(table) => table
            .iter()
            .map(|(k, v)| format!("{}={}", k.get_ref(), plain(v.get_ref())))
            .collect::<Vec<_>>()
            .join(" "),
    }
}
