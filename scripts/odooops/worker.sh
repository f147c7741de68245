#!/usr/bin/env bash
# worker.sh [--once] [--labels LABELS]
#
# A minimal worker, and an example of the protocol: claims one run at a time, executes its steps in a
# temporary checkout, ships the log, completes with the exit code. It runs plain steps only: no
# secrets, database, tool, built-in recipe or artifacts. odooops-worker does all of that. Linux.
#
#   --once           end after one run (exit 1 unless it succeeded), or when nothing waits
#   --labels LABELS  what this worker offers, with commas between
#
# The first SIGTERM or SIGINT ends it after the run at work.
# Environment: ODOOOPS_URL, ODOOOPS_DB, ODOOOPS_TOKEN (a worker token; a registration token is
# exchanged for one), ODOOOPS_TOKEN_FILE (where that is kept and found again, default
# ~/.local/share/odooops/worker-token, as odooops-worker register writes it).

set -euo pipefail
# shellcheck source=scripts/odooops/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# A lease lasts 60 seconds: work ends before that when it cannot be renewed.
HEARTBEAT_SECONDS=${HEARTBEAT_SECONDS:-10}
LEASE_SECONDS=45
GRACE_SECONDS=${GRACE_SECONDS:-10}
# Of output in one request; what curl and jq are given as an argument has its limit, too.
BATCH_BYTES=16384
BATCH_LINES=100
: "${ODOOOPS_RETRIES:=1}"

once=
labels='[]'
while (($#)); do
    case $1 in
        --once) once=1 ;;
        --labels)
            [[ ${2:-} =~ ^[A-Za-z0-9._:-]+(,[A-Za-z0-9._:-]+)*$ ]] ||
                usage_error "LABELS are words with commas between, not '${2:-}'"
            labels="[\"${2//,/\",\"}\"]"
            shift
            ;;
        *) break ;;
    esac
    shift
done
reject_options "$@"
check_words 0 0 "$@"

# -- the token -------------------------------------------------------------------------

token_file=${ODOOOPS_TOKEN_FILE:-${HOME:-.}/.local/share/odooops/worker-token}
if [[ -z ${ODOOOPS_TOKEN:-} && -r $token_file ]]; then
    ODOOOPS_TOKEN=$(sed -n 's/.*"token": *"\([A-Za-z0-9_-]*\)".*/\1/p' "$token_file")
fi
require_settings
if [[ $ODOOOPS_TOKEN == oprt_* ]]; then
    # Once: a repeat would use up the registration of another host.
    reply=$(ODOOOPS_RETRIES=0 rpc exchange_registration_token "$(json_object name="${HOSTNAME:-host}")")
    mkdir -p "${token_file%/*}"
    (umask 077 && printf '%s\n' "$reply" >"$token_file")
    ODOOOPS_TOKEN=$(json_read token <<<"$reply")
    say "This host is registered; its token is in $token_file."
fi

# -- the life of the worker --------------------------------------------------------------

worker_id=$(random_key)
work=$(mktemp -d)
group=
beat=
stopping=

kill_group() { # SIGNAL
    [[ -z $group ]] || kill "-$1" -- "-$group" 2>/dev/null || true
}

end() {
    kill_group KILL
    [[ -z $beat ]] || kill "$beat" 2>/dev/null || true
    rpc set_worker_state "$(json_object worker_id="$worker_id" state=stopped)" >/dev/null 2>&1 || true
    rm -rf -- "$work"
}

