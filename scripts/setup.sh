#!/usr/bin/env bash
# Makes .venv at the repository root: Python packages as locked in constraints.txt, and pyllm itself as an
# editable build of its Rust extension. Safe to run at any time: it compares the digest of its inputs with the
# stamps that the last finished run left, does only what changed, and writes a stamp after the work, never before.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
venv=$root/.venv
packages_stamp=$venv/.pyllm-packages
build_stamp=$venv/.pyllm-build
scratch=

say() { printf 'setup: %s\n' "$*" >&2; }
stop() {
    printf 'setup: %s\n' "$*" >&2
    exit 1
}
clean_up() { [ -z "$scratch" ] || rm -rf -- "$scratch"; }
trap clean_up EXIT

# The root's own path is an input: scripts in .venv/bin name it, so a moved or copied folder is set up again.
# Of pyproject.toml only what stands before the tools' settings says what is to be installed.
packages_digest() {
    { printf '%s\n' "$root" && sed '/^\[tool\./,$d' pyproject.toml && cat constraints.txt scripts/setup.sh; } |
        sha256sum | cut -d ' ' -f 1
}

# Tests and benches of the crates are not part of the extension.
build_digest() {
    {
        printf '%s\n' "$root" "$1"
        find Cargo.* pyproject.toml rust \( -path '*/tests' -o -path '*/benches' \) -prune -o -type f -print0 |
            LC_ALL=C sort -z | xargs -0 sha256sum
    } | sha256sum | cut -d ' ' -f 1
}

is_stamped() { [ -f "$1" ] && [ "$(<"$1")" = "$2" ]; }
has_extension() { compgen -G 'pyllm/_core*.so' >/dev/null; }

check_rust() {
    local wanted found
    wanted=$(sed -n 's/^rust-version *= *"\([0-9.]*\)".*/\1/p' Cargo.toml)
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
        export PATH=$PATH:$HOME/.cargo/bin
    fi
    found=$(rustc --version 2>/dev/null | sed -n 's/^rustc \([0-9][0-9.]*\).*/\1/p') || true
    command -v cargo >/dev/null && [ -n "$found" ] ||
        stop "Rust $wanted or newer is needed and none was found: install it with rustup, then run this again."
    [ "$(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1)" = "$wanted" ] ||
        stop "Rust $wanted or newer is needed and this is Rust $found: run \`rustup update\`, then run this again."
}

# Rust links through `cc`, which may be there without the C library's start files: so a program is really linked.
check_c_compiler() {
    printf 'int main(void) { return 0; }\n' >"$scratch/probe.c"
    cc "$scratch/probe.c" -o "$scratch/probe" >/dev/null 2>&1 ||
        stop "a C compiler that can link a program as \`cc\` is needed: install one (on Debian, gcc and libc6-dev), then run this again."
}

# A version manager may put names on PATH that do not run, and Debian ships python3 without ensurepip: so each is tried.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3; do
        if "$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    stop "Python 3.11 or newer with its venv module is needed: install it (on Debian, python3 and python3-venv), or name one with PYTHON=..., then run this again."
}

is_whole_environment() {
    grep -qs -e " $venv\$" "$venv/pyvenv.cfg" && "$venv/bin/python" -m pip --version >/dev/null 2>&1
}

# uv reads none of pip's settings, and a machine that reaches packages through a mirror has told pip so.
hand_on_settings_of_pip() {
    local settings pair value
    settings=$("$venv/bin/python" -m pip config list 2>/dev/null) || return 0
    for pair in UV_DEFAULT_INDEX=index-url UV_INDEX=extra-index-url SSL_CERT_FILE=cert; do
        value=$(sed -n "s/^[a-z:]*\\.${pair#*=}='\\(.*\\)'\$/\\1/p" <<<"$settings" | head -n 1)
        [ -z "$value" ] || [ -n "$(printenv "${pair%=*}")" ] || export "${pair%=*}=${value//\\n/ }"
    done
}

install_packages() {
    "$venv/bin/uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" \
        --constraint "$1" --requirement pyproject.toml --group dev
}

set_up_packages() {
    local python
    if ! is_whole_environment; then
        python=$(find_python)
        say "making .venv with $("$python" --version 2>&1)"
        "$python" -m venv --clear "$venv"
    fi
    say "installing the Python packages (the first time this takes minutes: torch is large)"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv ||
        stop "uv could not be installed with pip: see the message above."
    hand_on_settings_of_pip
    if ! install_packages constraints.txt; then
        # Not every index has every torch build; any release that pyproject.toml admits will do.
        say "trying again with the versions of torch and its CUDA packages left open"
        grep -vE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)==' constraints.txt >"$scratch/constraints.txt"
        install_packages "$scratch/constraints.txt" ||
            stop "the Python packages could not be installed: see the messages above."
    fi
    printf '%s\n' "$packages_now" >"$packages_stamp"
}

set_up_build() {
    say "building the Rust extension"
    # Everything Python needs is there already, so only cargo may go out, for crates.
    if ! UV_OFFLINE=1 VIRTUAL_ENV=$venv "$venv/bin/maturin" develop --uv --release >"$scratch/build.log" 2>&1; then
        cat "$scratch/build.log" >&2
        stop "the Rust extension could not be built: see the messages above."
    fi
    printf '%s\n' "$build_now" >"$build_stamp"
}

packages_now=$(packages_digest)
build_now=$(build_digest "$packages_now")
if is_stamped "$packages_stamp" "$packages_now" && is_stamped "$build_stamp" "$build_now" && has_extension; then
    exit 0
fi

# An active conda or other environment would be taken for the place to install into.
unset CONDA_PREFIX PYTHONHOME PYTHONPATH
export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300}
scratch=$(mktemp -d)
check_rust
check_c_compiler
is_stamped "$packages_stamp" "$packages_now" || set_up_packages
set_up_build
say "ready after $SECONDS s"
