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

# 1,000 submissions of 20 clients over a kill -9 of the controller.
bench-queue:
    cargo bench -p tuplelab-controller --bench queue

# A fuzz target of fuzz/ (plan, wire, digest, histogram), for so many seconds; needs cargo-fuzz and nightly.
fuzz target seconds="60":
    cargo +nightly fuzz run {{target}} -- -max_total_time={{seconds}}