# The leases are kept by a process of its own, which tells by files what it hears.
keep_lease() { # RUN EPOCH
    local reply last=$SECONDS
    while sleep "$HEARTBEAT_SECONDS"; do
        if reply=$(rpc heartbeat "$(json_object worker_id="$worker_id" \
            runs:="[{\"run_id\":$1,\"epoch\":$2}]")"); then
            last=$SECONDS
            [[ $(json_read runs.0.owned <<<"$reply") == true ]] || : >"$work/lost"
            [[ $(json_read runs.0.cancel_requested <<<"$reply") != true ]] || : >"$work/canceled"
        elif ((SECONDS - last > LEASE_SECONDS)); then
            : >"$work/lost"
        fi
    done
}

# Send what has come since the last time: whole lines, the rest only when it is the end.
ship() { # RUN EPOCH STEP [END]
    local chunk=$work/chunk reply
    while :; do
        tail -c "+$((offset + 1))" "$work/output" | head -c "$BATCH_BYTES" |
            head -n "$BATCH_LINES" >"$chunk" || true
        local size=$(($(wc -c <"$chunk")))
        if ((size < BATCH_BYTES)) && [[ -z ${4:-} && -n $(tail -c 1 "$chunk" | tr '\0' x) ]]; then
            sed -i '$d' "$chunk"
            size=$(($(wc -c <"$chunk")))
        fi
        ((size > 0)) || return 0
        reply=$(rpc append_run_logs "$(json_object run_id:="$1" epoch:="$2" first_seq:="$seq" \
            lines:="$(tr -d '\0' <"$chunk" | json_lines "$3")")") || return 1
        seq=$(json_read next_seq <<<"$reply")
        offset=$((offset + size))
    done
}

# Run one step in a process group of its own; its exit code, or why it was stopped, in `outcome`.
run_step() { # RUN EPOCH NAME COMMAND
    (cd "$work/checkout" && exec setsid env -i "${variables[@]}" /bin/sh -e -c "$4") \
        >>"$work/output" 2>&1 </dev/null &
    group=$!
    outcome=
    while kill -0 "$group" 2>/dev/null; do
        ship "$1" "$2" "$3" || true
        if [[ -e $work/lost ]]; then
            outcome=lost
            kill_group KILL
        elif [[ -e $work/canceled || $SECONDS -ge $deadline ]] && [[ -z $outcome ]]; then
            outcome=timeout
            [[ ! -e $work/canceled ]] || outcome=canceled
            stop_by=$((SECONDS + GRACE_SECONDS))
            kill_group TERM
        elif [[ -n $outcome && $SECONDS -ge $stop_by ]]; then
            kill_group KILL
        fi
        sleep 0.5
    done
    local code=0
    wait "$group" || code=$?
    # What the step has left behind in its group.
    kill_group KILL
    group=
    [[ -n $outcome ]] || outcome=$code
    until ship "$1" "$2" "$3" end || [[ -e $work/lost ]]; do sleep 1; done
}

checkout() { # CLAIM
    local url ref commit
    url=$(json_read snapshot.project.repository_url <<<"$1")
    [[ -n $url ]] || return 0
    ref=$(json_read snapshot.git_ref <<<"$1")
    commit=$(json_read snapshot.git_commit <<<"$1")
    # Words from the outside stand behind --, and only these protocols fetch anything.
    export GIT_ALLOW_PROTOCOL=https:http:ssh:git:file GIT_TERMINAL_PROMPT=0
    cd "$work/checkout" && git init --quiet &&
        git fetch --quiet --depth 1 -- "$url" "${commit:-${ref:-HEAD}}" &&
        git checkout --quiet --detach FETCH_HEAD
}

# Why this worker cannot execute the run; nothing when it can.
problem_of() { # CLAIM
    local name
    for name in secrets tool database; do
        case $(json_read "snapshot.config.$name" <<<"$1") in
            '' | false | '[]') ;;
            *) say_problem "worker.sh has no $name"; return ;;
        esac
    done
    [[ -n $(json_read snapshot.config.steps.0.run <<<"$1") ]] ||
        say_problem "worker.sh has no built-in recipes"
}

say_problem() { printf '%s: give the workflow a label that odooops-worker alone offers.' "$1"; }

