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
"$binary" man | gzip -9n >"$parts/man/switchyard.1.gz"
for verb in $("$binary" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z-]*\) .*/\1/p' | grep -v '^help$'); do
    "$binary" man "$verb" | gzip -9n >"$parts/man/switchyard-$verb.1.gz"
done
cargo deb --no-build --no-strip "$@"
[[ $* == *--output* ]] || ls "$target"/debian/*.deb
