//! The program under test: found, and not older than its source.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

/// The `tuplelab` that the tests start: `TUPLELAB_BIN`, or the one beside this test's directory
/// (`target/debug/tuplelab` for `target/debug/deps/e2e-..`).
///
/// # Panics
/// There is none, or its source was changed since it was built.
pub fn tuplelab() -> PathBuf {
    static FOUND: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    match FOUND.get_or_init(find) {
        Ok(path) => path.clone(),
        Err(why) => panic!("{why}: run `cargo build -p tuplelab` first, or set TUPLELAB_BIN"),
    }
}

fn find() -> Result<PathBuf, String> {
    if let Some(path) = std::env::var_os("TUPLELAB_BIN") {
        let path = std::path::absolute(&path).map_err(|error| error.to_string())?;
        return if path.is_file() { Ok(path) } else { Err(format!("{} is no file", path.display())) };
    }
    let test = std::env::current_exe().map_err(|error| error.to_string())?;
    let profile = test.parent().and_then(Path::parent).ok_or("this test lies in no target directory")?;
    let program = profile.join("tuplelab");
    if !program.is_file() {
        return Err(format!("{} is missing", program.display()));
    }
    match newer_source(&program) {
        None => Ok(program),
        Some(source) => Err(format!("{} is older than {}", program.display(), source.display())),
    }
}

/// A source that was changed after the program was built, by cargo's list of them: one line,
/// `program: source source ..`, where a space inside a path is written `\ `.
fn newer_source(program: &Path) -> Option<PathBuf> {
    let list = std::fs::read_to_string(program.with_extension("d")).ok()?;
    let (_, sources) = list.split_once(": ")?;
    let built = changed(program)?;
    let sources = sources.replace("\\ ", "\0");
    let sources = sources.split_whitespace().map(|source| PathBuf::from(source.replace('\0', " ")));
    // A source that was deleted is not newer; cargo will say what it thinks of that.
    sources.into_iter().find(|source| changed(source).is_some_and(|changed| changed > built))
}

fn changed(path: &Path) -> Option<std::time::SystemTime> {
    path.metadata().and_then(|metadata| metadata.modified()).ok()
}