complete() { # RUN EPOCH NAME=VALUE ...
    local run=$1 epoch=$2
    shift 2
    until rpc complete_workflow_run "$(json_object run_id:="$run" epoch:="$epoch" \
        worker_id="$worker_id" "$@")" >/dev/null; do
        # Refused for good when somebody else has it.
        [[ ! -e $work/lost ]] || return 0
        sleep 1
    done
}

work_on() { # CLAIM RUN EPOCH
    local problem config_timeout number=0 name command
    problem=$(problem_of "$1")
    if [[ -n $problem ]]; then
        complete "$2" "$3" exit_code:=null error_code=setup_error error_message="$problem"
        return 1
    fi
    if ! (checkout "$1") >>"$work/output" 2>&1; then
        ship "$2" "$3" Checkout end || true
        complete "$2" "$3" exit_code:=null error_code=setup_error \
            error_message="The repository could not be checked out; the log says why."
        return 1
    fi
    config_timeout=$(json_read snapshot.config.timeout <<<"$1")
    deadline=$((SECONDS + ${config_timeout:-3600}))
    mapfile -d '' -t variables < <(json_pairs snapshot.config.env <<<"$1")
    variables=("PATH=$PATH" "HOME=$work/home" "TMPDIR=$work/home" CI=true "ODOOOPS_RUN_ID=$2" \
        ${variables[@]+"${variables[@]}"})
    while command=$(json_read "snapshot.config.steps.$number.run" <<<"$1") && [[ -n $command ]]; do
        name=$(json_read "snapshot.config.steps.$number.name" <<<"$1")
        number=$((number + 1))
        run_step "$2" "$3" "${name:-$number}" "$command"
        case $outcome in
            0) ;;
            lost) say "Run $2 was lost."; return 1 ;;
            canceled | timeout)
                complete "$2" "$3" exit_code:=null error_code="$outcome" \
                    error_message="Step $name was stopped: $outcome."
                return 1
                ;;
            *)
                complete "$2" "$3" exit_code:="$outcome" error_code=exit_code \
                    error_message="Step $name ended with exit code $outcome."
                return 1
                ;;
        esac
    done
    complete "$2" "$3" exit_code:=0
}

execute() { # CLAIM
    local run epoch started result=0
    run=$(json_read run_id <<<"$1")
    epoch=$(json_read epoch <<<"$1")
    started=$(rpc start_workflow_run \
        "$(json_object run_id:="$run" epoch:="$epoch" worker_id="$worker_id")") || return 1
    say "Run $run has begun."
    seq=$(json_read next_seq <<<"$started")
    offset=0
    rm -rf -- "${work:?}"/*
    mkdir "$work/checkout" "$work/home"
    : >"$work/output"
    # Nobody shall wait for the output of what it sleeps in.
    keep_lease "$run" "$epoch" >/dev/null 2>&1 &
    beat=$!
    work_on "$1" "$run" "$epoch" || result=$?
    kill "$beat" 2>/dev/null || true
    wait "$beat" 2>/dev/null || true
    beat=
    say "Run $run has ended."
    return "$result"
}

rpc register_worker "$(json_object worker_id="$worker_id" host="${HOSTNAME:-host}" \
    labels:="$labels" capacity:=1 version=worker.sh)" >/dev/null
trap end EXIT
trap 'stopping=1' TERM INT
claim_token=$(random_key)
while [[ -z $stopping ]]; do
    # The same token until an answer has come: it gives the same run.
    if claim=$(rpc claim_next_run "$(json_object worker_id="$worker_id" labels:="$labels" \
        claim_token="${claim_token#sh-}")"); then
        claim_token=$(random_key)
        if [[ -n $(json_read run_id <<<"$claim") ]]; then
            result=0
            execute "$claim" || result=$?
            [[ -z $once ]] || exit "$result"
            continue
        fi
        [[ -z $once ]] || exit 0
        rpc heartbeat "$(json_object worker_id="$worker_id" runs:='[]')" >/dev/null || true
    fi
    sleep 2
done
