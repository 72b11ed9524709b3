#!/bin/sh
# Builds the images of the steps named, or of all: sh infra/containers/build.sh [STEP...]
# Images are called relume-<step>:<tag>, as `meta.image` in dvc.yaml says. What is in the environment:
#   ENGINE       podman or docker; the first that is installed by default
#   TAG          `latest` by default
#   BUILD_ARGS   more arguments for the build, such as --build-arg BASE_IMAGE=...
set -eu

cd "$(dirname "$0")/../.."
engine=${ENGINE:-$(command -v podman || command -v docker || true)}
if [ -z "$engine" ]; then
    echo "error: neither podman nor docker is installed" >&2
    echo "  next: sudo apt-get install podman" >&2
    exit 1
fi
if [ $# -eq 0 ]; then
    set -- $(for file in components/*/requirements.txt; do basename "$(dirname "$file")"; done)
fi
ignore=
case $engine in
    *podman) ignore="--ignorefile infra/containers/Containerfile.dockerignore" ;;
esac
for step; do
    if [ ! -f "components/$step/requirements.txt" ]; then
        echo "error: no such step: $step" >&2
        echo "  next: choose from: $(cd components && echo */requirements.txt | sed 's,/requirements.txt,,g')" >&2
        exit 2
    fi
    image=relume-$(echo "$step" | tr _ -):${TAG:-latest}
    echo "building $image"
    # shellcheck disable=SC2086  # both hold several words or none
    "$engine" build $ignore ${BUILD_ARGS:-} --build-arg "COMPONENT=$step" --target step \
        --file infra/containers/Containerfile --tag "$image" .
done
