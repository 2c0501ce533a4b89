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

# The engine beside a bare loop of the same system calls, and a tokio program; churn, ramp, census.
bench:
    cargo bench -p tuplelab-agent --bench held -- --with-tokio
    cargo bench -p tuplelab-worker --bench churn
    cargo bench -p tuplelab-worker --bench ramp
    cargo bench -p tuplelab-agent --bench digest
