# Sourced by the scripts of e2e/: where things are kept, what is made of which
# version, and how a step is shown. Nothing here does anything by itself.

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# kind, Kubernetes and Debian go together: kind v0.30 ships Kubernetes 1.34,
# and 1.34 is the last that runs on cgroup v1 as it is.
KIND_VERSION=v0.30.0
KUBE_VERSION=v1.34.4
KIND_NODE_IMAGE=kindest/node:v1.34.0 # where images can be pulled
SUITE=bookworm

cache=${FAIRWAY_CACHE:-${XDG_CACHE_HOME:-${HOME:?}/.cache}/fairway}
run=/run/fairway-e2e # dies with the machine, as what it speaks of does
log=${FAIRWAY_LOG:-$cache/log/${0##*/}.log}

name=fairway            # the kind cluster
network=fairway-e2e     # its docker network, and the bridge of that network
node_subnet=198.18.0.0/24   # docker gives nodes the lower half, device-netns takes the upper
node_range=198.18.0.0/25
provider=${FAIRWAY_E2E_PROVIDER:-kind}

die() { echo "${0##*/}: $*" >&2; exit 1; }

# say TEXT: a line for the reader, with the seconds since the script began.
say() { printf '%5ds  %s\n' "$SECONDS" "$*"; }

# step TITLE COMMAND...: runs it with its output in the log. One line when it
# is done; when it fails, the end of what it said and where the rest is.
# (`set -e` does not reach into a function that is called in a condition, so
# a step is always a script or a program of its own.)
step() {
  local title=$1 from=$SECONDS mark; shift
  mkdir -p "$(dirname "$log")"; touch "$log"; mark=$(wc -c <"$log")
  printf '\n== %s: %s\n' "$(date -u +%T)" "$title" >>"$log"
  if "$@" >>"$log" 2>&1 </dev/null; then
    say "$title ($((SECONDS - from)) s)"
  else
    tail -c "+$((mark + 1))" "$log" | tail -n 25 | sed 's/^/    /' >&2
    die "$title failed; all of its output is in $log"
  fi
}

# key FILE...: twelve characters that change when any of the files does.
key() { (cd "$here" && find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum | cat - <(printf '%s\n' "$KIND_VERSION $KUBE_VERSION $SUITE $(uname -m)") | sha256sum | cut -c1-12); }

programs_dir() { echo "$cache/programs-$KUBE_VERSION-$(key kubenode programs.sh)"; }
debian_dir() { echo "$cache/debian-$SUITE-$(key debian.sh)"; }
node_image() { echo "localhost/fairway-node:$KUBE_VERSION-$(key kubenode programs.sh debian.sh node-image.sh)"; }

# ours: true where the docker daemon that answers is the one dockerd.sh started.
ours() { [ -S "$run/docker.sock" ] && timeout 10 docker -H "unix://$run/docker.sock" info >/dev/null 2>&1; }
