# shellcheck shell=bash
# What the scripts share: settings, one call of the JSON-RPC door, following a run.
# Results go to stdout, everything said to people goes to stderr. Exit codes:
#   0 success   1 the run failed, was canceled or timed out
#   2 usage or configuration   3 the server could not be reached or refused

EXIT_RUN=1
EXIT_USAGE=2
EXIT_SERVER=3

LIB_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

say() { printf '%s\n' "$*" >&2; }

die() { # EXIT_CODE SENTENCE
    say "${0##*/}: $2"
    exit "$1"
}

# -- arguments -------------------------------------------------------------------------

# The comment at the top of a script is its help.
print_help() { sed -n '2,/^$/{s/^# \{0,1\}//;p}' "$0"; }

usage_error() {
    say "${0##*/}: $1"
    say "Try ${0##*/} --help"
    exit "$EXIT_USAGE"
}

# Help, and a refusal of options: for scripts that take only words.
reject_options() {
    local word
    for word in "$@"; do
        case $word in
            -h | --help) print_help; exit 0 ;;
            -) ;;
            -*) usage_error "unknown option $word" ;;
        esac
    done
}

check_words() { # MINIMUM MAXIMUM "$@"
    local minimum=$1 maximum=$2
    shift 2
    (($# >= minimum)) || usage_error "an argument is missing"
    (($# <= maximum)) || usage_error "too many arguments"
}

check_number() { # NAME VALUE
    [[ $2 =~ ^[0-9]{1,9}$ ]] || usage_error "$1 must be a whole number, not '$2'"
}

check_run() { # VALUE
    [[ $1 =~ ^[1-9][0-9]{0,9}$ ]] || usage_error "RUN must be the id of a run, not '$1'"
}

is_workflow_type() { [[ $1 =~ ^(build|test|deploy|backup|upgrade)$ ]]; }

is_commit() { [[ $1 =~ ^([0-9a-f]{40}|[0-9a-f]{64})$ ]]; }

# -- settings --------------------------------------------------------------------------

require_settings() {
    command -v curl >/dev/null || die "$EXIT_USAGE" "curl is missing."
    if command -v jq >/dev/null; then
        JSON_TOOL=jq
    elif command -v python3 >/dev/null; then
        JSON_TOOL=python3
    else
        die "$EXIT_USAGE" "jq (or python3) is missing."
    fi
    [[ ${ODOOOPS_URL:-} =~ ^https?://[^[:space:]]+$ ]] ||
        die "$EXIT_USAGE" "ODOOOPS_URL must hold the address of the server, like https://odoo.example.com"
    ODOOOPS_URL=${ODOOOPS_URL%/}
    # Also keeps the key from breaking out of curl's configuration below.
    [[ ${ODOOOPS_TOKEN:-} =~ ^[A-Za-z0-9._~+/=-]+$ ]] ||
        die "$EXIT_USAGE" "ODOOOPS_TOKEN must hold an API key (menu OdooOps > Configuration > New API key)."
    [[ ${ODOOOPS_DB:-} =~ ^[A-Za-z0-9._-]*$ ]] ||
        die "$EXIT_USAGE" "ODOOOPS_DB is no name of a database."
}

# -- JSON ------------------------------------------------------------------------------

json_object() { # NAME=TEXT NAME:=JSON ...
    if [[ $JSON_TOOL == jq ]]; then
        jq -nc '[$ARGS.positional[] | index("=") as $at | .[:$at] as $name | .[$at + 1:] as $value
            | if $name | endswith(":") then {key: $name[:-1], value: ($value | fromjson)}
              else {key: $name, value: $value} end]
            | from_entries' --args "$@"
    else
        python3 "$LIB_DIR/json_tool.py" object "$@"
    fi
}

json_read() { # PATH < JSON
    if [[ $JSON_TOOL == jq ]]; then
        jq -r --arg path "$1" 'getpath([$path | split(".")[] | tonumber? // .])
            | if . == null then "" elif type == "string" then . else tojson end'
    else
        python3 "$LIB_DIR/json_tool.py" read "$1"
    fi
}

json_rows() { # PATH FIELD ... < JSON
    if [[ $JSON_TOOL == jq ]]; then
        jq -r 'def text: if . == null then "" elif type == "string" then . else tojson end;
            $ARGS.positional[0] as $path | $ARGS.positional[1:] as $names
            | getpath([$path | split(".")[] | tonumber? // .]) // [] | .[]
            | . as $row | [$names[] as $name | $row | getpath($name | split(".")) | text]
            | join(" ")' --args "$@"
    else
        python3 "$LIB_DIR/json_tool.py" rows "$@"
    fi
}

json_pairs() { # PATH < JSON: NAME=VALUE of the object at PATH, each with a NUL behind it
    if [[ $JSON_TOOL == jq ]]; then
        jq -j --arg path "$1" 'getpath([$path | split(".")[] | tonumber? // .]) // {}
            | to_entries[] | .key + "=" + (.value | tostring) + "\u0000"'
    else
        python3 "$LIB_DIR/json_tool.py" pairs "$1"
    fi
}

json_lines() { # STEP < TEXT: lines of a log, as append_run_logs takes them
    if [[ $JSON_TOOL == jq ]]; then
        jq -Rnc --arg step "$1" \
            '[inputs | {level: "info", message: ., metadata: {step: $step}}]'
    else
        python3 "$LIB_DIR/json_tool.py" lines "$1"
    fi
}

# -- the server ------------------------------------------------------------------------

# curl with what every request needs. The key goes in by a pipe: arguments are seen by
# everybody on the host. Repeats while the server cannot be reached or is overloaded.
curl_server() {
    curl --silent --show-error --connect-timeout 10 \
        --retry "${ODOOOPS_RETRIES:-5}" --retry-connrefused --retry-delay 1 --retry-max-time 60 \
        --config <(
            printf 'header = "Authorization: Bearer %s"\n' "$ODOOOPS_TOKEN"
            [[ -z ${ODOOOPS_DB:-} ]] || printf 'header = "X-Odoo-Database: %s"\n' "$ODOOOPS_DB"
        ) "$@"
}

# curl for an address that is a key by itself: it goes in by a pipe, and nothing of ours with it.
curl_store() { # URL CURL_ARGUMENTS ...
    local url=$1
    shift
    curl --silent --show-error --connect-timeout 10 \
        --retry "${ODOOOPS_RETRIES:-5}" --retry-connrefused --retry-delay 1 --retry-max-time 60 \
        --config <(printf 'url = "%s"\n' "${url//[\"\\]/}") "$@"
}

# rpc METHOD PARAMS: call it with a JSON object and print the result as JSON.
# On an error: its sentence to stderr, exit 3.
rpc() {
    local answer status version sentence
    answer=$(json_object jsonrpc=2.0 id:=1 method="$1" params:="$2" |
        curl_server --max-time 120 --header 'Content-Type: application/json' \
            --data-binary @- --write-out '\n%{http_code}' "$ODOOOPS_URL/ops/jsonrpc") ||
        die "$EXIT_SERVER" "$ODOOOPS_URL cannot be reached."
    status=${answer##*$'\n'}
    answer=${answer%$'\n'*}
    version=$(json_read jsonrpc <<<"$answer" 2>/dev/null) || true
    [[ $version == 2.0 ]] || die "$EXIT_SERVER" \
        "$ODOOOPS_URL answered HTTP $status and no JSON-RPC: check ODOOOPS_URL and ODOOOPS_DB."
    sentence=$(json_read error.message <<<"$answer")
    [[ -z $sentence ]] || die "$EXIT_SERVER" "$1: $sentence"
    json_read result <<<"$answer"
}

# -- runs ------------------------------------------------------------------------------

# A key of our own makes it safe to repeat the request when an answer is lost.
random_key() { printf 'sh-%s' "$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')"; }

# Queue a run and print its id: PROJECT TYPE REF COMMIT ENVIRONMENT, the last three may be empty.
queue_run() {
    local parameters=(project="$1" workflow_type="$2"
        idempotency_key="${IDEMPOTENCY_KEY:-$(random_key)}")
    [[ -z ${WORKFLOW:-} ]] || parameters+=(workflow="$WORKFLOW")
    [[ -z $3 ]] || parameters+=(git_ref="$3")
    [[ -z $4 ]] || parameters+=(git_commit="$4")
    [[ -z $5 ]] || parameters+=(environment="$5")
    local reply
    reply=$(rpc queue_run "$(json_object "${parameters[@]}")") || exit
    json_read run_id <<<"$reply"
}

get_run() { # RUN
    rpc get_run "$(json_object run_id:="$1" artifacts:=true)"
}

# Print the log of RUN to stdout, or what passes the filters. Without MAX_WAIT what there is; with
# it, follow until the run ends. Returns 1 when it has not ended after MAX_WAIT seconds.
follow_log() { # RUN [MAX_WAIT SLEEP [FILTER ...]]
    local run=$1 max_wait=${2:-} sleep=${3:-5} after=0 began=$SECONDS page reason last_reason=
    shift $(($# < 3 ? $# : 3))
    while :; do
        page=$(rpc read_run_logs "$(json_object run_id:="$run" after:="$after" "$@")") || exit
        json_rows lines timestamp log_level message <<<"$page"
        after=$(json_read next_after <<<"$page")
        [[ $(json_read more <<<"$page") != true ]] || continue
        [[ $(json_read ended <<<"$page") != true && -n $max_wait ]] || return 0
        if [[ $(json_read status <<<"$page") == queued ]]; then
            reason=$(rpc explain_wait "$(json_object run_id:="$run")") || exit
            reason=$(json_read message <<<"$reason")
            [[ $reason == "$last_reason" ]] || say "Run $run is queued: $reason"
            last_reason=$reason
        fi
        ((SECONDS - began < max_wait)) || return 1
        sleep "$sleep"
    done
}

# Follow the log on stderr until RUN ends. Prints what it left: its URL, else the URL of its
# first artifact, else "success". Exits 1 when it failed, was canceled or takes too long.
wait_for_run() { # RUN MAX_WAIT SLEEP
    local run status url
    follow_log "$1" "$2" "$3" >&2 || {
        local code=$?
        ((code == 1)) || exit "$code"
        die "$EXIT_RUN" "run $1 has not ended after $2 seconds; it goes on."
    }
    run=$(get_run "$1") || exit
    status=$(json_read status <<<"$run")
    if [[ $status != succeeded ]]; then
        explain_end "$run"
        exit "$EXIT_RUN"
    fi
    url=$(json_read metadata.url <<<"$run")
    [[ -n $url ]] || url=$(json_read artifacts.0.path <<<"$run")
    [[ $url != /* ]] || url=$ODOOOPS_URL$url
    printf '%s\n' "${url:-success}"
}

# Say how a run ended that did not succeed.
explain_end() { # RUN_JSON
    local failed
    say "Run $(json_read id <<<"$1") of $(json_read project <<<"$1") $(json_read status <<<"$1")" \
        "($(json_read error_code <<<"$1")): $(json_read error_message <<<"$1")"
    failed=$(json_rows metadata.failed_tests name file line message <<<"$1" 2>/dev/null) ||
        failed=$(json_read metadata.failed_tests <<<"$1")
    [[ -z $failed ]] || say "Failed tests:"$'\n'"$failed"
}

sha256_of() { # FILE
    if command -v sha256sum >/dev/null; then
        sha256sum "$1"
    else
        shasum -a 256 "$1"
    fi | cut -c1-64
}
