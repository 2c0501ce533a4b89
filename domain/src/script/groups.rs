//! Reads the steps that are about many sockets at once.

use super::action::{Action, Choice, endpoint, number, socket_name, span};
use super::endpoint::Endpoint;
use super::options::{self, Options};
use std::time::Duration;

pub(super) fn many<'a>(rest: &mut impl Iterator<Item = &'a str>, within: Duration) -> Result<Action, String> {
    let name = socket_name(rest.next())?;
    let (count, to) = connects("many", rest)?;
    let (mut choice, mut options) = (Choice::Connect, Options::default());
    while let Some(word) = rest.next() {
        if word == "bind" {
            let from = rest.next().ok_or("where to bind is missing, as in self:0 or self:2000-2999")?;
            let (address, ports) = from.rsplit_once(':').ok_or_else(|| format!("'{from}' has no port"))?;
            let address: Endpoint = format!("{address}:0").parse()?;
            choice = match ports {
                "0" => Choice::BindZero(address),
                ports => Choice::Explicit(
                    address,
                    ports.parse().map_err(|e: crate::ports::BadPorts| e.to_string())?,
                ),
            };
        } else if !options.take(word)? {
            return Err(format!("'{word}' is no option of a socket: write {}", options::ALL));
        }
    }
    Ok(Action::Many { name, count, to, choice, options, within })
}

/// `COUNT connect ENDPOINT`
fn connects<'a>(verb: &str, rest: &mut impl Iterator<Item = &'a str>) -> Result<(u32, Endpoint), String> {
    let count = number::<u32>(rest.next(), "count")?;
    // One descriptor table: what needs more is a load.
    if !(1..=19_000).contains(&count) {
        return Err(format!(
            "{count} sockets are too many (or too few) for one step: write 1 to 19000; more are a load"
        ));
    }
    if rest.next() != Some("connect") {
        return Err(format!("'{verb}' does one thing: {verb} NAME COUNT connect ENDPOINT"));
    }
    Ok((count, endpoint(rest.next())?))
}

pub(super) fn ring<'a>(rest: &mut impl Iterator<Item = &'a str>, within: Duration) -> Result<Action, String> {
    let name = socket_name(rest.next())?;
    let (count, to) = connects("ring", rest)?;
    let rings = match rest.next() {
        None => None,
        Some("rings") => match number::<u32>(rest.next(), "number of rings")? {
            // Each is a descriptor.
            rings @ 1..=1_000 => Some(rings),
            rings => return Err(format!("{rings} rings are too many (or too few): write 1 to 1000")),
        },
        Some(word) => return Err(format!("'{word}' is too much for 'ring'")),
    };
    Ok(Action::Ring { name, count, to, rings, within })
}

pub(super) fn take<'a>(rest: &mut impl Iterator<Item = &'a str>, within: Duration) -> Result<Action, String> {
    let (name, listener) = (socket_name(rest.next())?, socket_name(rest.next())?);
    let (mut count, mut every) = (None, None);
    while let Some(word) = rest.next() {
        match word {
            "count" => match number::<u32>(rest.next(), "count")? {
                0 => return Err("0 connections are too few to take".into()),
                most => count = Some(most),
            },
            "every" => every = Some(span(rest.next())?),
            word => return Err(format!("'{word}' is too much for 'take'")),
        }
    }
    Ok(Action::Take { name, listener, count, every, within })
}
