//! Makes the Rust of `tuplelab/v1/*.proto`, without protoc: protox is a compiler in Rust.

use prost::Message as _;
use std::{env, error::Error, fs, path::PathBuf};

const FILES: [&str; 3] = ["tuplelab/v1/common.proto", "tuplelab/v1/agent.proto", "tuplelab/v1/lab.proto"];

fn main() -> Result<(), Box<dyn Error>> {
    for file in FILES {
        println!("cargo::rerun-if-changed={file}");
    }
    let descriptors = protox::compile(FILES, ["."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    // Maps in the order of their keys, as in the domain: one message has one encoding.
    tonic_prost_build::configure().btree_map(".").compile_fds(descriptors)?;
    Ok(())
}
