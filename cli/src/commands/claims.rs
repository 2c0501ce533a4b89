//! `claims`: the shipped plan of each claim, one after the other in one lab, and a board of verdicts;
//! or what there is to know of one claim.

use super::history::{Kept, kept};
use super::run::conduct;
use crate::args::{ClaimsArgs, Source};
use crate::client::connect;
use crate::exit::{Done, Exit, Stop};
use crate::local_lab::{LocalLab, Size};
use crate::output::{print, print_json, say};
use crate::{place, table};
use serde::Serialize;
use tuplelab_domain::report::Report;
use tuplelab_domain::run::Outcome;
use tuplelab_domain::verdict::{ClaimId, Finding, Point, Verdict};
use tuplelab_proto::dial::Address;

/// How far back `--explain` looks for a run that tried the claim.
const RUNS_LOOKED_AT: u32 = 200;

/// The shipped plan of a claim: where it is, and its text.
fn plan(claim: ClaimId) -> (&'static str, &'static str) {
    macro_rules! shipped {
        ($name:literal) => {
            (concat!("plans/claims/", $name), include_str!(concat!("../../../plans/claims/", $name)))
        };
    }
    match claim {
        ClaimId::C1 => shipped!("c1-five-tuple.toml"),
        ClaimId::C2 => shipped!("c2-ports-of-both-ends.toml"),
        ClaimId::C3 => shipped!("c3-64k.toml"),
        ClaimId::C4 => shipped!("c4-multiply.toml"),
        ClaimId::C5 => shipped!("c5-descriptors.toml"),
        ClaimId::C6 => shipped!("c6-backlog.toml"),
        ClaimId::C7 => shipped!("c7-fails-after-handshake.toml"),
        ClaimId::C8 => shipped!("c8-passive-active.toml"),
    }
}

/// One claim on the board.
#[derive(Debug, Serialize)]
pub struct Row {
    /// The claim.
    pub claim: ClaimId,
    /// As people say it.
    pub statement: &'static str,
    /// What was found.
    pub verdict: Finding,
    /// One sentence with this run's numbers, or what is missing.
    pub because: String,
    /// Where that comes from.
    pub evidence: Evidence,
}

/// Where a claim's verdict comes from.
#[derive(Debug, Serialize)]
pub struct Evidence {
    /// The run that tried it: `tuplelab show RUN`.
    pub run: String,
    /// The plan that it carried out.
    pub plan: &'static str,
    /// What each line of the experiment showed.
    pub points: Vec<Point>,
}

/// The board, or one claim explained.
pub async fn claims(args: ClaimsArgs, controller: Option<Address>) -> Done {
    if let Some(claim) = args.explain {
        return explain(claim, Source { db: args.own.db, json: args.json }, controller).await;
    }
    let mut asked = if args.claims.is_empty() { ClaimId::ALL.to_vec() } else { args.claims.clone() };
    asked.sort();
    asked.dedup();
    let rows = match controller {
        Some(_) if args.own.lab.is_some() || args.own.db.is_some() => {
            return Err(Stop::new(
                Exit::Usage,
                "--lab and --db are for a lab on this machine; the controller has its own hosts and database",
            ));
        }
        Some(address) => {
            let mut client = connect(&address).await?;
            let mut rows = Vec::new();
            for claim in asked {
                rows.push(row(claim, conduct(&mut client, plan(claim).1, || Ok(None)).await?));
            }
            rows
        }
        None => in_own_lab(&asked, &args).await?,
    };
    match args.json {
        true => print_json(&serde_json::json!({ "claims": rows }))?,
        false => print(&table::board(&rows, &place::option(args.own.db.as_deref())))?,
    };
    let open = rows.iter().any(|row| row.verdict == Finding::Inconclusive);
    Ok(if open { Exit::Inconclusive } else { Exit::Held })
}

