#!/usr/bin/env bash
# Build the CPU image in a clean root with buildah, step by step as the Dockerfile has them, and try what it is for.
# What could not be checked here is said at the end. Nothing is left behind but buildah's cache of the base image.
#   BASE   image to start from (the Dockerfile's own; where it cannot be fetched, a clean Debian with its Python)
#   LEND   files and folders of this machine that pip needs inside, read-only: certificates, pip.conf, a mirror
#   SUITE  Debian's release for that root (bookworm)
set -euo pipefail
cd "$(dirname "$0")/.."
image=localhost/biomni-image-check debian=localhost/biomni-image-check-debian
base=${BASE:-$(sed -n 's/^ARG BASE=//p' Dockerfile)}
unchecked=("the GPU: this is the CPU variant" "a container's runtime: steps run in a chroot, under this machine's kernel and network"
  "the environment server, which needs a lake (make data)")

fail() { echo "image-check: $1" >&2; exit 1; }
told() { echo "image-check: $1"; }

[ "$(id -u)" = 0 ] || fail "it must be run by root, for chroot; run: sudo make image-check"
for tool in buildah mmdebstrap; do
  command -v "$tool" > /dev/null || fail "$tool is missing; on Debian and Ubuntu: apt-get install --no-install-recommends buildah mmdebstrap"
done
export BUILDAH_ISOLATION=chroot
work=$(mktemp -d)
container=
cleanup() {
  if [ -n "$container" ]; then buildah rm "$container" > /dev/null; fi
  buildah rmi --force "$image" > /dev/null 2>&1 || true
  rm -rf "$work"
}
trap cleanup EXIT

if ! timeout 300 buildah pull --quiet "$base" > "$work/pull.log" 2>&1; then
  unchecked+=("the base image $base, which could not be fetched: a clean Debian ${SUITE:-bookworm} with its own Python stood for it")
  told "$base cannot be fetched; making a clean Debian ${SUITE:-bookworm}"
  mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv "${SUITE:-bookworm}" "$work/root.tar"
  container=$(buildah from scratch)
  buildah add --quiet "$container" "$work/root.tar" / > /dev/null
  buildah commit --quiet --rm "$container" "$debian" > /dev/null
  container=
  base=$debian
fi

lent=()
for path in ${LEND:-}; do lent+=(--volume "$path:$path:ro"); done
for name in $(compgen -e PIP_ || true); do lent+=(--env "$name=${!name}"); done
told "building the Dockerfile on $base"
buildah build --format docker --build-arg "BASE=$base" ${lent[@]+"${lent[@]}"} --tag "$image" . || fail "a step of the Dockerfile failed"

container=$(buildah from "$image")
inside() { buildah run ${lent[@]+"${lent[@]}"} "$container" -- "$@"; }
answers() { # where, then the command that serves it
  inside sh -c '
    url=$1; shift
    timeout 180 "$@" > /tmp/served.log 2>&1 & served=$!
    while kill -0 "$served" 2> /dev/null; do
      if .venv/bin/python -c "import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)" "$url" 2> /dev/null
      then kill "$served"; exit 0; fi
      sleep 1
    done
    tail -n 15 /tmp/served.log >&2; exit 1' sh "$@" || fail "nothing answered at $1 from: ${*:2}"
  told "$1 answers: ${*:2}"
}
[ "$(inside id -u)" != 0 ] || fail "the image runs as root"
inside make plan PRESET=cpu > /dev/null || fail "make plan failed in the image"
told "make plan runs, as user $(inside id -un)"
answers http://127.0.0.1:18888/api make lab LAB_ARGS="--ip=127.0.0.1 --port=18888 --no-browser"
told "every step of the Dockerfile's CPU variant was run, and the image serves; not checked:"
printf '  %s\n' "${unchecked[@]}"
