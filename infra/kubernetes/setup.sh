#!/bin/sh
# Builds the API server of Kubernetes 1.20 with its Job controller from Debian's source package, and brings Debian's
# etcd: what the tests of the runner `kubernetes` talk to. A quarter of an hour of CPU; run again, it does nothing that
# is done. It needs root and Debian 12. A cluster of yours needs nothing of this.
set -eu

cd -P "$(dirname "$0")/../.."
programs=${RELUME_HOME:-$PWD/.relume}/kubernetes
if [ -x "$programs/kube-apiserver" ] && [ -x "$programs/kube-controller-manager" ] && [ -x "$programs/etcd" ]; then
    exit 0
fi
apt-get update -q
apt-get install -y --no-install-recommends dpkg-dev golang-go
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
# The machine's own sources need not name source packages.
sed 's/^Types: deb$/Types: deb-src/' /etc/apt/sources.list.d/debian.sources >sources.sources
mkdir -p lists/partial
lists="-o Dir::Etc::sourcelist=$folder/sources.sources -o Dir::Etc::sourceparts=/dev/null -o Dir::State::lists=$folder/lists"
# shellcheck disable=SC2086  # several words
apt-get $lists -o APT::Sandbox::User=root update -q
# shellcheck disable=SC2086
apt-get $lists -o APT::Sandbox::User=root source kubernetes
apt-get -o APT::Sandbox::User=root download etcd-server
dpkg-deb --extract etcd-server_*.deb etcd

mkdir -p go/src/k8s.io "$programs"
mv kubernetes-*/ go/src/k8s.io/kubernetes
cd go/src/k8s.io/kubernetes
# The description of all types for clients such as kubectl would first have to be generated; the tests do without it.
cat >pkg/generated/openapi/zz_generated.openapi.go <<'END'
package openapi

import "k8s.io/kube-openapi/pkg/common"

func GetOpenAPIDefinitions(common.ReferenceCallback) map[string]common.OpenAPIDefinition { return nil }
END
sed -i 's/^\tgenericConfig.Authorization.Authorizer, /\tgenericConfig.OpenAPIConfig = nil\n&/' cmd/kube-apiserver/app/server.go
version="-X k8s.io/component-base/version.gitVersion=v1.20.2 -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=20"
GOPATH=$folder/go GOCACHE=$folder/cache GO111MODULE=off CGO_ENABLED=0 \
    go build -trimpath -ldflags "-s -w $version" -o "$folder/bin/" ./cmd/kube-apiserver ./cmd/kube-controller-manager
mv "$folder"/bin/* "$folder/etcd/usr/bin/etcd" "$programs"
