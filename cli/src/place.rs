//! Where results are kept when nobody says where.

use crate::exit::{Exit, Stop};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

const FILE: &str = "tuplelab.db";

fn data_home() -> Option<PathBuf> {
    let home = set("XDG_DATA_HOME").or_else(|| Some(set("HOME")?.join(".local/share")))?;
    Some(home.join("tuplelab"))
}

/// An environment variable that holds an absolute path.
fn set(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute())
}

/// Our folder among the temporary files.
fn of_mine() -> PathBuf {
    std::env::temp_dir().join(format!("tuplelab-{}", nix::unistd::Uid::current()))
}

/// Anybody may make a folder of that name among the temporary files: only our own one is used.
fn is_foreign(folder: &Path) -> bool {
    folder.starts_with(std::env::temp_dir())
        && std::fs::symlink_metadata(folder)
            .is_ok_and(|there| !there.is_dir() || there.uid() != nix::unistd::Uid::current().as_raw())
}

/// Where agents keep what is not acknowledged when nobody says where.
pub fn of_spools() -> PathBuf {
    let state = set("XDG_STATE_HOME").or_else(|| Some(set("HOME")?.join(".local/state")));
    let here = || Some(of_mine()).filter(|folder| !is_foreign(folder)).unwrap_or_else(|| ".".into());
    state.map_or_else(here, |state| state.join("tuplelab")).join("spool")
}

/// All places that a database may be in, in the order in which they are tried.
fn candidates() -> Vec<PathBuf> {
    data_home().into_iter().chain([PathBuf::from("."), of_mine()]).map(|folder| folder.join(FILE)).collect()
}

/// The database to write: the first place that can be written. A home that cannot be is no error.
pub fn to_write(given: Option<&Path>) -> Result<PathBuf, Stop> {
    if let Some(path) = given {
        return not_write_protected(path).map(|()| path.to_owned());
    }
    let places = candidates();
    places.iter().find(|path| is_writable(path)).cloned().ok_or_else(|| {
        let tried = places.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        Stop::new(
            Exit::Store,
            format!("no place to keep results: {tried} cannot be written; name one with --db FILE"),
        )
    })
}

/// The database to read: the first that is there.
pub fn to_read(given: Option<&Path>) -> Result<PathBuf, Stop> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    let places = candidates();
    places.iter().find(|path| path.is_file()).cloned().ok_or_else(|| {
        let tried = places.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", ");
        Stop::new(Exit::NotFound, format!("no results yet: none of {tried} is there; run 'tuplelab demo' first, or name a database with --db FILE"))
    })
}

/// A given file that is there and that this user may not write is refused before a lab is made: SQLite opens
/// it without complaint, and only the run's first event would fail, as if the controller were gone.
fn not_write_protected(path: &Path) -> Result<(), Stop> {
    use std::io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
    let refused = path.is_file()
        && std::fs::OpenOptions::new()
            .append(true)
            .open(path)
            .is_err_and(|error| matches!(error.kind(), PermissionDenied | ReadOnlyFilesystem));
    match refused {
        false => Ok(()),
        true => Err(Stop::new(
            Exit::Store,
            format!(
                "{} cannot be written: let this user write the file and its directory, or choose another --db",
                path.display()
            ),
        )),
    }
}

/// What a hint has to add to a command for it to find the same database.
pub fn option(given: Option<&Path>) -> String {
    given.map(|path| format!(" --db {}", path.display())).unwrap_or_default()
}

fn is_writable(path: &Path) -> bool {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if is_foreign(folder) {
        return false;
    }
    if path.exists() {
        return std::fs::OpenOptions::new().append(true).open(path).is_ok();
    }
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).is_ok()
        && nix::unistd::access(folder, nix::unistd::AccessFlags::W_OK).is_ok()
}
