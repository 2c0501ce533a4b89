//! What the benches share: a namespace with real addresses, processes under orders, the bare loop.
//!
//! Every bench starts itself again as its processes: `--engine` is the engine, `--bare` the bare loop of
//! the same system calls. Both understand the same orders and answer with the same reports.
#![allow(dead_code, reason = "each bench uses its own part")]

pub mod bare;
pub mod held;
pub mod lab;
pub mod process;

/// The token's first eight bytes.
pub const TOKEN: u64 = 0x7475_706c_656c_6162;

/// Does the work of a process that a bench has started; whether this is one.
pub fn is_process() -> bool {
    match std::env::args().nth(1).as_deref() {
        Some("--engine") => {
            tuplelab_worker::main_loop(std::io::stdin(), std::io::stdout()).expect("the engine ends well");
            true
        }
        Some("--bare") => {
            bare::main(&bare::PLAIN);
            true
        }
        _ => false,
    }
}

/// The arguments of a bench: numbers, and values by flag.
pub struct Args {
    pub numbers: Vec<u64>,
    flags: Vec<(String, String)>,
}

impl Args {
    /// Each flag is followed by a value, except those in `bare`.
    pub fn parse(known: &[&str], bare: &[&str]) -> Self {
        let (mut numbers, mut flags) = (Vec::new(), Vec::new());
        let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
        while let Some(arg) = args.next() {
            if let Ok(number) = arg.parse() {
                numbers.push(number);
            } else if bare.contains(&arg.as_str()) {
                flags.push((arg, String::new()));
            } else if known.contains(&arg.as_str()) {
                let value = args.next().unwrap_or_else(|| panic!("{arg} needs a value"));
                flags.push((arg, value));
            } else {
                panic!("'{arg}' is not known: give numbers, {known:?} with a value, or {bare:?}");
            }
        }
        Self { numbers, flags }
    }

    /// Whether that flag is there.
    pub fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|(name, _)| name == flag)
    }

    /// The numbers of a list such as `16,64,256`; none where the flag is not there.
    pub fn list(&self, flag: &str) -> Vec<u64> {
        let values = self.flags.iter().filter(|(name, _)| name == flag);
        values.flat_map(|(_, value)| value.split(',').map(|n| n.parse().expect("numbers"))).collect()
    }

    /// One number.
    pub fn number(&self, flag: &str, default: u64) -> u64 {
        self.list(flag).first().copied().unwrap_or(default)
    }

    /// The numbers, or these.
    pub fn numbers_or(&self, default: &[u64]) -> Vec<u64> {
        if self.numbers.is_empty() { default.to_vec() } else { self.numbers.clone() }
    }
}

/// The middle one.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
