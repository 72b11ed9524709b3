#!/bin/sh
# Podman with its settings and its store in this checkout: sh infra/containers/podman.sh ARGUMENTS
#   sh infra/containers/podman.sh serve [SOCKET]   answers Docker's API, at .relume/containers/podman.sock by default
# Images and containers of other programs stay apart; RELUME_HOME moves the store.
set -eu

here=$(cd -P "$(dirname "$0")" && pwd)
store=${RELUME_HOME:-$(cd "$here/../.." && pwd)/.relume}/containers
# What lives no longer than the machine runs, one folder for each store.
run=${XDG_RUNTIME_DIR:-/run}/relume-containers-$(printf %s "$store" | cksum | cut -d' ' -f1)
mkdir -p "$store"
if [ "${1:-}" = serve ]; then
    set -- system service --time=0 "unix://${2:-$store/podman.sock}"
    cd "$store" # conmon leaves a file called `oom` where it works
fi
export CONTAINERS_CONF="$here/containers.conf"
exec podman --root "$store/images" --network-config-dir "$store/networks" --runroot "$run/storage" --tmpdir "$run/podman" --storage-driver overlay "$@"
