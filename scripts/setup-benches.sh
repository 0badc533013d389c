#!/usr/bin/env bash
# Makes .venv-bench at the repository root: the peers that the data-plane benches run against, pinned in benches/peers*.txt.
# Safe to run at any time; a stamp, written last, says what was installed. Needs the .venv of scripts/setup.sh, for its uv.
set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
venv=$root/.venv-bench
stamp=$venv/.pyllm-peers

say() { printf 'setup-benches: %s\n' "$*" >&2; }

# As in setup.sh: uv reads none of pip's settings, and a machine that reaches packages through a mirror has told pip so.
hand_on_settings_of_pip() {
    local settings pair value
    settings=$(.venv/bin/python -m pip config list 2>/dev/null) || return 0
    for pair in UV_DEFAULT_INDEX=index-url UV_INDEX=extra-index-url SSL_CERT_FILE=cert; do
        value=$(sed -n "s/^[a-z:]*\\.${pair#*=}='\\(.*\\)'\$/\\1/p" <<<"$settings" | head -n 1)
        [ -z "$value" ] || [ -n "$(printenv "${pair%=*}")" ] || export "${pair%=*}=${value//\\n/ }"
    done
}

install() { .venv/bin/uv pip install --quiet --python "$venv/bin/python" --constraint constraints.txt "$@"; }

now=$({ printf '%s\n' "$root" && cat benches/peers*.txt constraints.txt scripts/setup-benches.sh; } | sha256sum | cut -d ' ' -f 1)
if [ -f "$stamp" ] && [ "$(<"$stamp")" = "$now" ] && "$venv/bin/python" -c '' 2>/dev/null; then
    exit 0
fi
unset CONDA_PREFIX PYTHONHOME PYTHONPATH
export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-300}
say "installing the peers into .venv-bench (the first time this takes minutes)"
.venv/bin/python -m venv --clear "$venv"
hand_on_settings_of_pip
install --requirement benches/peers.txt
install --requirement benches/peers.txt --requirement benches/peers-trl.txt ||
    say "TRL could not be installed: its line of the table will stay empty"
printf '%s\n' "$now" >"$stamp"
say "ready after $SECONDS s"
