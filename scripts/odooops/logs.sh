#!/usr/bin/env bash
# logs.sh [-f] [--level LEVELS] [--step STEP] RUN
# logs.sh --search QUERY [--level LEVELS] [--step STEP] [--since TIME] [--until TIME] [RUN]
#
# Prints the log of a run: time (UTC), level and message of each line. With --search the lines of
# ODOOOPS_PROJECT, or of all projects, or of RUN, that match: run and number before each line,
# the newest run first.
#
#   -f, --follow     go on until the run ends
#   --search QUERY   words, "phrases", beginnings*, -exclusions, OR
#   --level LEVELS   of debug, info, warn, error; several with commas between
#   --step STEP      lines of this step
#   --since TIME     not before, --until TIME before: like 2026-11-24T08:00:00Z
#
# Environment: ODOOOPS_URL, ODOOOPS_TOKEN, ODOOOPS_PROJECT, ODOOOPS_DB.

set -euo pipefail
# shellcheck source=scripts/odooops/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

FOREVER=999999999
max_wait=
query=
is_search=
filters=()
times=
while (($#)); do
    case $1 in
        -f | --follow) max_wait=$FOREVER ;;
        --search | --level | --step | --since | --until)
            (($# > 1)) || usage_error "$1 wants a value"
            case $1 in
                --search) query=$2 is_search=1 ;;
                --level)
                    [[ $2 =~ ^(debug|info|warn|error)(,(debug|info|warn|error))*$ ]] ||
                        usage_error "LEVELS are among debug,info,warn,error, not '$2'"
                    filters+=(levels:="[\"${2//,/\",\"}\"]")
                    ;;
                --step) filters+=(step="$2") ;;
                *) filters+=("${1#--}=$2") times=$1 ;;
            esac
            shift
            ;;
        *) break ;;
    esac
    shift
done
reject_options "$@"

search_log() { # [RUN]
    local cursor='' page parameters=(query="$query" ${filters[@]+"${filters[@]}"})
    if (($#)); then
        parameters+=(run_id:="$1")
    elif [[ -n ${ODOOOPS_PROJECT:-} ]]; then
        parameters+=(project="$ODOOOPS_PROJECT")
    fi
    while :; do
        page=$(rpc search_run_logs "$(json_object "${parameters[@]}" cursor="$cursor")") || exit
        json_rows lines run_id seq timestamp log_level message <<<"$page"
        cursor=$(json_read next_cursor <<<"$page")
        [[ -n $cursor ]] || return 0
    done
}

if [[ -n $is_search ]]; then
    [[ -z $max_wait ]] || usage_error "--follow and --search do not go together"
    check_words 0 1 "$@"
    (($# == 0)) || check_run "$1"
    require_settings
    search_log "$@"
else
    [[ -z $times ]] || usage_error "$times wants --search"
    check_words 1 1 "$@"
    check_run "$1"
    require_settings
    follow_log "$1" "$max_wait" 2 ${filters[@]+"${filters[@]}"}
fi
