//! Tables for people.

use crate::commands::Row;
use crate::output::plain;
use comfy_table::{Cell, CellAlignment, ColumnConstraint, ContentArrangement, Table, Width};
use tuplelab_domain::report::{
    CaseReport, Cohort, Comparison, Difference, Ends, Report, ScriptReport, ShapeReport,
};
use tuplelab_domain::run::Outcome;
use tuplelab_domain::units::{bytes, thousands};
use tuplelab_domain::verdict::{ClaimId, Explanation, Point, Verdict};
use tuplelab_proto::v1::{AgentSummary, RunSummary};

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(comfy_table::presets::UTF8_BORDERS_ONLY)
        .set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(head.iter().copied());
    if !table.is_tty() {
        // A file or a pipe has no width of its own; longer lines are not read.
        table.set_width(160);
    }
    table
}

fn right(text: impl ToString) -> Cell {
    Cell::new(text.to_string()).set_alignment(CellAlignment::Right)
}

/// A moment in UTC, to the second.
pub fn moment(micros: i64) -> String {
    match jiff::Timestamp::from_microsecond(micros) {
        Ok(moment) => moment.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => "unknown".into(),
    }
}

fn both<T: Copy>(ends: &Ends<T>, print: impl Fn(T) -> String) -> String {
    let (client, server) = (print(ends.client), print(ends.server));
    if client == server { client } else { format!("{client} / {server}") }
}

fn cohort(cohort: &Cohort) -> String {
    format!("{} x {} x {}", cohort.hosts, cohort.addresses, cohort.ports)
}

