#!/bin/sh
# Submits plans of grids to a running ComfyUI, waits for all of them, and exports their viewers.
#
#     COMFY=http://127.0.0.1:8188 OUTPUT=ComfyUI/output sh docs/night_of_grids.sh FOLDER PLAN.json ...
#
# A plan is what POST /cocktail/grids takes as "plan": a name, a workflow as Workflow > Export (API)
# writes it, and axes. FOLDER/NAME.json then holds every cell of a grid with its labels, state and
# file, and FOLDER/NAME is its viewer: any browser opens the index.html in it. Without OUTPUT, as
# for a ComfyUI on another machine, the viewers stay in its output folder, and their places are
# told. Run it again after an interruption: finished cells are not rendered again, and the viewers
# that it has copied are replaced. It ends with 1 if a plan was refused, a grid is not finished or a
# viewer cannot be copied.
set -eu
COMFY=${COMFY:-http://127.0.0.1:8188}
OUTPUT=${OUTPUT:-}
folder=$1
shift
mkdir -p "$folder"
failed=0
made=made-by-night-of-grids

post() {
    curl -sS -w '\n%{http_code}' -X POST -H "Content-Type: application/json" "$COMFY$1" -d @-
}

wait_while_running() {
    while state=$(curl -sS "$COMFY$1") && echo "$state" | grep -q '"state": "running"'; do
        sleep 1
    done
}

# Copies the viewer $1 to $folder/$2, whole or not at all.
collect() {
    part=$folder/.$2.part
    old=$folder/.$2.old
    rm -rf "$part" "$old" && cp -R "$1" "$part" && : > "$part/$made" || return 1
    [ ! -e "$folder/$2" ] || mv "$folder/$2" "$old" || return 1
    mv "$part" "$folder/$2" && rm -rf "$old"
}

names=""
for plan in "$@"; do
    name=$(python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))["name"])' "$plan")
    if [ "$plan" -ef "$folder/$name.json" ]; then
        echo "$plan would be overwritten by the list of its cells. Choose another FOLDER." >&2
        failed=1
        continue
    fi
    answer=$(printf '{"plan": %s}' "$(cat "$plan")" | post /cocktail/grids)
    case $answer in
        *200) names="$names $name" ;;
        *) echo "$plan is refused: $answer" >&2; failed=1 ;;
    esac
done

for name in $names; do
    grid=/cocktail/grids/$name
    wait_while_running "$grid/feed"
    curl -sS "$COMFY$grid" -o "$folder/$name.json"
    echo "$name: $state"
    case $state in
        *'"state": "finished"'*) ;;
        *) failed=1 ;;
    esac
    echo '{}' | post "$grid/export" > /dev/null
    wait_while_running "$grid/export"
    case $state in
        *'"state": "finished"'*) ;;
        *) echo "$name is not exported: $state" >&2; failed=1; continue ;;
    esac
    place=$(echo "$state" | python3 -c 'import json, sys; print(json.load(sys.stdin)["folder"])')
    if [ -z "$OUTPUT" ]; then
        echo "$name: $place/index.html in ComfyUI's output folder"
    elif [ -e "$folder/$name" ] && [ ! -e "$folder/$name/$made" ]; then
        echo "$name: $OUTPUT/$place/index.html ($folder/$name is something else, and stays)"
    elif collect "$OUTPUT/$place" "$name"; then
        echo "$name: $folder/$name/index.html"
    else
        echo "$name cannot be copied to $folder; its viewer is $OUTPUT/$place" >&2
        failed=1
    fi
done
exit $failed
