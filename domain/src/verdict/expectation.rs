//! Verdicts on the sentences of a plan.

use super::{Finding, Verdict, bound_by, flaw, name_of, verdict};
use crate::evidence::TrialEvidence;
use crate::plan::{AnswerIs, Expectation, Plan};
use crate::sample::Ramp;
use crate::schedule::Role;
use crate::script::Step;
use crate::units::{Ppm, Rate, Span, thousands};

/// What one trial says of an expectation.
enum Says {
    Held,
    Missed(String),
    Cannot(String),
    /// The expectation is not about this trial.
    Nothing,
}

/// Judges one expectation: one trial against it is a miss; failing that, one trial that cannot say
/// makes it inconclusive; only if all agree it is held.
pub(super) fn judge(
    expectation: &Expectation,
    plan: &Plan,
    trials: &[TrialEvidence],
    missing: Option<&str>,
) -> Verdict {
    let mut cannot = missing.map(str::to_owned);
    let mut held = 0u64;
    for trial in trials {
        match ask(expectation, plan, trial) {
            Says::Nothing => {}
            Says::Held => held += 1,
            Says::Missed(why) => {
                return verdict(Finding::Missed, format!("'{}': {why}", name_of(plan, trial)));
            }
            Says::Cannot(why) => cannot = cannot.or(Some(why)),
        }
    }
    match cannot {
        Some(why) => verdict(Finding::Inconclusive, why),
        None if held == 0 => verdict(Finding::Inconclusive, "no trial that it is about was run"),
        None => verdict(Finding::Held, reason(expectation, trials, held)),
    }
}

fn ask(expectation: &Expectation, plan: &Plan, trial: &TrialEvidence) -> Says {
    let case = plan.cases.get(trial.case as usize);
    let steps = case.map_or(&[][..], |case| &case.setup.steps);
    // A script opens no load, and a load answers no step.
    if steps.is_empty() == matches!(expectation, Expectation::Answer(_)) {
        return Says::Nothing;
    }
    // Where a case leaves the rate open there is none to be missed.
    let unpaced = case.is_some_and(|case| case.setup.load.rate == Rate::Unlimited);
    if unpaced && matches!(expectation, Expectation::RampError(_)) {
        return Says::Nothing;
    }
    match expectation {
        Expectation::Answer(asked) => answer(asked, plan, trial, steps),
        Expectation::EstablishedAsPredicted => counted(plan, trial, |count| {
            let predicted = trial.prediction.connections;
            (count == predicted).then_some(()).ok_or_else(|| format!("{} predicted", thousands(predicted)))
        }),
        Expectation::Established(least) => counted(plan, trial, |count| {
            (count >= *least).then_some(()).ok_or_else(|| format!("{} expected", thousands(*least)))
        }),
        Expectation::Failed(most) => match flaw(plan, trial) {
            Some(why) => Says::Cannot(why),
            None => {
                let (failed, begun) = (trial.failed(), trial.attempted());
                // Per million, rounded up: one failure too many must not round to none.
                let ppm = (u128::from(failed) * 1_000_000).div_ceil(u128::from(begun.max(1)));
                if begun == 0 {
                    Says::Cannot(format!("'{}': no flow was begun", name_of(plan, trial)))
                } else if ppm > u128::from(most.0) {
                    Says::Missed(format!(
                        "{} of {} flows failed ({ppm}ppm)",
                        thousands(failed),
                        thousands(begun)
                    ))
                } else {
                    Says::Held
                }
            }
        },
        Expectation::Rate(least) => match (flaw(plan, trial), trial.rate_per_second()) {
            (Some(why), _) => Says::Cannot(why),
            (None, None) => Says::Cannot(format!("'{}': no rate could be measured", name_of(plan, trial))),
            (None, Some(rate)) if rate < *least as f64 => {
                Says::Missed(format!("{}/s", thousands(rate as u64)))
            }
            (None, Some(_)) => Says::Held,
        },
        Expectation::ConnectP99(most) => within(*most, plan, trial),
        Expectation::RampError(most) => ramped(*most, plan, trial),
        Expectation::BoundBy(limit) => match flaw(plan, trial) {
            Some(why) => Says::Cannot(why),
            None => {
                let bound = bound_by(trial);
                if bound == *limit { Says::Held } else { Says::Missed(format!("bound by {bound}")) }
            }
        },
    }
}

/// Asks how long connects took.
fn within(most: Span, plan: &Plan, trial: &TrialEvidence) -> Says {
    let p99 = trial.connect_times().and_then(|times| times.all().quantile(0.99));
    match (flaw(plan, trial), p99) {
        (Some(why), _) => Says::Cannot(why),
        (None, None) => Says::Cannot(format!("'{}': no connect was timed", name_of(plan, trial))),
        (None, Some(p99)) if u128::from(p99) > most.0.as_micros() => {
            Says::Missed(format!("{} us", thousands(p99)))
        }
        (None, Some(_)) => Says::Held,
    }
}

