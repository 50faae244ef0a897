#!/usr/bin/env bash
# packages.sh: what the cluster and its scenarios need from the system. Installs
# what is missing where that is possible, and says in one line what is not.
set -euo pipefail
. "$(dirname "$0")/lib.sh"

declare -A package_of=( # program -> Debian's package
  [docker]=docker.io [dockerd]=docker.io [debootstrap]=debootstrap [containerd]=containerd [ctr]=containerd [runc]=runc
  [iptables]=iptables [ip]=iproute2 [jq]=jq [capsh]=libcap2-bin [tcpdump]=tcpdump [mosquitto_pub]=mosquitto-clients
  [cc]=build-essential [objcopy]=binutils [haproxy]=haproxy [curl]=curl [nsenter]=util-linux [flock]=util-linux
  [tinyproxy]=tinyproxy
)
missing=()
for program in "${!package_of[@]}"; do
  PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || missing+=("${package_of[$program]}")
done
# Nothing can replace these: Debian's Go is older than what Kubernetes builds with.
command -v go >/dev/null || die "Go is missing (1.24 or newer)"
command -v cargo >/dev/null || die "Rust is missing: install rustup"

[ ${#missing[@]} = 0 ] && exit
mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  die "missing: ${missing[*]} (names of Debian's packages; installed by themselves only for root on Debian)"
fi
# A package's service must not start here: it would outlive us.
policy=/usr/sbin/policy-rc.d
[ -e $policy ] || { printf '#!/bin/sh\nexit 101\n' >$policy; chmod 755 $policy; trap 'rm -f $policy' EXIT; }
apt-get update -qq
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
