#!/bin/sh
# Builds the images of the named kinds, or of all kinds of steps: sh infra/containers/build.sh [KIND...]
#   data training evaluation dvc        of steps
#   platform                            of the services of infra/compose.yaml and infra/kubernetes
#   postgres s3 prometheus triton       in the place of published ones, for infra/compose.local.yaml
# Images are called relume-<kind>:<tag>, as `meta.image` in dvc.yaml says. pip's settings on this machine, its
# certificates and its local folders are handed to the build and stay out of the images. Environment variables:
#   ENGINE       `docker` builds with Docker; podman.sh does by default
#   TAG          `latest` by default
#   BUILD_ARGS   more arguments for the build, such as --build-arg BASE_IMAGE=...
set -eu

cd -P "$(dirname "$0")/../.."
[ $# -gt 0 ] || set -- data training evaluation dvc
for kind; do
    case $kind in
        data | training | evaluation | dvc | platform | postgres | s3 | prometheus | triton) ;;
        *)
            echo "error: there is no kind of image of this name: $kind" >&2
            echo "  next: choose one of: data training evaluation dvc platform postgres s3 prometheus triton" >&2
            exit 2
            ;;
    esac
done

# The commit that last changed what images are made of: later ones give the same image.
made_of="constraints.txt infra/containers/Containerfile infra/containers/install.sh infra/containers/locked"
# shellcheck disable=SC2086  # several words
commit=$(git log -1 --format=%H -- $made_of)$(git diff --quiet HEAD -- $made_of || echo -dirty)
# A name of this machine's says nothing elsewhere, and a password in an address is not for images.
source=$(git remote get-url origin 2>/dev/null | sed -n 's,^\([a-z]*://\)\([^/@]*@\)\{0,1\},\1,p' || true)

# pip's own view of its settings, the strongest first, as one file.
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python=$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)
{
    echo "[global]"
    "$python" -m pip config list | sed -n "s/^[^.]*\.\([a-z-]*\)='\(.*\)'\$/\1 = \2/p" | sed 's/\\n/ /g' |
        awk '!seen[$1]++'
} >"$folder/pip.conf"
set_up="--secret id=pip,src=$folder/pip.conf"
# Not in the build file: a layer that is there already would keep the labels of an earlier commit.
label="--label org.opencontainers.image"
if [ "${ENGINE:-}" = docker ]; then
    engine="docker"
else
    engine="sh infra/containers/podman.sh"
    set_up="$set_up --isolation=chroot --ignorefile infra/containers/Containerfile.dockerignore"
    # The pages of an index on this disk link to files beside their folder.
    for place in $(sed 's,file://\(/[^ ]*\)/[^/ ]*,\1,g' "$folder/pip.conf") /etc/ssl/certs/ca-certificates.crt; do
        case $place in
            /*) [ ! -e "$place" ] || set_up="$set_up --volume $place:$place:ro" ;;
        esac
    done
    if $engine image exists localhost/relume-base; then
        set_up="$set_up --pull=never --build-arg BASE_IMAGE=localhost/relume-base"
    fi
fi

for kind; do
    image=relume-$kind:${TAG:-latest}
    echo "building $image"
    # shellcheck disable=SC2086  # all hold several words
    $engine build $set_up ${BUILD_ARGS:-} --target "$kind" --file infra/containers/Containerfile --tag "$image" \
        $label.title="relume-$kind" $label.licenses=Apache-2.0 $label.revision="$commit" $label.source="$source" .
    $engine image inspect --format "$image {{.Size}} bytes" "$image"
done
