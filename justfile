# Everything that CI does.
check:
    .ci/run

test:
    cargo test --workspace

demo:
    cargo run --release -- demo

fmt:
    cargo fmt --all

# Make .sqlx anew after a query or a migration has changed.
sqlx:
    .ci/sqlx-cache

# The engine beside a bare loop of the same system calls.
bench:
    cargo bench -p tuplelab-worker
