//! Listens at every ADDRESS:PORT of its arguments, says so with one line, and ends with its standard
//! input: a stranger's socket on a host of a lab.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

fn main() -> std::io::Result<()> {
    let _listeners: Vec<TcpListener> =
        std::env::args().skip(1).map(TcpListener::bind).collect::<Result<_, _>>()?;
    writeln!(std::io::stdout(), "listening")?;
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
