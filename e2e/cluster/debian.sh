#!/usr/bin/env bash
# debian.sh: the Debian root file system under the node image, from packages.
# Kept between runs: it is the slow part of the node image.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
base=$(debian_dir)
[ -e "$base/.done" ] && exit
[ "$(id -u)" = 0 ] || die "making a node image needs root (debootstrap)"

mirror=$(apt-get indextargets --format '$(REPO_URI)' "Codename: $SUITE" 2>/dev/null | head -n 1)
packages=(
  systemd systemd-sysv containerd runc containernetworking-plugins
  conntrack iptables nftables iproute2 ethtool kmod libseccomp2
  util-linux mount bash ca-certificates jq procps busybox-static
)
rm -rf "$base"
mkdir -p "$cache/debs"
nice -n 5 debootstrap --variant=minbase --cache-dir="$cache/debs" \
  --include="$(IFS=,; echo "${packages[*]}")" "$SUITE" "$base" ${mirror:+"$mirror"}
rm -rf "$base"/var/lib/apt/lists/* "$base"/var/cache/apt/* "$base"/usr/share/{doc,man,locale,info}/*
touch "$base/.done"
