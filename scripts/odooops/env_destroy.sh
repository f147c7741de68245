#!/usr/bin/env bash
# env_destroy.sh RUN [MAX_WAIT] [SLEEP]
#
# Cancels a run, waits until the cancellation is confirmed and prints cancelled:RUN.
#
#   RUN       id of the run
#   MAX_WAIT  seconds to wait for the worker (default: 120)
#   SLEEP     seconds between two looks (default: 1)
#
# A run that is canceled already counts as canceled. Exit code 1 when the run ended otherwise
# before it could be stopped, or the worker has not confirmed in time; 3 when it had ended.
# Environment: ODOOOPS_URL, ODOOOPS_TOKEN, ODOOOPS_DB.

set -euo pipefail
# shellcheck source=scripts/odooops/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

reject_options "$@"
check_words 1 3 "$@"
run_id=$1 max_wait=${2:-120} sleep=${3:-1}
check_run "$run_id"
check_number MAX_WAIT "$max_wait"
check_number SLEEP "$sleep"
require_settings

run_status() {
    local run
    run=$(rpc get_run "$(json_object run_id:="$run_id")") || exit
    json_read status <<<"$run"
}

status=$(run_status)
if [[ $status != canceled ]]; then
    rpc cancel_run "$(json_object run_id:="$run_id" reason="Canceled by ${0##*/}.")" >/dev/null
fi
began=$SECONDS
while :; do
    status=$(run_status)
    case $status in
        canceled)
            printf 'cancelled:%s\n' "$run_id"
            exit 0
            ;;
        succeeded | failed)
            die "$EXIT_RUN" "run $run_id ended before it could be canceled: $status."
            ;;
    esac
    ((SECONDS - began < max_wait)) ||
        die "$EXIT_RUN" "the worker has not confirmed after $max_wait seconds that run $run_id is stopped."
    sleep "$sleep"
done
