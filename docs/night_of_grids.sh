#!/bin/sh
# Submits plans of grids to a running ComfyUI, waits for all of them, and collects what they made.
#
#     COMFY=http://127.0.0.1:8188 sh docs/night_of_grids.sh FOLDER PLAN.json ...
#
# A plan is what POST /cocktail/grids takes as "plan": a name, a workflow as Workflow > Export (API)
# writes it, and axes. FOLDER/NAME.json then holds every cell of a grid with its labels, state and
# file; COMFY/cocktail/view shows the pictures. Run it again after an interruption: finished cells
# are not rendered again.
set -eu
COMFY=${COMFY:-http://127.0.0.1:8188}
folder=$1
shift
mkdir -p "$folder"

names=""
for plan in "$@"; do
    name=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["name"])' "$plan")
    answer=$(printf '{"plan": %s}' "$(cat "$plan")" | curl -sS -w '\n%{http_code}' -X POST \
        -H "Content-Type: application/json" "$COMFY/cocktail/grids" -d @-)
    case $answer in
        *200) names="$names $name" ;;
        *) echo "$plan is refused: $answer" >&2 ;;
    esac
done

failed=0
for name in $names; do
    while curl -sS "$COMFY/cocktail/grids/$name/feed" | grep -q '"state": "running"'; do
        sleep 2
    done
    curl -sS "$COMFY/cocktail/grids/$name" -o "$folder/$name.json"
    state=$(curl -sS "$COMFY/cocktail/grids/$name/feed")
    echo "$name: $state"
    case $state in
        *'"state": "finished"'*) ;;
        *) failed=1 ;;
    esac
done
exit $failed
