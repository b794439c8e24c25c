#!/usr/bin/env bash
# Makes deploy/status.png, the picture of the README: the status page after the 48 simulated hours of a test, in Chromium.
# Usage: deploy/picture.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo test --test report pages_after_48_hours
cp "${CARGO_TARGET_DIR:-target}/tmp/looks/two-days-small.png" deploy/status.png
ls -l deploy/status.png
