//! Looking at a whole file: is it in order, and what is in it?

use super::error::Fault;
use super::{Store, StoreError};
use serde::Serialize;
use sqlx::{AssertSqlSafe, SqliteConnection, query_as, query_scalar};
use std::collections::BTreeMap;

/// What a look at a whole file found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The number of its latest schema change.
    pub schema: i64,
    /// How many rows each table has.
    pub rows: BTreeMap<String, u64>,
    /// What is wrong with it, in words; empty where it is in order.
    pub problems: Vec<String>,
}

/// How deep to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Depth {
    /// Every page.
    Pages,
    /// Every index entry, too.
    Whole,
}

/// Problems of one kind that are told.
const TOLD: usize = 20;

pub(super) async fn file(store: &Store, depth: Depth) -> Result<Inspection, StoreError> {
    let mut tx = store.named(store.readers.begin().await.map_err(Fault::from))?;
    store.named(look(&mut tx, depth).await)
}

async fn look(tx: &mut SqliteConnection, depth: Depth) -> Result<Inspection, Fault> {
    let check = match depth {
        Depth::Pages => "PRAGMA quick_check(20)",
        Depth::Whole => "PRAGMA integrity_check(20)",
    };
    let mut problems: Vec<String> = query_scalar(check).fetch_all(&mut *tx).await?;
    problems.retain(|problem| problem != "ok");
    // Table, row (none in a table without row ids), the table referred to, which of the references.
    let loose: Vec<(String, Option<i64>, String, i64)> =
        query_as("PRAGMA foreign_key_check").fetch_all(&mut *tx).await?;
    let mut counts: BTreeMap<(String, String), usize> = BTreeMap::new();
    loose.into_iter().for_each(|(from, _, to, _)| *counts.entry((from, to)).or_default() += 1);
    problems.extend(counts.into_iter().map(|((from, to), count)| {
        format!("{count} rows of table {from} belong to rows of {to} that are not there")
    }));
    problems.extend(histories(tx).await?);
    let schema = query_scalar("SELECT max(version) FROM _sqlx_migrations").fetch_one(&mut *tx).await?;
    Ok(Inspection { schema, rows: rows(tx).await?, problems })
}

/// What no constraint can say: a run's events are numbered without holes, and one that is over has some.
async fn histories(tx: &mut SqliteConnection) -> Result<Vec<String>, Fault> {
    let holes: Vec<String> = query_scalar(
        "SELECT run FROM run_event GROUP BY run HAVING min(seq) <> 0 OR max(seq) <> count(*) - 1
         UNION SELECT id FROM run WHERE state <> 'queued' AND NOT EXISTS (SELECT 1 FROM run_event WHERE run = id)
         LIMIT ?1",
    )
    .bind(TOLD as i64)
    .fetch_all(tx)
    .await?;
    Ok(holes.into_iter().map(|run| format!("events of run {run} are missing")).collect())
}

/// How many rows each table has.
pub(super) async fn rows(tx: &mut SqliteConnection) -> Result<BTreeMap<String, u64>, Fault> {
    let tables: Vec<String> = query_scalar(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    )
    .fetch_all(&mut *tx)
    .await?;
    let mut rows = BTreeMap::new();
    for table in tables {
        // A name cannot be bound. As SQL quotes names, whatever a file that is not ours calls its tables.
        let name = table.replace('"', "\"\"");
        let count = query_scalar::<_, i64>(AssertSqlSafe(format!("SELECT count(*) FROM \"{name}\"")));
        rows.insert(table, count.fetch_one(&mut *tx).await?.cast_unsigned());
    }
    Ok(rows)
}
