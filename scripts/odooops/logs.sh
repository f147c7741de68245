#!/usr/bin/env bash
# logs.sh [-f] RUN
#
# Prints the log of a run: time (UTC), level and message of each line.
#
#   -f, --follow  go on until the run ends
#
# Environment: ODOOOPS_URL, ODOOOPS_TOKEN, ODOOOPS_DB.

set -euo pipefail
# shellcheck source=scripts/odooops/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

FOREVER=999999999
max_wait=
while (($#)); do
    case $1 in
        -f | --follow) max_wait=$FOREVER ;;
        *) break ;;
    esac
    shift
done
reject_options "$@"
check_words 1 1 "$@"
check_run "$1"
require_settings
follow_log "$1" "$max_wait" 2
