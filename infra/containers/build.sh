#!/bin/sh
# Builds the container images of the named stages, or of all: sh infra/containers/build.sh [STAGE...]
# Images are called relume-<stage>:<tag>, as `meta.image` in dvc.yaml says. Environment variables:
#   ENGINE       podman or docker; the first that is installed by default
#   TAG          `latest` by default
#   BUILD_ARGS   more arguments for the build, such as --build-arg BASE_IMAGE=...
set -eu

cd "$(dirname "$0")/../.."
engine=${ENGINE:-$(command -v podman || command -v docker || true)}
if [ -z "$engine" ]; then
    echo "error: neither podman nor docker is installed" >&2
    echo "  next: run sudo apt-get install podman" >&2
    exit 1
fi
if [ $# -eq 0 ]; then
    set -- $(for file in components/*/requirements.txt; do basename "$(dirname "$file")"; done)
fi
ignore=
case $engine in
    *podman) ignore="--ignorefile infra/containers/Containerfile.dockerignore" ;;
esac
for stage; do
    if [ ! -f "components/$stage/requirements.txt" ]; then
        echo "error: there is no stage of this name: $stage" >&2
        echo "  next: choose one of: $(cd components && echo */requirements.txt | sed 's,/requirements.txt,,g')" >&2
        exit 2
    fi
    image=relume-$(echo "$stage" | tr _ -):${TAG:-latest}
    echo "building $image"
    # shellcheck disable=SC2086  # both hold several words or none
    "$engine" build $ignore ${BUILD_ARGS:-} --build-arg "COMPONENT=$stage" --target step \
        --file infra/containers/Containerfile --tag "$image" .
done
