#!/bin/sh
# infra/compose.yaml by podman-compose, with the images of infra/compose.local.yaml: sh infra/containers/compose.sh ARGUMENTS
#   sh infra/containers/compose.sh up --detach postgres s3
#   sh infra/containers/compose.sh healthy     waits until all that was started pass their health checks, ten minutes at most
#   sh infra/containers/compose.sh down
# Podman before 4.6, and where there is no systemd, neither runs health checks by itself nor waits for those of
# dependencies: start what others depend on first, and wait.
set -eu

here=$(cd -P "$(dirname "$0")" && pwd)
podman=$here/podman.sh
if [ "${1:-}" = healthy ]; then
    left=300
    while :; do
        waiting=
        for name in $("$podman" ps --all --filter "label=io.podman.compose.project=${COMPOSE_PROJECT_NAME:-relume}" --format '{{.Names}}'); do
            "$podman" healthcheck run "$name" >/dev/null 2>&1 || waiting="$waiting $name"
        done
        [ -n "$waiting" ] || exit 0
        if [ $((left -= 1)) -le 0 ]; then
            echo "error: these do not pass their health checks:$waiting" >&2
            echo "  next: sh infra/containers/podman.sh logs NAME" >&2
            exit 1
        fi
        sleep 2
    done
fi
compose=$here/../../.venv/bin/podman-compose
[ -x "$compose" ] || compose=podman-compose
exec "$compose" --podman-path "$podman" --in-pod=false --file "$here/../compose.yaml" --file "$here/../compose.local.yaml" "$@"