async fn in_own_lab(asked: &[ClaimId], args: &ClaimsArgs) -> Result<Vec<Row>, Stop> {
    let mut size = Size::NONE;
    for claim in asked {
        let (name, text) = plan(*claim);
        size = size.and(Size::of(&super::checked(text, name)?));
    }
    let db = place::to_write(args.own.db.as_deref())?;
    let (mut lab, mut client) =
        LocalLab::start(args.own.lab.map(Into::into), size, &db, &args.own.lease).await?;
    lab.notes.iter().for_each(|note| say(&format!("note: {note}")));
    let mut rows = Vec::new();
    let mut tried = Ok(());
    for claim in asked {
        say(&format!("{claim}: {}", claim.statement()));
        match conduct(&mut client, plan(*claim).1, || lab.all_alive()).await {
            Ok(report) => rows.push(row(*claim, report)),
            Err(stop) => {
                tried = Err(stop);
                break;
            }
        }
        // Whoever cancels one claim wants no other.
        if rows.last().is_some_and(|row| row.because == Outcome::Cancelled.to_string()) {
            tried = Err(Stop::new(Exit::Cancelled, "cancelled"));
            break;
        }
    }
    let stopped = lab.stop().await;
    tried?;
    stopped?;
    say(&format!("saved in {}", db.display()));
    Ok(rows)
}

/// What a run of its plan says of a claim. A run that did not fit, or did not come to its end, leaves it
/// open.
fn row(claim: ClaimId, report: Report) -> Row {
    let found = report.verdicts.into_iter().find(|verdict| verdict.subject == claim.to_string());
    let (verdict, because, points) = match (found, &report.outcome) {
        (Some(Verdict { verdict, because, points, .. }), Some(Outcome::Completed)) => {
            (verdict, because, points)
        }
        (_, Some(outcome)) => (Finding::Inconclusive, outcome.to_string(), Vec::new()),
        (_, None) => (Finding::Inconclusive, format!("the run is {}", report.phase), Vec::new()),
    };
    let evidence = Evidence { run: report.run, plan: plan(claim).0, points };
    Row { claim, statement: claim.statement(), verdict, because, evidence }
}

/// What there is to know of one claim, with what was last found of it here.
async fn explain(claim: ClaimId, source: Source, controller: Option<Address>) -> Done {
    let given = place::option(source.db.as_deref());
    let last = match kept(&source, controller).await {
        Ok(mut kept) => last(&mut kept, claim).await?,
        Err(stop) if stop.exit == Exit::NotFound => None,
        Err(stop) => return Err(stop),
    };
    let explanation = claim.explanation();
    if source.json {
        return print_json(&serde_json::json!({
            "claim": claim, "statement": claim.statement(), "plan": plan(claim).0,
            "explanation": explanation, "last": last,
        }));
    }
    print(&table::explanation(claim, &explanation, plan(claim).0, last.as_ref(), &given))
}

/// The latest run that judged the claim.
async fn last(kept: &mut Kept, claim: ClaimId) -> Result<Option<Row>, Stop> {
    for run in kept.runs(RUNS_LOOKED_AT).await? {
        if run.outcome != Outcome::Completed.name() {
            continue;
        }
        let report = kept.report(&run.run).await?;
        if report.verdicts.iter().any(|verdict| verdict.subject == claim.to_string()) {
            return Ok(Some(row(claim, report)));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tuplelab_domain::plan::{PlanFile, check};

    #[test]
    fn each_claim_has_a_plan_that_claims_it_and_leaves_out_what_cannot_be_tried() {
        for claim in ClaimId::ALL {
            let (name, text) = plan(claim);
            let plan = PlanFile::parse(text).and_then(check).unwrap_or_else(|e| panic!("{name}: {e:?}"));
            assert_eq!((plan.claims.as_slice(), plan.partial), (&[claim][..], true), "{name}");
            assert!(!plan.question.is_empty(), "{name}");
        }
    }
}
