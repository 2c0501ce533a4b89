//! `db`: a database is copied, or looked at as a whole.

use super::history::unusable;
use crate::args::DbCommand;
use crate::exit::{Done, Exit, Stop};
use crate::output::{print, print_json};
use crate::place;
use std::path::Path;
use tuplelab_controller::store::{Inspection, Store};
use tuplelab_domain::units::thousands;

/// Does what is asked.
pub async fn db(what: DbCommand) -> Done {
    match what {
        DbCommand::Backup { dest, source } => {
            let from = place::to_read(source.db.as_deref())?;
            let copied = Store::backup(&from, &dest).await.map_err(unusable)?;
            tell(&dest, &copied, source.json)
        }
        DbCommand::Check { file, json } => {
            let path = place::to_read(file.as_deref())?;
            let found = Store::inspect(&path).await.map_err(unusable)?;
            tell(&path, &found, json)?;
            match found.problems.as_slice() {
                [] => Ok(Exit::Held),
                [first, ..] => Err(Stop::new(
                    Exit::Store,
                    format!(
                        "{} is damaged ({first}): keep a copy of it and of its -wal file, then restore a backup or choose another --db",
                        path.display()
                    ),
                )),
            }
        }
    }
}

fn tell(path: &Path, found: &Inspection, json: bool) -> Done {
    if json {
        return print_json(&serde_json::json!({
            "file": path, "schema": found.schema, "rows": found.rows, "problems": found.problems,
        }));
    }
    let state = if found.problems.is_empty() { "ok" } else { "DAMAGED" };
    let mut text = format!("{}: {state}, schema {}\n", path.display(), found.schema);
    for (table, rows) in &found.rows {
        text += &format!("{:>14}  {table}\n", thousands(*rows));
    }
    for problem in &found.problems {
        text += &format!("problem: {problem}\n");
    }
    print(&text)
}
