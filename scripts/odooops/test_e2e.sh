#!/usr/bin/env bash
# test_e2e.sh
#
# Goes through the life of runs on a live server with a live worker, by the scripts beside it:
# queues, waits, reads the log, downloads an artifact, cancels, and is refused. Runs that it
# leaves behind are canceled. The last line on stdout is "N passed, N failed".
#
# Environment: ODOOOPS_URL, ODOOOPS_TOKEN, ODOOOPS_DB, ODOOOPS_PROJECT (slug, default: demo),
# E2E_TYPE (type of the workflow, default: build), E2E_REF (default: main), MAX_WAIT (seconds
# for a run to end, default: 600).

set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/odooops/lib.sh
. "$HERE/lib.sh"

reject_options "$@"
check_words 0 0 "$@"
check_number MAX_WAIT "${MAX_WAIT:=600}"
require_settings
PROJECT=${ODOOOPS_PROJECT:-demo} TYPE=${E2E_TYPE:-build} REF=${E2E_REF:-main}
unset IDEMPOTENCY_KEY
WORK=$(mktemp -d "${TMPDIR:-/tmp}/odooops-e2e.XXXXXX")
RUNS=()
passed=0 failed=0

clean_up() {
    local run
    for run in ${RUNS[@]+"${RUNS[@]}"}; do
        "$HERE/env_destroy.sh" "$run" 30 >/dev/null 2>&1 || true
    done
    rm -rf -- "$WORK"
}
trap clean_up EXIT

check() { # SENTENCE COMMAND ...
    local sentence=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        say "ok      $sentence"
    else
        failed=$((failed + 1))
        say "not ok  $sentence"
        sed 's/^/        /' "$WORK/err" >&2
    fi
}

# Run a command; its stdout is left in OUT, its exit code in CODE.
run() {
    CODE=0
    OUT=$("$@" 2>"$WORK/err") || CODE=$?
}

ended_with() { ((CODE == $1)); }
is_run_id() { ((CODE == 0)) && [[ $OUT =~ ^[1-9][0-9]*$ ]]; }
printed() { ((CODE == 0)) && [[ $OUT == "$1" ]]; }
printed_something() { ((CODE == 0)) && [[ -n $OUT ]]; }
differ() { [[ -n $2 && $1 != "$2" ]]; }
complained_of() { ((CODE == $1)) && grep -q -- "$2" "$WORK/err"; }

run "$HERE/env_create.sh"
check "without arguments the usage is explained, exit code 2" ended_with 2
run "$HERE/env_create.sh" --nonsense
check "an unknown option is refused, exit code 2" complained_of 2 nonsense
run env ODOOOPS_URL= "$HERE/queue.sh"
check "without ODOOOPS_URL the exit code is 2" complained_of 2 ODOOOPS_URL
run env ODOOOPS_TOKEN=wrong "$HERE/queue.sh"
check "a wrong key is refused, exit code 3" complained_of 3 "API key"
run "$HERE/logs.sh" 2147483647
check "a run that does not exist is refused, exit code 3" ended_with 3
run "$HERE/env_create.sh" no-such-project-here "$TYPE" "$REF" -
check "a project that does not exist is refused, exit code 3" ended_with 3

key=$(random_key)
run env IDEMPOTENCY_KEY="$key" "$HERE/env_create.sh" "$PROJECT" "$TYPE" "$REF" - e2e
check "env_create.sh prints the id of the run" is_run_id
first=$OUT
if ! is_run_id; then
    printf '%s passed, %s failed\n' "$passed" "$failed"
    exit "$EXIT_RUN"
fi
RUNS+=("$first")
run env IDEMPOTENCY_KEY="$key" "$HERE/env_create.sh" "$PROJECT" "$TYPE" "$REF" - e2e
check "the same idempotency key gives the same run" printed "$first"

# Not before 2199, so that no worker is faster than the cancellation.
run rpc queue_run "$(json_object project="$PROJECT" workflow_type="$TYPE" git_ref="$REF" \
    available_at=2199-01-01T00:00:00Z ${WORKFLOW:+"workflow=$WORKFLOW"})"
second=$(json_read run_id <<<"$OUT")
check "another request gives another run" differ "$first" "$second"
RUNS+=("$second")
run "$HERE/queue.sh" "$PROJECT"
lists_second() { grep -q "^$second $PROJECT .*2199" <<<"$OUT"; }
check "queue.sh lists it with the reason why it waits" lists_second
run "$HERE/env_destroy.sh" "$second"
check "env_destroy.sh cancels and confirms" printed "cancelled:$second"
run "$HERE/env_destroy.sh" "$second"
check "canceling once more says the same" printed "cancelled:$second"
run "$HERE/env_wait_ready.sh" "$second" 10 1
check "waiting for a canceled run ends with exit code 1" complained_of 1 canceled

run "$HERE/env_wait_ready.sh" "$first" "$MAX_WAIT" 1
check "the run succeeds and its result is printed" printed_something
run "$HERE/logs.sh" "$first"
check "logs.sh prints its log" printed_something
run "$HERE/artifacts.sh" "$first"
check "artifacts.sh lists its artifacts" printed_something
artifacts=$OUT
read -r _id checksum size artifact <<<"$artifacts" || true
run "$HERE/artifacts.sh" "$first" "${artifact:-none}" "$WORK/artifact"
check "artifacts.sh downloads one of them" printed "$WORK/artifact"
has_checksum() { [[ -f $1 && $(sha256_of "$1") == "$2" && $(wc -c <"$1") -eq $3 ]]; }
check "its bytes are those that were recorded" has_checksum "$WORK/artifact" "$checksum" "${size:-0}"
run "$HERE/env_destroy.sh" "$first"
check "a run that has ended cannot be canceled, exit code 3" ended_with 3
run rpc get_run "$(json_object run_id:="$first")"
has_exit_code() { [[ $(json_read exit_code <<<"$OUT") == 0 ]]; }
check "its exit code is 0" has_exit_code
run rpc verify_events "$(json_object run_id:="$first")"
is_valid() { [[ $(json_read valid <<<"$OUT") == true ]]; }
check "the chain of its events holds" is_valid

printf '%s passed, %s failed\n' "$passed" "$failed"
((failed == 0)) || exit "$EXIT_RUN"
