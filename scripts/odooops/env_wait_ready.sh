#!/usr/bin/env bash
# env_wait_ready.sh RUN [MAX_WAIT] [SLEEP]
#
# Follows the log of a run on stderr until it ends. Prints the URL of what it made: of the
# environment, else of the first artifact, else the word success.
#
#   RUN       id of the run, as env_create.sh prints it
#   MAX_WAIT  seconds to wait (default: 1200)
#   SLEEP     seconds between two looks (default: 5)
#
# Exit code 1 when the run failed or was canceled, or has not ended in time.
# Environment: ODOOOPS_URL, ODOOOPS_TOKEN, ODOOOPS_DB.

set -euo pipefail
# shellcheck source=scripts/odooops/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

reject_options "$@"
check_words 1 3 "$@"
check_run "$1"
check_number MAX_WAIT "${2:-1200}"
check_number SLEEP "${3:-5}"
require_settings
wait_for_run "$1" "${2:-1200}" "${3:-5}"
