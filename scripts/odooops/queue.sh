#!/usr/bin/env bash
# queue.sh [PROJECT]
#
# Lists the queued runs (id, project, number, type, time) with the reason why each still waits.
#
#   PROJECT  slug of a project (default: ODOOOPS_PROJECT, else all that the key may see)
#
# Environment: ODOOOPS_URL, ODOOOPS_TOKEN, ODOOOPS_PROJECT, ODOOOPS_DB.

set -euo pipefail
# shellcheck source=scripts/odooops/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

reject_options "$@"
check_words 0 1 "$@"
project=${1:-${ODOOOPS_PROJECT:-}}
require_settings
parameters=()
[[ -z $project ]] || parameters+=(project="$project")
cursor=
while :; do
    page=$(rpc list_queued_runs "$(json_object cursor="$cursor" ${parameters[@]+"${parameters[@]}"})")
    json_rows runs run_id project run_number workflow_type created_at waiting_for <<<"$page"
    cursor=$(json_read next_cursor <<<"$page")
    [[ -n $cursor ]] || break
done
