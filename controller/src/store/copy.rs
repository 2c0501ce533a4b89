//! A backup: a copy of the history, made while it is in use, that is checked before it has its name.
//!
//! The file alone is no copy: what was written last lies in its write-ahead log. And a copy that was
//! cut off can look sound to SQLite (an empty file does), so its rows are counted.

use super::error::Fault;
use super::inspect::{self, Depth, Inspection};
use super::open::{Draft, for_reading, unreachable_file};
use super::{Store, StoreError};
use sqlx::query;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

/// Copies that are tried: runs under way may replace rows while one is made, so that no single moment
/// has its counts.
const TRIES: u32 = 3;

pub(super) async fn backup(path: &Path, to: &Path) -> Result<Inspection, StoreError> {
    match std::fs::symlink_metadata(to) {
        Ok(_) => return Err(StoreError::Exists { path: to.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(unreachable_file(to, &error)),
    }
    let store = for_reading(path).await?;
    let mut copied = copy(&store, to).await;
    for _ in 1..TRIES {
        if matches!(copied, Err(StoreError::BadCopy { .. })) {
            copied = copy(&store, to).await;
        }
    }
    store.close().await;
    copied
}

async fn copy(store: &Store, to: &Path) -> Result<Inspection, StoreError> {
    let unwritable = |error: io::Error| unreachable_file(to, &error);
    let draft = Draft::of(to)?;
    let before = rows(store).await?;
    write(store, &draft.0, to).await?;
    let after = rows(store).await?;
    std::fs::File::open(&draft.0).and_then(|file| file.sync_all()).map_err(unwritable)?;

    let opened = for_reading(&draft.0).await?;
    let found = inspect::file(&opened, Depth::Pages).await;
    opened.close().await;
    let found = found?;
    if let Some(why) = difference(&found, &before, &after) {
        return Err(StoreError::BadCopy { path: to.to_owned(), why });
    }
    draft.publish(to)?;
    Ok(found)
}

async fn rows(store: &Store) -> Result<BTreeMap<String, u64>, StoreError> {
    let mut tx = store.named(store.readers.begin().await.map_err(Fault::from))?;
    store.named(inspect::rows(&mut tx).await)
}

/// One moment of the history as a file of its own, without a log.
async fn write(store: &Store, draft: &Path, to: &Path) -> Result<(), StoreError> {
    // Not in a transaction, which VACUUM refuses; it looks at one moment by itself.
    let mut connection = store.named(store.readers.acquire().await.map_err(Fault::from))?;
    let name = draft.to_str().ok_or_else(|| StoreError::Io {
        path: to.to_owned(),
        why: "SQLite takes only names that are UTF-8".into(),
    })?;
    match query("VACUUM INTO ?1").bind(name).execute(&mut *connection).await {
        Ok(_) => Ok(()),
        // It reads one file and writes another; which of them it means follows from what it says.
        Err(error) => Err(match Fault::from(error).at(store.path()) {
            StoreError::Full { .. } => StoreError::Full { path: to.to_owned() },
            StoreError::ReadOnly { .. } => StoreError::ReadOnly { path: to.to_owned() },
            other => other,
        }),
    }
}

/// What keeps the copy from being the history between these two moments.
fn difference(
    copy: &Inspection,
    before: &BTreeMap<String, u64>,
    after: &BTreeMap<String, u64>,
) -> Option<String> {
    if let Some(problem) = copy.problems.first() {
        return Some(problem.clone());
    }
    if !copy.rows.keys().eq(before.keys()) {
        return Some("it has other tables".into());
    }
    copy.rows.iter().find_map(|(table, count)| {
        let (earlier, later) = (before.get(table)?, after.get(table)?);
        let (least, most) = (earlier.min(later), earlier.max(later));
        (count < least || count > most)
            .then(|| format!("table {table} has {count} rows, not between {least} and {most}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(runs: u64) -> BTreeMap<String, u64> {
        [("run".to_owned(), runs), ("plan".to_owned(), 1)].into()
    }

    #[test]
    fn a_copy_has_the_rows_of_a_moment_while_it_was_made() {
        let copy = |runs| Inspection { schema: 1, rows: counts(runs), problems: Vec::new() };
        assert_eq!(difference(&copy(5), &counts(5), &counts(5)), None);
        assert_eq!(difference(&copy(6), &counts(5), &counts(7)), None);
        for (bad, words) in [(4, "4 rows, not between 5 and 7"), (8, "8 rows"), (0, "0 rows")] {
            let why = difference(&copy(bad), &counts(5), &counts(7)).expect("it is refused");
            assert!(why.contains(words), "{why}");
        }
        let empty = Inspection { schema: 1, rows: BTreeMap::new(), problems: Vec::new() };
        assert_eq!(difference(&empty, &counts(0), &counts(0)).as_deref(), Some("it has other tables"));
        let broken = Inspection { problems: vec!["page 3 is broken".into()], ..copy(5) };
        assert_eq!(difference(&broken, &counts(5), &counts(5)).as_deref(), Some("page 3 is broken"));
    }
}
