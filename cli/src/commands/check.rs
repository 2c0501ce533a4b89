//! `check`: what a plan asks for, and what the model says of it, before anything is run.

use crate::args::{CheckArgs, LeaseArgs};
use crate::client::{connect, refused};
use crate::exit::{Done, Exit, Stop};
use crate::local_lab::{Size, spec};
use crate::output::{plain, print, print_json};
use serde::Serialize;
use std::path::{Path, PathBuf};
use tuplelab_domain::capacity::Prediction;
use tuplelab_domain::capacity::facts::HostFacts;
use tuplelab_domain::environment::Kind;
use tuplelab_domain::plan::Plan;
use tuplelab_domain::schedule::{Host, Inventory, place};
use tuplelab_domain::units::thousands;
use tuplelab_lab::LabKind;
use tuplelab_proto::dial::Address;
use tuplelab_proto::v1::ListAgentsRequest;

#[derive(Serialize)]
struct CheckedCase<'a> {
    name: &'a str,
    parameters: &'a std::collections::BTreeMap<String, String>,
    setup: &'a tuplelab_domain::plan::Setup,
    /// What the model says of a load; a script has none.
    prediction: Option<&'a Prediction>,
    /// Why the case does not fit on the hosts and is left out, if it is.
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    left_out: &'a [String],
}

/// Checks a plan.
pub async fn check(args: CheckArgs, controller: Option<Address>) -> Done {
    let (text, name) = super::read_plan(&args.plan)?;
    let plan = super::checked(&text, &name)?;
    let (inventory, hosts) = inventory(args.inventory.as_deref(), controller, &plan).await?;
    let schedule = place(&plan, &inventory).map_err(|shortfalls| {
        let lines: Vec<String> = shortfalls.iter().map(ToString::to_string).collect();
        Stop::new(Exit::CapacityShort, format!("{name} does not fit on {hosts}:\n{}", lines.join("\n")))
    })?;
    if args.schedule {
        return print_json(&schedule);
    }
    let cases: Vec<CheckedCase> = plan
        .cases
        .iter()
        .zip(&schedule.cases)
        .map(|(case, placed)| CheckedCase {
            name: &case.name,
            parameters: &case.parameters,
            setup: &case.setup,
            prediction: (!placed.assignments.is_empty() && placed.steps.is_empty())
                .then_some(&placed.prediction),
            left_out: &placed.left_out,
        })
        .collect();
    if args.json {
        return print_json(&serde_json::json!({
            "plan": plan.digest, "question": plan.question, "trials": plan.trials, "hosts": hosts, "base": plan.base, "routes": plan.routes,
            "expect": plan.expectations.iter().map(ToString::to_string).collect::<Vec<_>>(), "claims": plan.claims, "cases": cases,
        }));
    }
    print(&shown(&plan, &cases, &hosts)?)
}

fn shown(plan: &Plan, cases: &[CheckedCase], hosts: &str) -> Result<String, Stop> {
    let base = toml::to_string(&plan.base).map_err(|error| Stop::new(Exit::Failed, error.to_string()))?;
    let mut text = format!("# {}\n# plan {}\n", plain(&plan.question), plan.digest);
    text += &format!("trials = {}\npartial = {}\n\n{base}\n", plan.trials, plan.partial);
    for route in &plan.routes {
        text += &format!("[[route]]\n{route}\n\n");
    }
    for expectation in &plan.expectations {
        text += &format!("[[expect]]\n{expectation}\n\n");
    }
    text += &format!("{} case(s), predicted for {hosts}:\n", cases.len());
    for case in cases {
        for why in case.left_out {
            text += &format!("\n{}: left out: {}\n", plain(case.name), plain(why));
        }
        let Some(prediction) = case.prediction else {
            if case.left_out.is_empty() {
                let count = case.setup.steps.len();
                text += &format!("\n{}: a script of {count} steps\n", plain(case.name));
            }
            continue;
        };
        text += &format!(
            "\n{}: {} connections, bound by {}\n",
            plain(case.name),
            thousands(prediction.connections),
            prediction.bound_by.name()
        );
        for (key, value) in case.parameters {
            text += &format!("  {key} = {}\n", plain(value));
        }
        let mut seen = Vec::new();
        for margin in &prediction.margins {
            // Of each limit the tightest place only; --json has them all.
            if !seen.contains(&margin.limit) {
                seen.push(margin.limit);
                text += &format!(
                    "  {:<13} allows {:>14}  ({}: {})\n",
                    margin.limit.name(),
                    thousands(margin.offered),
                    margin.place,
                    margin.limit.source()
                );
            }
        }
        text += &format!(
            "  {:<13} holds  {:>14}  waiting connections a listener\n",
            "accept_queue",
            thousands(prediction.accept_queue)
        );
    }
    Ok(text)
}

