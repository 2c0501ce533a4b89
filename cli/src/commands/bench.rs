//! stub
use crate::args::BenchArgs;
use crate::exit::Done;
pub async fn bench(_args: BenchArgs) -> Done {
    Ok(crate::exit::Exit::Held)
}
