#!/usr/bin/env bash
# Licences, sources and doubled versions of the Rust crates, as deny.toml says. Builds cargo-deny into .venv once
# (about a minute) where the right version is not on PATH: the package indexes only offer one too old for this lock file.
set -euo pipefail

cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
wanted=0.20.2
export PATH=$PWD/.venv/bin:$PATH

if [ "$(cargo-deny --version 2>/dev/null)" != "cargo-deny $wanted" ]; then
    printf 'check-crates: building cargo-deny %s (once)\n' "$wanted" >&2
    # A quick build is enough: it reads one lock file.
    CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --no-default-features --root .venv \
        --version "$wanted" cargo-deny
fi
cargo-deny --locked check --hide-inclusion-graph bans licenses sources