/// The hosts that a plan is predicted for, and what they are called.
pub async fn inventory(
    file: Option<&Path>,
    controller: Option<Address>,
    plan: &Plan,
) -> Result<(Inventory, String), Stop> {
    Ok(match (file, controller) {
        (Some(path), _) => (read_inventory(path)?, format!("the hosts in {}", path.display())),
        (None, Some(address)) => (ask_inventory(&address).await?, format!("the agents of {address}")),
        (None, None) => (lab_inventory(plan)?, "a lab on this machine".to_owned()),
    })
}

/// The hosts that a file names.
pub fn read_inventory(path: &Path) -> Result<Inventory, Stop> {
    let name = path.display();
    let text = std::fs::read_to_string(path).map_err(|error| {
        Stop::new(Exit::NotFound, format!("the inventory {name} cannot be read: {error}"))
    })?;
    serde_json::from_str(&text).map_err(|error| {
        Stop::new(
            Exit::PlanRefused,
            format!("{name} is no inventory: {error}; 'tuplelab agents --json' prints one"),
        )
    })
}

/// The agents of a controller as an inventory.
pub async fn ask_inventory(address: &Address) -> Result<Inventory, Stop> {
    let mut client = connect(address).await?;
    let agents = client.list_agents(ListAgentsRequest {}).await.map_err(refused)?.into_inner().agents;
    let unreadable =
        |error: String| Stop::new(Exit::Failed, format!("an agent's facts cannot be read: {error}"));
    let hosts = agents.into_iter().map(|agent| {
        Ok(Host {
            name: agent
                .name
                .parse()
                .map_err(|error: tuplelab_domain::id::BadName| unreadable(error.to_string()))?,
            labels: agent.labels,
            facts: HostFacts::try_from(agent.facts.unwrap_or_default())
                .map_err(|error| unreadable(error.to_string()))?,
        })
    });
    Ok(Inventory { hosts: hosts.collect::<Result<_, Stop>>()? })
}

/// The hosts that a lab made here for this plan would have: this kernel's limits, and the settings
/// that a new network namespace begins with.
fn lab_inventory(plan: &Plan) -> Result<Inventory, Stop> {
    let failed = |what: String| {
        Stop::new(
            Exit::CapacityShort,
            format!("a lab on this machine cannot have the hosts of this plan: {what}"),
        )
    };
    let loopback = tuplelab_agent::AddressSelector::Address(std::net::Ipv4Addr::LOCALHOST.into());
    let mut facts =
        tuplelab_agent::host_facts(&[loopback], None, true).map_err(|error| failed(error.to_string()))?;
    facts.sysctls.clear();
    facts.bound.clear();
    // A lab's hosts all reach each other.
    facts.networks.clear();
    facts.conntrack = None;
    facts.place.kind = Kind::Namespace;
    if let Some(conntrack) = &mut facts.conntrack_available {
        // Each host's agent has one connection there, to its controller.
        conntrack.count = 1;
    }
    let size = Size::of(plan);
    let program = PathBuf::from("/proc/self/exe");
    let addresses =
        spec(LabKind::Namespaces, size, Path::new("/"), Path::new("/"), &LeaseArgs::default(), program)
            .plan()
            .map_err(|error| failed(error.to_string()))?;
    let hosts = size.hosts().zip(&addresses.hosts).enumerate().map(|(index, ((name, role, _), own))| {
        let mut facts = facts.clone();
        facts.network_namespace = index as u64;
        facts.addresses =
            own.v4.iter().map(|ip| (*ip).into()).chain(own.v6.iter().map(|ip| (*ip).into())).collect();
        Ok(Host {
            name: name.parse().map_err(|error: tuplelab_domain::id::BadName| failed(error.to_string()))?,
            labels: [("role".to_owned(), role.to_owned())].into(),
            facts,
        })
    });
    Ok(Inventory { hosts: hosts.collect::<Result<_, Stop>>()? })
}