/// Asks how well the plan's rate was met. One second that was too far off is a miss; that all were met
/// can be said only where all were seen.
fn ramped(most: Ppm, plan: &Plan, trial: &TrialEvidence) -> Says {
    if let Some(why) = flaw(plan, trial) {
        return Says::Cannot(why);
    }
    let name = name_of(plan, trial);
    match &trial.ramp {
        None => Says::Cannot(format!("'{name}': load.rate gave no full second to measure")),
        Some(ramp) if ramp.error_ppm > u64::from(most.0) => Says::Missed(format!(
            "{}/s asked, {} in the worst full second ({}ppm)",
            thousands(ramp.asked),
            thousands(ramp.worst),
            ramp.error_ppm
        )),
        Some(ramp) if ramp.seen < ramp.seconds => {
            Says::Cannot(format!("'{name}': {} of {} full seconds were seen", ramp.seen, ramp.seconds))
        }
        Some(_) => Says::Held,
    }
}

/// Asks about the count on which all witnesses agree.
fn counted(plan: &Plan, trial: &TrialEvidence, fits: impl Fn(u64) -> Result<(), String>) -> Says {
    if let Some(why) = flaw(plan, trial) {
        return Says::Cannot(why);
    }
    match trial.agreed() {
        Some(count) => match fits(count) {
            Ok(()) => Says::Held,
            Err(other) => Says::Missed(format!("{} connections held, {other}", thousands(count))),
        },
        // All were counted and they differ: what was certainly held is the smallest.
        None => {
            let kernel = |role| trial.kernel(role).map_or_else(|| "none".into(), thousands);
            let differ = format!(
                "the witnesses differ: established {} and {}, kernels {} and {} (client, server)",
                thousands(trial.established(Role::Client)),
                match trial.asks_servers() {
                    true => thousands(trial.established(Role::Server)),
                    false => "(no witness)".into(),
                },
                kernel(Role::Client),
                kernel(Role::Server),
            );
            match fits(trial.held()) {
                Ok(()) => Says::Cannot(format!("'{}': {differ}", name_of(plan, trial))),
                Err(other) => Says::Missed(format!("{differ}; {other}")),
            }
        }
    }
}

/// Asks what the steps of a label answered.
fn answer(asked: &AnswerIs, plan: &Plan, trial: &TrialEvidence, steps: &[Step]) -> Says {
    let is_asked = |label: &Option<String>| label.as_deref() == Some(asked.label.as_str());
    if !steps.iter().any(|step| is_asked(&step.label)) {
        return Says::Nothing;
    }
    let mut given = trial.observations.iter().filter(|observation| is_asked(&observation.label)).peekable();
    if given.peek().is_none() {
        let why = trial.gaps.first().map_or("it was not asked", String::as_str);
        return Says::Cannot(format!("'{}': {why}", name_of(plan, trial)));
    }
    for observation in given {
        if observation.answer.is_fault() && observation.answer.outcome != asked.is {
            let why =
                format!("step '{}' could not be tried: {}", observation.text, observation.answer.outcome);
            return Says::Cannot(format!("'{}': {why}", name_of(plan, trial)));
        }
        match asked.of(&observation.answer) {
            Some(is) if is == asked.is => {}
            Some(other) => return Says::Missed(format!("it is {other}")),
            None => {
                let parts: Vec<&str> = observation.answer.details.keys().map(String::as_str).collect();
                return Says::Cannot(format!(
                    "'{}': the answer of '{}' has no such part; it has {}",
                    name_of(plan, trial),
                    asked.label,
                    parts.join(", ")
                ));
            }
        }
    }
    Says::Held
}

/// Why it holds, in the `count` trials that it is about.
fn reason(expectation: &Expectation, trials: &[TrialEvidence], count: u64) -> String {
    match expectation {
        Expectation::EstablishedAsPredicted | Expectation::Established(_) => {
            let most = trials.iter().map(TrialEvidence::held).max().unwrap_or(0);
            format!(
                "in {count} of {count} trials, up to {} connections; both ends' kernels agree",
                thousands(most)
            )
        }
        Expectation::Failed(_) => {
            let failed: u64 = trials.iter().map(TrialEvidence::failed).sum();
            let begun: u64 = trials.iter().map(TrialEvidence::attempted).sum();
            format!("{} of {} flows failed", thousands(failed), thousands(begun))
        }
        Expectation::Rate(_) => {
            let least =
                trials.iter().filter_map(TrialEvidence::rate_per_second).fold(f64::INFINITY, f64::min);
            format!("the slowest of {count} trials reached {}/s", thousands(least as u64))
        }
        Expectation::ConnectP99(_) => {
            let p99s = trials.iter().filter_map(|trial| trial.connect_times()?.all().quantile(0.99));
            format!("at most {} us in {count} trials", thousands(p99s.max().unwrap_or(0)))
        }
        Expectation::RampError(_) => {
            let ramps: Vec<Ramp> = trials.iter().filter_map(|trial| trial.ramp).collect();
            let worst = ramps.iter().map(|ramp| ramp.error_ppm).max().unwrap_or(0);
            let seconds: u64 = ramps.iter().map(|ramp| ramp.seen).sum();
            format!("at most {worst}ppm off in each of {} full seconds", thousands(seconds))
        }
        Expectation::BoundBy(limit) => format!("{limit} bound in {count} of {count} trials"),
        Expectation::Answer(_) => "so answered each time".into(),
    }
}
