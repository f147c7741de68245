#!/usr/bin/env bash
# artifacts.sh RUN
# artifacts.sh RUN KEY [FILE]
#
# Lists the artifacts of a run (id, SHA-256, bytes, key), or downloads one and checks it.
#
#   RUN   id of the run
#   KEY   name of the artifact, as listed
#   FILE  where to store it (default: the last part of KEY, in this folder); - for stdout
#
# The file appears under its name only when its checksum is right; its name is printed then.
# Environment: ODOOOPS_URL, ODOOOPS_TOKEN, ODOOOPS_DB.

set -euo pipefail
# shellcheck source=scripts/odooops/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

list_artifacts() { # RUN
    local cursor='' page
    while :; do
        page=$(rpc list_artifacts "$(json_object run_id:="$1" cursor="$cursor")") || exit
        json_rows artifacts id checksum size_bytes artifact_key <<<"$page"
        cursor=$(json_read next_cursor <<<"$page")
        [[ -n $cursor ]] || return 0
    done
}

download() { # ARTIFACT_ID CHECKSUM FILE
    local part status place
    part=$(mktemp "${TMPDIR:-/tmp}/odooops.XXXXXX")
    [[ $3 == - ]] || { rm "$part"; part=$3.part; }
    # shellcheck disable=SC2064 # the name of now
    trap "rm -f -- $(printf '%q' "$part")" EXIT
    status=$(curl_server --output "$part" --write-out '%{http_code} %{redirect_url}' \
        "$ODOOOPS_URL/ops/artifacts/$1") || die "$EXIT_SERVER" "$ODOOOPS_URL cannot be reached."
    place=${status#* }
    status=${status%% *}
    if [[ $status == 302 && $place == http* ]]; then
        # In a request of its own: our key is nothing for the store.
        status=$(curl_store "$place" --output "$part" --write-out '%{http_code}') ||
            die "$EXIT_SERVER" "the artifact store ${place%%\?*} cannot be reached."
        [[ $status == 200 ]] || die "$EXIT_SERVER" "the artifact store answered HTTP $status."
    fi
    if [[ $status != 200 ]]; then
        die "$EXIT_SERVER" "HTTP $status: $(json_read error <"$part" 2>/dev/null || true)"
    fi
    [[ $(sha256_of "$part") == "$2" ]] ||
        die "$EXIT_SERVER" "the checksum of what came is wrong; nothing is stored."
    if [[ $3 == - ]]; then
        cat "$part"
    else
        mv -- "$part" "$3"
        printf '%s\n' "$3"
    fi
}

reject_options "$@"
check_words 1 3 "$@"
check_run "$1"
require_settings
artifacts=$(list_artifacts "$1")
if (($# == 1)); then
    [[ -z $artifacts ]] || printf '%s\n' "$artifacts"
    exit
fi
while read -r id checksum _size key; do
    if [[ $key == "$2" ]]; then
        download "$id" "$checksum" "${3:-${2##*/}}"
        exit
    fi
done <<<"$artifacts"
die "$EXIT_SERVER" "run $1 has no artifact $2."
