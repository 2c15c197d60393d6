#!/usr/bin/env bash
# Called by .ci/run; see there. Every gate prints its name and its time; the first that fails ends the run with 1.
set -euo pipefail
cd "$(dirname "$0")/.."

cache="${REGISTRY_CONFORMANCE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/registry-conformance}"
mkdir -p "$cache"
export CARGO_BUILD_JOBS="${CARGO_BUILD_JOBS:-2}"
export CARGO_INCREMENTAL=0
export CARGO_TERM_COLOR=never
# A clone is new every time; what was compiled for the last one is not thrown away.
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$cache/ci-target}"
skipped=()

gate() {
    local name="$1" began=$SECONDS
    shift
    echo "== $name: $*"
    "$@"
    echo "== $name: ok in $((SECONDS - began)) s"
}

skip() {
    echo "== $1: SKIPPED: $2"
    skipped+=("$1: $2")
}

gate fmt cargo fmt --all --check
gate clippy cargo clippy --workspace --all-targets --locked -- -D warnings

deny="$(command -v cargo-deny || true)"
[ -n "$deny" ] || { [ -x "$cache/ci-tools/bin/cargo-deny" ] && deny="$cache/ci-tools/bin/cargo-deny"; } || true
if [ -z "$deny" ] && cargo install cargo-deny --locked --quiet --root "$cache/ci-tools" --target-dir "$cache/ci-tools/target"; then
    rm -rf "$cache/ci-tools/target"
    deny="$cache/ci-tools/bin/cargo-deny"
fi
if [ -n "$deny" ]; then
    gate deny "$deny" check bans licenses sources
else
    skip deny "cargo-deny is not here and could not be installed"
fi

gate test cargo test --workspace --locked

# The binary that the tests were run with; `cargo run` would build it once more with other features.
gate catalog "$CARGO_TARGET_DIR/debug/registry-conformance" catalog check
# Tests that find a generated file out of date fail; this finds one that a test has rewritten.
gate generated git diff --exit-code -- fixtures requirements

for line in "${skipped[@]:-}"; do
    [ -z "$line" ] || echo "skipped $line"
done
