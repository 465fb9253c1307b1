#!/bin/sh
# Makes or repairs .venv in the current folder from a lock: sh cluster/deploy/setup.sh cluster/deploy/images/cpu.lock
# Packages come from wherever pip is configured to look. A venv that already fits costs a few seconds.
set -eu
lock=$1
cd "$(dirname "$0")/../.."

fits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

find_python() {
    for candidate in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3 python; do
        if command -v "$candidate" >/dev/null 2>&1 && fits "$candidate"; then echo "$candidate"; return; fi
    done
    echo "error: Python 3.11 or 3.12 is needed and none was found: install it, or give its path: make setup PYTHON=/path/to/python3.11" >&2
    exit 6
}

# The console scripts hold the folder's path: after a move they point nowhere, and the venv is made again.
script=.venv/bin/steelyard
here=$(pwd -P)
if [ -f "$script" ] && ! head -n 3 "$script" | grep -qF -e "$here/.venv/bin/python" -e "$PWD/.venv/bin/python"; then rm -rf .venv; fi
if ! { [ -x .venv/bin/python ] && fits .venv/bin/python && .venv/bin/python -m pip --version >/dev/null 2>&1; }; then
    python=$(find_python)
    echo "Making .venv with $("$python" --version) …"
    "$python" -m venv --clear .venv || {
        echo "error: $python cannot make a virtual environment: install its venv module (Debian: apt-get install python3-venv)" >&2
        exit 6
    }
fi
pip="env PIP_DISABLE_PIP_VERSION_CHECK=1 .venv/bin/python -m pip install --no-deps --progress-bar off --quiet --quiet"

# PyPI's torch for Linux is a CUDA build of nearly a gigabyte that does not import without its libraries. Where pip would
# take that one and there is no GPU, uv knows the index with the CPU build. `--dry-run` resolves without downloading it.
torch=$(sed -n 's/^\(torch==[^ ;]*\).*/\1/p' "$lock")
has_cuda_torch() {
    .venv/bin/python - <<'PY'
import pathlib, re, sys, sysconfig
version = pathlib.Path(sysconfig.get_path("purelib"), "torch", "version.py")  # read: a broken build does not import
found = re.search(r"^cuda\b[^=]*=\s*(.*)$", version.read_text(), re.M) if version.is_file() else None
sys.exit(not (found and found[1] != "None"))
PY
}
if [ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] && [ ! -e /dev/nvidia0 ]; then
    if has_cuda_torch || ! .venv/bin/python -c 'import importlib.metadata as m; m.version("torch")' 2>/dev/null; then
        offered=$(.venv/bin/python -m pip install --quiet --no-deps --ignore-installed --dry-run --report - "$torch" 2>/dev/null |
            .venv/bin/python -c 'import json,sys; print(json.load(sys.stdin)["install"][0]["metadata"]["version"])' 2>/dev/null || true)
        case "$offered" in
        *+cpu) ;;
        *)
            echo "Installing the CPU build of $torch …"
            $pip "$(sed -n 's/^\(uv==[^ ;]*\).*/\1/p' "$lock")"
            .venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps --torch-backend=cpu --reinstall-package torch "$torch" ||
                echo "note: no CPU build of torch to be had; taking what pip offers" >&2
            ;;
        esac
    fi
fi

echo "Installing the lock ($(grep -c '==' "$lock") packages) …"
$pip -r "$lock"
$pip --no-build-isolation -e .
.venv/bin/python -c 'import torch' || {
    echo "error: torch does not import; see: .venv/bin/steelyard doctor" >&2
    exit 6
}