fn failed(case: &CaseReport) -> String {
    if case.failed.is_empty() {
        return "0".into();
    }
    case.failed
        .iter()
        .map(|(failure, count)| format!("{failure}: {}", thousands(count)))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A whole run.
pub fn report(report: &Report) -> String {
    let mut text = format!("{}\n", plain(&report.question));
    text +=
        &format!("run {} by {}, {}\n", report.run, plain(&report.submitter), moment(report.submitted_micros));
    let mut cases = table(&[
        "case",
        "clients",
        "servers",
        "predicted",
        "established",
        "kernel",
        "digests",
        "failed",
        "rate/s",
        "bound by",
        "next",
    ]);
    for case in &report.cases {
        let trial = if case.trial > 1 { format!(" ({})", case.trial) } else { String::new() };
        let absent = || "-".to_owned();
        cases.add_row(vec![
            Cell::new(format!("{}{trial}", plain(&case.name))),
            Cell::new(cohort(&case.clients)),
            Cell::new(cohort(&case.servers)),
            right(thousands(case.predicted)),
            right(both(&case.established, thousands)),
            right(both(&case.kernel, |count| count.map_or_else(absent, thousands))),
            Cell::new(match case.digests_equal {
                Some(true) => "equal",
                Some(false) => "DIFFER",
                None => "-",
            }),
            right(failed(case)),
            right(case.rate_per_second.map_or_else(absent, |rate| thousands(rate as u64))),
            Cell::new(case.bound_by.name()),
            Cell::new(case.next_bound.map_or("-", |limit| limit.name())),
        ]);
    }
    if !report.cases.is_empty() {
        text += &format!("{cases}\n");
        text += "clients, servers: hosts x addresses x ports; established: flows on which the other end's application answered; kernel: ESTABLISHED sockets by sock_diag\n\
                 (client / server where they differ); digests: whether both kernels name the same four-tuples.\n";
    }
    text += &connect_times(report);
    text += &costs(report);
    report.scripts.iter().for_each(|script| text += &steps(script));
    for case in &report.cases {
        if !case.answered || case.accept != "all" {
            let counts = if case.answered { "it is answered" } else { "its handshake is over" };
            text += &format!(
                "{}: servers accept: {}; a flow is established once {counts}\n",
                plain(&case.name),
                plain(&case.accept)
            );
        }
        text += &timing(case);
        for line in case.shape.iter().flat_map(ShapeReport::lines) {
            text += &format!("{}: {}\n", plain(&case.name), plain(&line));
        }
        for (refusal, count) in &case.beyond {
            text += &format!(
                "{}: {} connects more than there are four-tuples: {refusal}\n",
                plain(&case.name),
                thousands(*count)
            );
        }
        for gap in &case.gaps {
            text += &format!("{}: MISSING: {}\n", plain(&case.name), plain(gap));
        }
    }
    match &report.outcome {
        Some(Outcome::Completed) => {}
        Some(outcome) => text += &format!("outcome: {}\n", plain(&outcome.to_string())),
        None => text += &format!("not finished: {}\n", report.phase),
    }
    if report.late > 0 {
        let late = thousands(report.late);
        text += &format!("{late} messages of agents came when it was over: kept apart, in no number above\n");
    }
    text + &verdicts(&report.verdicts)
}

/// What was found, each with the points behind it.
pub fn verdicts(verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for verdict in verdicts {
        text += &format!(
            "{:<12} {}: {}\n",
            verdict.verdict.name(),
            plain(&verdict.subject),
            plain(&verdict.because)
        );
        text += &points(&verdict.points);
    }
    text
}

/// A script's steps with their answers.
fn steps(script: &ScriptReport) -> String {
    let trial = if script.trial > 1 { format!(" ({})", script.trial) } else { String::new() };
    let mut text = format!("{}{trial}\n", plain(&script.name));
    for gap in &script.gaps {
        text += &format!("  MISSING: {}\n", plain(gap));
    }
    let mut rows = table(&["", "host", "call", "answer", "label"]);
    for step in &script.steps {
        let details = step.answer.details.iter().filter(|(name, _)| !QUIET.contains(&name.as_str()));
        let details: Vec<String> =
            details.map(|(name, value)| detail(name, value)).filter(|text| !text.is_empty()).collect();
        let value = step.answer.value.map(|value| format!(" {value}")).unwrap_or_default();
        rows.add_row(vec![
            right(step.step + 1),
            Cell::new(plain(step.agent.as_str())),
            Cell::new(plain(&step.text)),
            Cell::new(plain(&format!("{}{value}  {}", step.answer.outcome, details.join(" ")))),
            Cell::new(step.label.as_deref().map(plain).unwrap_or_default()),
        ]);
    }
    if !script.steps.is_empty() {
        text += &format!("{rows}\n");
    }
    text
}

/// Details that only a program wants to read.
const QUIET: [&str; 1] = ["micros"];

/// A detail in a table: a list is cut where it is long, `--json` has it whole; a sentence is not, its end
/// may be the remedy. What is 0 is left out.
fn detail(name: &str, value: &str) -> String {
    if value == "0" {
        return String::new();
    }
    let most = if value.contains(' ') { usize::MAX } else { 48 };
    let short: String = value.chars().take(most).collect();
    let dots = if short.len() < value.len() { "..." } else { "" };
    format!("{name}={short}{dots}")
}

/// The claims with what was found of each; `given` is what a later `tuplelab show` needs to find it (` --db
/// FILE`).
pub fn board(rows: &[Row], given: &str) -> String {
    let mut board = table(&["claim", "verdict", "because", "evidence"]);
    for row in rows {
        board.add_row(vec![
            Cell::new(format!("{}: {}", row.claim, row.statement)),
            Cell::new(row.verdict.name()),
            Cell::new(plain(&row.because)),
            Cell::new(format!("{}\ntuplelab show {}{given}", row.evidence.plan, short(&row.evidence.run))),
        ]);
    }
    for (column, share) in [(0, 24), (1, 12), (2, 40), (3, 24)] {
        if let Some(column) = board.column_mut(column) {
            column.set_constraint(ColumnConstraint::UpperBoundary(Width::Percentage(share)));
        }
    }
    format!(
        "{board}\ntuplelab claims --explain C1{given}: how it works, what was measured, what would change the verdict, where to read on\n"
    )
}

/// The end of an id tells a run from all others: the front of a UUID of version 7 is the time.
fn short(run: &str) -> &str {
    run.rsplit('-').next().unwrap_or(run)
}

/// What there is to know of one claim.
pub fn explanation(
    claim: ClaimId,
    explained: &Explanation,
    plan: &str,
    last: Option<&Row>,
    given: &str,
) -> String {
    let mut text = format!("{claim}: {}\n", claim.statement());
    let mut part = |title: &str, body: &str| {
        text += &format!("\n{title}\n");
        for line in textwrap::wrap(body, 100) {
            text += &format!("  {line}\n");
        }
    };
    part("how it works", explained.mechanism);
    part(&format!("how it is tried ({plan})"), explained.experiment);
    part("what would change the verdict", explained.changes);
    text += "\nwhere to read on\n";
    explained.reading.iter().for_each(|place| text += &format!("  {place}\n"));
    match last {
        None => text += &format!("\nnot tried here yet: tuplelab claims {claim}{given}\n"),
        Some(row) => {
            text += &format!("\nlast found (tuplelab show {}{given})\n", short(&row.evidence.run));
            for line in textwrap::wrap(&format!("{}: {}", row.verdict.name(), plain(&row.because)), 100) {
                text += &format!("  {line}\n");
            }
            text += &points(&row.evidence.points);
        }
    }
    text
}

/// What each line of a claim's experiment showed.
fn points(points: &[Point]) -> String {
    if points.is_empty() {
        return String::new();
    }
    let mut rows = table(&["says", "what", "measured", "where"]);
    for point in points {
        rows.add_row(vec![
            Cell::new(point.bearing.name()),
            Cell::new(plain(&point.what)),
            Cell::new(plain(&point.measured)),
            Cell::new(plain(&point.evidence)),
        ]);
    }
    format!("{rows}\n")
}

/// How long connects took.
fn connect_times(report: &Report) -> String {
    let mut rows = table(&["connect time, us", "connects", "p50", "p90", "p99", "p99.9", "max"]);
    for case in &report.cases {
        let Some(times) = &case.connect else { continue };
        let numbers = [
            times.count,
            times.p50_micros,
            times.p90_micros,
            times.p99_micros,
            times.p999_micros,
            times.max_micros,
        ];
        let numbers = numbers.map(|number| right(thousands(number)));
        rows.add_row([Cell::new(plain(&case.name))].into_iter().chain(numbers));
    }
    if rows.is_empty() { String::new() } else { format!("{rows}\n") }
}

/// Whether connects began at their rate, and together; and how their times grew as the client filled up.
fn timing(case: &CaseReport) -> String {
    let (name, mut text) = (plain(&case.name), String::new());
    if let Some(times) = case.connect.as_ref().filter(|times| times.by_occupancy.len() > 1) {
        let parts = times.by_occupancy.iter().map(|at| {
            format!("{} %: {} / {}", at.from_percent, thousands(at.p50_micros), thousands(at.p99_micros))
        });
        let parts = parts.collect::<Vec<_>>().join(", ");
        text += &format!("{name}: connect p50 / p99, us, by the share held when it began, from {parts}\n");
    }
    if let Some(ramp) = &case.ramp {
        text += &format!(
            "{name}: ramp: asked {}/s, worst full second {} ({:.1} %), late {}\n",
            thousands(ramp.asked_per_second),
            thousands(ramp.worst_per_second),
            ramp.ramp_error_ppm as f64 / 1e4,
            thousands(ramp.late)
        );
        if ramp.seconds_seen < ramp.seconds {
            let (seen, all) = (ramp.seconds_seen, ramp.seconds);
            text += &format!("{name}: ramp: {seen} of {all} full seconds were seen\n");
        }
    }
    if let Some(start) = case.start.as_ref().filter(|start| start.clients > 1) {
        text += &format!(
            "{name}: start: {} clients' first connects within {} us (to within {} us)\n",
            thousands(start.clients),
            thousands(start.start_skew_micros),
            thousands(start.start_skew_bound_micros)
        );
    }
    text
}

/// What one connection cost, both ends together.
fn costs(report: &Report) -> String {
    let mut rows = table(&["a connection, both ends", "CPU us", "user memory", "slab memory"]);
    for case in &report.cases {
        let absent = || "-".to_owned();
        rows.add_row(vec![
            Cell::new(plain(&case.name)),
            right(case.cpu_micros_per_connection.map_or_else(absent, |micros| format!("{micros:.1}"))),
            right(case.user_bytes_per_connection.map_or_else(absent, |count| format!("{count:.1} B"))),
            right(case.slab_bytes_per_connection.map_or_else(absent, bytes)),
        ]);
    }
    if report.cases.is_empty() { String::new() } else { format!("{rows}\n") }
}

/// A list of runs.
pub fn runs(runs: &[RunSummary]) -> String {
    if runs.is_empty() {
        return "no runs yet: try 'tuplelab demo'".into();
    }
    let mut rows = table(&["run", "submitted", "by", "question", "outcome", "most held", "verdicts"]);
    for run in runs {
        let found = run
            .findings
            .iter()
            .map(|(finding, count)| format!("{count} {finding}"))
            .collect::<Vec<_>>()
            .join(", ");
        rows.add_row(vec![
            Cell::new(&run.run),
            Cell::new(moment(run.submitted_micros)),
            Cell::new(plain(&run.submitter)),
            Cell::new(plain(&run.question)),
            Cell::new(if run.outcome.is_empty() { &run.phase } else { &run.outcome }),
            right(thousands(run.most_held)),
            Cell::new(found),
        ]);
    }
    rows.to_string()
}

/// A list of agents.
pub fn agents(agents: &[AgentSummary]) -> String {
    if agents.is_empty() {
        return "no agent is attached: start one with 'tuplelab agent --controller URL --name NAME'".into();
    }
    let mut rows = table(&[
        "agent",
        "state",
        "labels",
        "addresses",
        "kernel",
        "CPUs",
        "memory",
        "files a table",
        "version",
    ]);
    for agent in agents {
        let labels =
            agent.labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ");
        let facts = agent.facts.clone().unwrap_or_default();
        let addresses = match facts.addresses.as_slice() {
            [first, second, third, rest @ ..] if !rest.is_empty() => {
                format!("{first} {second} {third} and {} more", rest.len())
            }
            few => few.join(" "),
        };
        let files = facts.open_files.map_or(0, |files| files.per_table);
        rows.add_row(vec![
            Cell::new(plain(&agent.name)),
            Cell::new(&agent.state),
            Cell::new(plain(&labels)),
            Cell::new(addresses),
            Cell::new(plain(&facts.kernel)),
            right(facts.cpus),
            right(bytes(facts.memory_available as f64)),
            right(thousands(files)),
            Cell::new(plain(&agent.version)),
        ]);
    }
    rows.to_string()
}

/// Two runs side by side.
pub fn comparison(comparison: &Comparison) -> String {
    let mut text = format!("first  {}\nsecond {}\n", comparison.first, comparison.second);
    text += &differences("place", &comparison.place);
    let mut rows = table(&["case", "measure", "first", "second", "difference", "%"]);
    for case in &comparison.cases {
        for (index, (measure, first, second)) in case.measures.iter().enumerate() {
            let number = |value: &Option<f64>| value.map_or_else(|| "-".into(), amount);
            let (difference, share) = match (first, second) {
                (Some(a), Some(b)) => (
                    signed(b - a),
                    if *a == 0.0 { "-".into() } else { format!("{:+.1}", (b - a) / a * 100.0) },
                ),
                _ => ("-".into(), "-".into()),
            };
            rows.add_row(vec![
                Cell::new(if index == 0 { plain(&case.name) } else { String::new() }),
                Cell::new(measure),
                right(number(first)),
                right(number(second)),
                right(difference),
                right(share),
            ]);
        }
    }
    text += &format!("{rows}\n");
    for (case, side) in &comparison.unmatched {
        text += &format!("only in the {side} run: {}\n", plain(case));
    }
    text += &differences("plan", &comparison.plan);
    text += &differences("hosts", &comparison.hosts);
    text
}

fn differences(title: &str, differences: &[Difference]) -> String {
    if differences.is_empty() {
        return format!("{title}: no difference\n");
    }
    let value = |side: &Option<String>| side.as_deref().map_or_else(|| "-".into(), plain);
    let line = |difference: &Difference| {
        let Difference { name, first, second } = difference;
        format!("{title}: {}: {} -> {}\n", plain(name), value(first), value(second))
    };
    differences.iter().map(line).collect()
}

fn amount(value: f64) -> String {
    if value >= 1_000.0 || value.fract() == 0.0 {
        thousands(value.max(0.0) as u64)
    } else {
        format!("{value:.1}")
    }
}

fn signed(value: f64) -> String {
    let sign = if value < 0.0 { "-" } else { "+" };
    if value == 0.0 { "0".into() } else { format!("{sign}{}", amount(value.abs())) }
}
