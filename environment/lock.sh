#!/usr/bin/env bash
# Make cpu.lock anew from cpu.in, for Python 3.11 to 3.13 on Linux and macOS. Needs uv on the path.
# Versions already locked are kept; to raise one, delete its line in cpu.lock first.
set -euo pipefail
cd "$(dirname "$0")"
new=$(mktemp)
trap 'rm -f "$new"' EXIT
if [ -f cpu.lock ]; then grep -v '^#' cpu.lock > "$new"; fi
uv pip compile cpu.in --quiet --universal --python-version 3.11.0 --no-annotate --no-header --output-file "$new" > /dev/null
{
  echo "# The CPU environment, pinned whole. Made by environment/lock.sh from cpu.in; do not edit by hand."
  echo "# torch is the CPU build: its CUDA libraries, which the default Linux build asks for, are left out."
  # torch is pinned once for every system, without the suffix of a local build
  grep -vE "^(torch|triton|nvidia-|cuda-|pywinpty|httpx2-jsfetch)|sys_platform == 'win32'$" "$new" \
    | sed -E "s/ ; (platform_python_implementation|implementation_name) != 'PyPy'$//; s/ ; sys_platform != '(emscripten|win32)'$//" \
    | sed -E "s/ or \(sys_platform != 'emscripten' and sys_platform != 'win32'\)//; s/ ; sys_platform != 'emscripten' and sys_platform != 'win32'//"
  grep '^torch==' cpu.in | sed -E 's/ *#.*//'
} > cpu.lock
