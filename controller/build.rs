//! Sees to it that a new migration is compiled in, and makes `.ci/sqlx-cache` its database.
//!
//! The queries of `src/store` are checked against a database while that module compiles, so nothing
//! that depends on the module can make the database; this script runs before it.

use std::error::Error;
use std::str::FromStr as _;

const DATABASE: &str = "TUPLELAB_SCHEMA_DATABASE";

fn main() -> Result<(), Box<dyn Error>> {
    // A directory: a migration that is added changes it too.
    println!("cargo::rerun-if-changed=../migrations");
    println!("cargo::rerun-if-env-changed={DATABASE}");
    if let Ok(url) = std::env::var(DATABASE) {
        tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(make(&url))?;
    }
    Ok(())
}

async fn make(url: &str) -> Result<(), Box<dyn Error>> {
    use sqlx::{ConnectOptions as _, Connection as _};
    let options = sqlx::sqlite::SqliteConnectOptions::from_str(url)?.create_if_missing(true);
    let mut connection = options.connect().await?;
    sqlx::migrate::Migrator::new(std::path::Path::new("../migrations")).await?.run(&mut connection).await?;
    connection.close().await?;
    Ok(())
}
