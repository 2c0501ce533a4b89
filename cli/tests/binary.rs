//! The binary starts. Cargo builds a program for its own package's tests only: this one is why
//! `cargo test --workspace` has the program that the tests in `e2e/` start.

use std::process::Command;

#[test]
fn the_program_says_its_version() {
    let said = Command::new(env!("CARGO_BIN_EXE_tuplelab")).arg("--version").output().expect("starts");
    assert!(said.status.success());
    assert_eq!(String::from_utf8_lossy(&said.stdout), concat!("tuplelab ", env!("CARGO_PKG_VERSION"), "\n"));
}
