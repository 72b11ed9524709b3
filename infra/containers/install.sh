#!/bin/sh
# Runs while an image is built: installs what the named layer holds, each file with a hash of its list, and lists all
# that is installed in /opt/relume/sbom.cdx.json (CycloneDX).
set -eu

pip install --no-deps --require-hashes --requirement "/requirements/locked/$1.txt"
pip check
# The program that makes the list is not part of it.
python3 -m venv /tmp/inventory
/tmp/inventory/bin/pip install --quiet --no-deps --require-hashes --requirement /requirements/locked/inventory.txt
/tmp/inventory/bin/cyclonedx-py environment --output-reproducible --output-file /opt/relume/sbom.cdx.json \
    /opt/relume/bin/python
rm -rf /tmp/inventory
