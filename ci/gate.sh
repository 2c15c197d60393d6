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
passed=0

gate() {
    local name="$1" began=$SECONDS
    shift
    echo "== $name: $*"
    "$@"
    echo "== $name: ok in $((SECONDS - began)) s"
    passed=$((passed + 1))
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

# kind, where this machine can have a container engine. An engine that runs is used as it is; else one is installed from the
# distribution, started with a folder of its own, and stopped again with everything in it.
air_gap="$CARGO_TARGET_DIR/debug/air-gap"
engine="$cache/ci-engine"
own_engine=""

stop_engine() {
    [ -z "$own_engine" ] || "$air_gap" engine stop --purge --folder "$engine" || true
}
trap stop_engine EXIT

install() {
    [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || return 1
    local quiet=(env DEBIAN_FRONTEND=noninteractive apt-get -qq)
    "${quiet[@]}" install -y --no-install-recommends "$@" > /dev/null 2>&1 && return 0
    "${quiet[@]}" update > /dev/null 2>&1 && "${quiet[@]}" install -y --no-install-recommends "$@" > /dev/null 2>&1
}

# Says in one sentence why there can be no kind here; nothing when there can.
why_no_kind() {
    [ -n "${CONFORMANCE_GATE_KIND:-}" ] || { echo "not yet part of every gate: set CONFORMANCE_GATE_KIND=1 to make the images and run it"; return; }
    command -v debootstrap > /dev/null || install debootstrap || { echo "debootstrap is not here and cannot be installed"; return; }
    if docker info > /dev/null 2>&1; then
        return
    fi
    command -v docker > /dev/null && command -v dockerd > /dev/null || install docker.io iptables ||
        { echo "there is no Docker, and it cannot be installed"; return; }
    docker info > /dev/null 2>&1 && return
    "$air_gap" engine start --folder "$engine" > "$cache/ci-engine.address" 2> "$cache/ci-engine.said" ||
        { echo "an engine could not be started: $(tr '\n' ' ' < "$cache/ci-engine.said")"; return; }
}

began=$SECONDS
reason="$(why_no_kind)"
if [ -z "$reason" ]; then
    if ! docker info > /dev/null 2>&1; then
        DOCKER_HOST="$(cat "$cache/ci-engine.address")"
        export DOCKER_HOST
        own_engine=yes
    fi
    echo "== engine: $(docker info --format '{{.ServerVersion}}, {{.Driver}}, cgroups {{.CgroupVersion}}') after $((SECONDS - began)) s"
    gate images "$air_gap" build --out "$cache/ci-images"
    gate kind "$CARGO_TARGET_DIR/debug/registry-conformance" run --target kind --select @kind-smoke \
        --images "$cache/ci-images" --out "$CARGO_TARGET_DIR/kind-results"
else
    skip kind "$reason"
fi

for line in "${skipped[@]:-}"; do
    [ -z "$line" ] || echo "skipped $line"
done
echo "gates: $passed passed, 0 failed, ${#skipped[@]} skipped"
