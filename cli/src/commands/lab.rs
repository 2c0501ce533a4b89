//! `lab`: a lab on this machine that stays up until Ctrl-C, for runs from other terminals.

use crate::args::LabArgs;
use crate::exit::{Done, Exit, Stop};
use crate::local_lab::{LocalLab, Size};
use crate::output::{print, say};
use crate::place;
use std::time::Duration;
use tuplelab_lab::LabKind;

/// Hosts, and addresses of a host, that one machine's lab can have; the lab crate knows the exact sum.
const MOST: u64 = 4_000;

/// Keeps a lab up.
pub async fn lab(args: LabArgs) -> Done {
    let number = |name: &str, count: u64| match u32::try_from(count) {
        Ok(number) if (1..=MOST).contains(&count) => Ok(number),
        _ => Err(Stop::new(Exit::Usage, format!("--{name} {count} is out of range: write 1 to {MOST}"))),
    };
    let addresses = number("addresses", args.addresses.0)?;
    let size = Size {
        servers: number("servers", args.servers.0)?,
        clients: number("clients", args.clients.0)?,
        server_addresses: addresses,
        client_addresses: addresses,
    };
    let db = place::to_write(args.own.db.as_deref())?;
    let (mut lab, _) = LocalLab::start(args.own.lab.map(Into::into), size, &db, &args.own.lease).await?;
    lab.notes.iter().for_each(|note| say(&format!("note: {note}")));
    print(&described(&lab))?;
    let mut look = tokio::time::interval(Duration::from_millis(500));
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .map_err(|error| Stop::new(Exit::Failed, error.to_string()))?;
    let kept = loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break Ok(Exit::Held),
            _ = terminate.recv() => break Ok(Exit::Held),
            _ = look.tick() => match lab.all_alive() {
                Ok(None) => {}
                Ok(Some(words)) => say(&words),
                Err(stop) => break Err(stop),
            },
        }
    };
    let stopped = lab.stop().await;
    let exit = kept?;
    stopped.map(|()| exit)
}

fn described(lab: &LocalLab) -> String {
    let up = lab.up();
    let mut text = format!("export TUPLELAB_CONTROLLER={}\n", lab.address);
    for host in &up.hosts {
        let addresses: Vec<String> =
            host.v4.iter().map(ToString::to_string).chain(host.v6.iter().map(ToString::to_string)).collect();
        text += &format!("{:<12} pid {:<8} {}\n", host.name, host.pid, addresses.join(" "));
    }
    if up.kind == LabKind::Namespaces {
        let user = if up.rootless { " -U --preserve-credentials" } else { "" };
        text += &format!("enter a host: nsenter{user} -n -t PID COMMAND\n");
    }
    text + "Ctrl-C ends the lab"
}
