#!/usr/bin/env bash
# programs.sh [kind|kubectl|helm ...]: builds, from Go modules only, the named
# programs or else every program that a cluster made without a registry needs.
# One module for all, so that what they share is compiled once.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
bin=$(programs_dir)
mkdir -p "$bin"
cd "$here/kubenode"

minor=${KUBE_VERSION#v1.} minor=${minor%%.*}
flags="-s -w"
for pkg in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
  flags+=" -X $pkg.gitVersion=$KUBE_VERSION -X $pkg.gitMajor=1 -X $pkg.gitMinor=$minor"
done
flags+=" -X helm.sh/helm/v3/internal/version.version=$(go list -m -f '{{.Version}}' helm.sh/helm/v3)"
# Niced: seven minutes of compiling must not starve what runs beside it.
build() { CGO_ENABLED=0 nice -n 5 go build -buildvcs=false -trimpath -ldflags "$flags" -o "$bin/" "$@"; }

if [ $# -gt 0 ]; then
  for program in "$@"; do
    [ -e "$bin/$program" ] && continue
    case $program in
      kind) build sigs.k8s.io/kind ;;
      kubectl) build k8s.io/kubernetes/cmd/kubectl ;;
      helm) build helm.sh/helm/v3/cmd/helm ;;
      *) die "unknown program $program" ;;
    esac
  done
  exit
fi

[ -e "$bin/.all" ] && exit
build . ./pause ./coredns sigs.k8s.io/kind helm.sh/helm/v3/cmd/helm
# On its own: its import of Sirupsen/logrus collides with sirupsen/logrus.
build github.com/rancher/local-path-provisioner
ln -sf kubenode "$bin/kubectl"
touch "$bin/.all"
