#!/usr/bin/env bash
# Makes deploy/status.png, the picture of the README: the status page of `switchyard demo` in a headless Chromium.
# Usage: deploy/picture.sh [BINARY]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

log=$(mktemp)
"${1:-target/release/switchyard}" demo >"$log" &
demo=$!
trap 'kill "$demo"; rm -f "$log"' EXIT
until grep -q "It keeps running" "$log"; do
    kill -0 "$demo"
    sleep 1
done
page=$(sed -n 's/^ *status page *//p' "$log")
chromium --headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1000,780 \
    --screenshot="$PWD/deploy/status.png" "$page" 2>/dev/null
ls -l deploy/status.png
