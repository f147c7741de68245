#!/usr/bin/env bash
# run.sh TYPE [REF] [SHA]
#
# Queues a run of the project ODOOOPS_PROJECT and waits for its end: env_create.sh and
# env_wait_ready.sh in one.
#
#   TYPE  build, test, deploy, backup or upgrade
#   REF   branch or tag (default: the workflow's)
#   SHA   full commit id (default: the newest commit of REF)
#
# Environment: ODOOOPS_URL, ODOOOPS_TOKEN, ODOOOPS_PROJECT, ODOOOPS_DB, IDEMPOTENCY_KEY, WORKFLOW,
# MAX_WAIT (seconds, default 1200), SLEEP (seconds, default 5).

set -euo pipefail
# shellcheck source=scripts/odooops/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

reject_options "$@"
check_words 1 3 "$@"
is_workflow_type "$1" || usage_error "TYPE must be build, test, deploy, backup or upgrade, not '$1'"
[[ -z ${3:-} ]] || is_commit "$3" || usage_error "SHA must be a full commit id, not '$3'"
check_number MAX_WAIT "${MAX_WAIT:=1200}"
check_number SLEEP "${SLEEP:=5}"
[[ -n ${ODOOOPS_PROJECT:-} ]] || die "$EXIT_USAGE" "ODOOOPS_PROJECT must hold the slug of a project."
require_settings
run_id=$(queue_run "$ODOOOPS_PROJECT" "$1" "${2:-}" "${3:-}" "")
say "Run $run_id is queued."
wait_for_run "$run_id" "$MAX_WAIT" "$SLEEP"
