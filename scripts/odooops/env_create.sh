#!/usr/bin/env bash
# env_create.sh PROJECT [TYPE] REF SHA [ENV]
#
# Queues a run of a project's workflow and prints the id of the run.
#
#   PROJECT  slug of the project
#   TYPE     build (default), test, deploy, backup or upgrade
#   REF      branch or tag
#   SHA      full commit id; - for the newest commit of REF
#   ENV      name of the environment, kept in the run's metadata (default: dev)
#
# Environment: ODOOOPS_URL, ODOOOPS_TOKEN, ODOOOPS_DB (when the server has several databases),
# IDEMPOTENCY_KEY (the same key gives the same run), WORKFLOW (name of the workflow, where the
# project has several of the type).

set -euo pipefail
# shellcheck source=scripts/odooops/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

is_commit_or_dash() { [[ $1 == - ]] || is_commit "$1"; }

reject_options "$@"
check_words 3 5 "$@"
project=$1
shift
type=build
# A branch may be called like a type: the place of the commit decides.
if (($# >= 3)) && is_workflow_type "$1" && is_commit_or_dash "$3"; then
    type=$1
    shift
fi
(($# <= 3)) || usage_error "TYPE must be build, test, deploy, backup or upgrade, not '$1'"
ref=$1 sha=$2 environment=${3:-dev}
is_commit_or_dash "$sha" ||
    usage_error "SHA must be a full commit id of 40 (or 64) lower-case hex digits, or -, not '$sha'"
[[ $sha != - ]] || sha=
require_settings
queue_run "$project" "$type" "$ref" "$sha" "$environment"
