#!/bin/sh
# Installs podman and makes the base image out of Debian's own packages; no registry of images is asked.
# Run again, it does nothing that is done. It needs root and Debian 12, or Ubuntu 24.04.
set -eu

cd -P "$(dirname "$0")/../.."
base=localhost/relume-base
if ! command -v podman >/dev/null || ! command -v runc >/dev/null || ! command -v mmdebstrap >/dev/null ||
    [ ! -x /usr/lib/podman/netavark ] || [ ! -x /usr/lib/podman/aardvark-dns ]; then
    apt-get update -q
    apt-get install -y --no-install-recommends aardvark-dns buildah iptables mmdebstrap netavark podman runc
fi
if sh infra/containers/podman.sh image exists "$base"; then
    exit 0
fi
# The packages come from where this machine takes its own.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
# shellcheck disable=SC1091,SC2154  # os-release sets the name
release=$(. /etc/os-release && echo "$VERSION_CODENAME")
# shellcheck disable=SC2046  # one word a file
mmdebstrap --quiet --variant=minbase --include=ca-certificates,python3,python3-venv "$release" "$folder/root.tar" \
    $(ls /etc/apt/sources.list /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/ubuntu.sources 2>/dev/null)
sh infra/containers/podman.sh import --quiet "$folder/root.tar" "$base"
