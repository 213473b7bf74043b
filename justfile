# The recipes that people use are the jobs that .ci/run runs. `just` is a convenience: each is one command.

# The whole product in one process tree.
demo *args:
    cargo run --release --bin aro-demo -- {{args}}

# Every test of the workspace.
test:
    cargo test --workspace

# Random sequences through the chain program and its model, 100 worlds of 1,000 steps; `seed` names the first.
long-program seed="1" steps="100000":
    ARO_SEED={{seed}} ARO_STEPS={{steps}} cargo test -p aro-tests --test program random_sequences -- --nocapture

# What settling costs and how many vouchers an operator takes, as a table.
bench-settlement *args:
    cargo run --release --bin aro-bench -- settlement {{args}}

# Small contents a second; `bench latency`, `lossy`, `ranges`, `connections` and `import` measure the rest.
bench what="small" *args:
    cargo run --release --bin aro-bench -- {{what}} {{args}}

# What single steps cost: hashing, encoding, proving, frames, signatures, vouchers, the store.
micro-bench *args:
    cargo bench -p aro-proto -p node-server {{args}}
# How fast one content is fetched, proven and paid, beside bare quinn, as a table.
bench-throughput *args:
    cargo run --release --bin aro-bench -- throughput {{args}}

# Formatting and lints, as errors.
lint:
    cargo fmt --all --check
    cargo fmt --manifest-path settlement/program/Cargo.toml --check
    cargo clippy --workspace --all-targets -- -D warnings

# Licences, advisories, sources (needs cargo-deny and the network).
deny:
    cargo deny check

# Builds the chain program and writes the committed .so and its sha256.
program:
    settlement/program/build.sh

# Fails unless the committed .so equals a fresh build.
program-check:
    settlement/program/build.sh --check

# Rewrites drawings and vectors that tests compare with the code.
bless:
    ARO_UPDATE=1 cargo test -p aro-proto -p aro-tests

# All that a change must pass.
ci:
    .ci/run
