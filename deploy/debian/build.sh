#!/usr/bin/env bash
# Builds the Debian package: deploy/debian/build.sh [BINARY] [--output FILE]
# Takes a finished binary, by default target/release/switchyard; needs cargo-deb and dpkg. Says where the package is.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

binary=target/release/switchyard
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
    binary=$1
    shift
fi
target=${CARGO_TARGET_DIR:-target}
# What `[package.metadata.deb]` in Cargo.toml takes from here.
parts=target/package-parts
mkdir -p "$parts/man"
rm -f "$parts"/man/*
install -m 755 "$binary" "$parts/switchyard"
for shell in bash zsh fish; do
    "$binary" completions "$shell" >"$parts/completions.$shell"
done
"$binary" man --to "$parts/man"
gzip -9n "$parts"/man/*.1
cargo deb --no-build --no-strip "$@"
[[ $* == *--output* ]] || ls "$target"/debian/*.deb
