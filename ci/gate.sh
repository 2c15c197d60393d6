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
# distribution, started with a folder of its own, and stopped again with everything in it. CONFORMANCE_GATE_KIND=0 leaves
# it out. The programs in the images and the images themselves stay in the cache: minutes at first, seconds later.
air_gap="$CARGO_TARGET_DIR/debug/air-gap"
conformance="$CARGO_TARGET_DIR/debug/registry-conformance"
engine="$cache/ci-engine"
own_engine=""
# Room for the archives, the engine's copy of them, and what nodes unpack and write, in GB.
kind_room=8
# One fault per seam, and one that only a kubelet can show; `prove` on the embedded target is where all are caught.
kind_faults=(cluster-operator-columns-lie every-token-is-good build-info-has-no-commit claim-has-another-name
    storage-loses-writes gcs-loses-writes azure-loses-writes mirror-is-lost mirror-is-blocked-on-nodes)

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
    [ "${CONFORMANCE_GATE_KIND:-1}" != 0 ] || { echo "CONFORMANCE_GATE_KIND is 0"; return; }
    [ "$(uname -s)" = Linux ] || { echo "its images are made on Linux only"; return; }
    local room
    room="$(df --output=avail -BG "$cache" | tail -n 1 | tr -dc 0-9)"
    [ "$room" -ge "$kind_room" ] || { echo "$cache has $room GB left, and $kind_room are needed"; return; }
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

own_images() {
    docker image ls --quiet --no-trunc --filter reference='registry-conformance.local/*' | sort -u
}

# What runs have in the engine is theirs by its label, and gone when they are; so are the images that they brought.
nothing_left() {
    local left
    left="$(
        docker container ls --all --quiet --filter label=registry-conformance.run
        docker network ls --quiet --filter label=registry-conformance.run
        docker volume ls --quiet --filter label=registry-conformance.run
        comm -13 <(echo "$images_before") <(own_images)
    )"
    [ -z "$left" ] || { echo "left behind: $left" >&2; return 1; }
}

# What a cluster of somebody's holds: the names of all objects, what nodes say of themselves, their files and images.
held() {
    docker exec "$1-control-plane" sh -c '
        export KUBECONFIG=/etc/kubernetes/admin.conf
        for kind in $(kubectl api-resources --verbs=list --output=name | grep -Ev "^(events|leases|componentstatuses)"); do
            kubectl get "$kind" --all-namespaces --no-headers --output=custom-columns=:.kind,:.metadata.namespace,:.metadata.name
        done 2> /dev/null | sort
        kubectl get nodes,namespaces --output=jsonpath="{range .items[*]}{.metadata.labels}{.metadata.annotations}{.spec}{\"\n\"}{end}"
        find /etc/containers /etc/docker /etc/containerd /etc/registry-conformance /var/lib/registry-conformance 2> /dev/null | sort
        ctr --namespace k8s.io images ls --quiet | sort'
}

# A cluster that is there is used, and is as it was before: also by a run that is killed in the middle, and cleared after.
as_it_was() {
    local name=somebody image kubeconfig before killed
    kubeconfig="$results/somebody.kubeconfig"
    image="$(sed -n 's/.*\(registry-conformance.local\/kind-node:[a-z0-9.-]*\).*/\1/p' "$cache/ci-images/images.yaml" | head -n 1)"
    docker load --quiet --input "$(ls "$cache"/ci-images/kind-node-*.tar)"
    "$("$air_gap" kind)" create cluster --quiet --name "$name" --image "$image" --config kind-config/single.yaml \
        --kubeconfig "$kubeconfig" --wait 120s
    before="$(held "$name")"
    "$conformance" run --target kind --cluster "$name" --images "$cache/ci-images" --out "$results/guest" \
        --select 'STO-PVC-CLAIM-BLANK or features/storage/s3.feature:6'
    diff <(echo "$before") <(held "$name") || return 1
    "$conformance" run --target kind --cluster "$name" --images "$cache/ci-images" --out "$results/guest" \
        --select '@operator' > "$results/killed" 2>&1 &
    killed=$!
    until grep -q ' pass ' "$results/killed"; do kill -0 "$killed" && sleep 0.2 || return 1; done
    kill -9 "$killed"
    "$conformance" cluster gc
    diff <(echo "$before") <(held "$name") || return 1
    "$("$air_gap" kind)" delete cluster --quiet --name "$name" --kubeconfig "$kubeconfig"
    comm -13 <(echo "$images_before") <(own_images) | xargs --no-run-if-empty docker image rm --force > /dev/null
}

# Beside archives nothing is pulled, by whatever part of a run.
nothing_pulled() {
    local pulled
    pulled="$(docker events --since "$kind_began" --until "$(date +%s)" --filter type=image --filter event=pull --format '{{.Actor.ID}}')"
    [ -z "$pulled" ] || { echo "pulled: $pulled" >&2; return 1; }
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
    results="$CARGO_TARGET_DIR/kind-results"
    on_kind=(--target kind --select @kind-smoke --images "$cache/ci-images")
    rm -rf "$results"
    images_before="$(own_images)"
    kind_began="$(date +%s)"
    gate images "$air_gap" build --out "$cache/ci-images"
    gate kind "$conformance" run "${on_kind[@]}" --out "$results/kind"
    gate kind-faults "$conformance" prove "${on_kind[@]}" --collateral none "${kind_faults[@]/#/--fault=}" --out "$results/faults"
    gate embedded "$conformance" run --select @kind-smoke --out "$results/embedded"
    gate same-verdicts "$conformance" compare --all "$results/embedded/latest" "$results/kind/latest"
    gate as-it-was as_it_was
    gate nothing-left nothing_left
    gate nothing-pulled nothing_pulled
else
    skip kind "$reason"
fi

for line in "${skipped[@]:-}"; do
    [ -z "$line" ] || echo "skipped $line"
done
echo "gates: $passed passed, 0 failed, ${#skipped[@]} skipped"
