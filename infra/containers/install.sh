#!/bin/sh
# Runs while an image is built: installs what the named steps import, at the versions of constraints.txt, and lists all
# that is installed in /opt/relume/sbom.cdx.json (CycloneDX).
set -eu

install="pip install --constraint /requirements/constraints.txt"
for step; do
    requirements="${requirements:-} --requirement /requirements/$step.txt"
done
# shellcheck disable=SC2086  # both hold several words
$install $requirements
pip check
# The program that makes the list is not part of it.
python3 -m venv /tmp/inventory
# shellcheck disable=SC2086  # several words
/tmp/inventory/bin/$install --quiet cyclonedx-bom==7.5.0
/tmp/inventory/bin/cyclonedx-py environment --output-reproducible --output-file /opt/relume/sbom.cdx.json \
    /opt/relume/bin/python
rm -rf /tmp/inventory
