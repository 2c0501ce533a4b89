//! Standard output and standard error: results on the one, everything else on the other.

use crate::exit::{Done, Exit, Stop};
use std::io::Write as _;

/// Text from elsewhere (names, questions, reasons) without what a terminal would obey.
pub fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control() || *c == '\n').collect()
}

/// Prints a result. A reader that has seen enough (`| head`) is no error.
pub fn print(text: &str) -> Done {
    let mut out = anstream::stdout().lock();
    match writeln!(out, "{}", text.trim_end()).and_then(|()| out.flush()) {
        Ok(()) => Ok(Exit::Held),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(Exit::Held),
        Err(error) => Err(Stop::new(Exit::Failed, format!("failed to write the result: {error}"))),
    }
}

/// Prints a result as JSON.
pub fn print_json(value: &impl serde::Serialize) -> Done {
    let text = serde_json::to_string_pretty(value)
        .map_err(|error| Stop::new(Exit::Failed, format!("failed to write JSON: {error}")))?;
    print(&text)
}

/// Says something beside the result.
pub fn say(text: &str) {
    let _ = writeln!(anstream::stderr(), "{}", plain(text));
}

/// Says why the program ends.
pub fn complain(text: &str) {
    let red = anstyle::Style::new().bold().fg_color(Some(anstyle::AnsiColor::Red.into()));
    let _ = writeln!(anstream::stderr(), "{red}error{red:#}: {}", text.trim_end());
}
