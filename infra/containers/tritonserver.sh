#!/bin/sh
# Starts the embedded Triton in the image `triton`, as the published image that infra/compose.yaml names starts its own.
set -eu

export PATH="/opt/triton/env/bin:$PATH" # models' processes find their Python by it
exec /opt/triton/env/tritonserver/bin/tritonserver --backend-directory=/opt/triton/env/tritonserver/backends \
    --disable-auto-complete-config "$@"
