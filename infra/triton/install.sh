#!/bin/sh
# Creates the embedded Triton server's environment, RELUME_HOME/triton/env. Run again, it does nothing unless the
# requirements, this script or the Python changed. It is built aside and renamed, so it is whole or absent.
#
#   sh infra/triton/install.sh            with the checkout's .venv, else python3
#   PYTHON=python3.12 sh infra/triton/install.sh
set -eu

here=$(cd "$(dirname "$0")" && pwd)
checkout=$(cd "$here/../.." && pwd)
triton=${RELUME_HOME:-$checkout/.relume}/triton
python=${PYTHON:-$checkout/.venv/bin/python}
command -v "$python" >/dev/null || python=python3

fail() {
    printf 'error: %s\n' "$1" >&2
    printf '  next: %s\n' "$2" >&2
    exit 1
}

version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
case $version in
    3.11 | 3.12) ;;
    *) fail "the embedded Triton server needs Python 3.11 or 3.12, $python is $version" \
        "PYTHON=python3.11 sh infra/triton/install.sh" ;;
esac
[ "$(uname -sm)" = "Linux x86_64" ] ||
    fail "the embedded Triton server runs on Linux x86_64 only, this is $(uname -sm)" \
        "serve with the Triton image on another machine: relume restore --server URL"

mkdir -p "$triton"
exec 9>"$triton/install.lock"
flock 9

stamp=$(cat "$here/requirements.txt" "$0" | sha256sum | cut -c1-16)-$("$python" -c 'import sys; print(sys.base_prefix, sys.version)' | sha256sum | cut -c1-16)
if [ "$(cat "$triton/env/stamp" 2>/dev/null)" = "$stamp" ]; then
    exit 0
fi

# The server embeds Python: it needs the interpreter's shared library, which Debian keeps in a package of its own.
library() {
    "$python" - <<'PYTHON'
import glob, sysconfig
name = f"libpython{sysconfig.get_python_version()}.so.1.0"
folders = [sysconfig.get_config_var("LIBDIR"), "/usr/lib/x86_64-linux-gnu", "/usr/lib64"]
print(next((path for folder in folders for path in glob.glob(f"{folder}/{name}")), ""))
PYTHON
}
if [ -z "$(library)" ]; then
    install="apt-get install -y --no-install-recommends libpython$version"
    if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
        { apt-get update -q && $install; } || true
    elif command -v apt-get >/dev/null && sudo -n true 2>/dev/null; then
        { sudo -n apt-get update -q && sudo -n $install; } || true
    fi
    [ -n "$(library)" ] || fail "libpython$version.so.1.0 is missing, which the Triton server embeds" "sudo $install"
fi

echo "Installing the embedded Triton server into $triton/env"
building=$triton/env.building
rm -rf "$building" "$triton/env.old"
trap 'rm -rf "$building"' EXIT
"$python" -m venv --without-pip "$building"
"$python" -m pip --python "$building/bin/python" install --quiet --no-deps -r "$here/requirements.txt"

packages=$building/lib/python$version/site-packages
server=$packages/pytriton/tritonserver
# A link, because a copy of the stub hangs when it starts.
ln -s "../../python_backend_stubs/$version/triton_python_backend_stub" "$server/backends/python/"
ln -sf "$(library)" "$packages/nvidia_pytriton.libs/"
chmod +x "$server/bin/tritonserver" "$server/python_backend_stubs/$version/triton_python_backend_stub"
ln -s "lib/python$version/site-packages/pytriton/tritonserver" "$building/tritonserver"

for program in bin/tritonserver backends/python/triton_python_backend_stub; do
    if missing=$(ldd "$server/$program" | grep "not found"); then
        fail "$program misses libraries: $missing" "use Debian 12, Ubuntu 22.04 or newer"
    fi
done
"$building/bin/python" -c 'import numpy, onnxruntime, openvino; assert numpy.__version__.startswith("1.26")'

printf '%s' "$stamp" >"$building/stamp"
if [ -e "$triton/env" ]; then
    mv "$triton/env" "$triton/env.old"
fi
mv "$building" "$triton/env"
rm -rf "$triton/env.old"
