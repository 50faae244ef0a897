#!/usr/bin/env bash
# node-image.sh: a kind node image without pulling anything: the Debian base,
# kind's own base files out of its Go module, and Kubernetes' programs built
# from theirs. It does what `kind build node-image` does, in the same places,
# except for the CNI (podnet in kubenode/) and the images, which are made from
# scratch here; `kind build` itself would always pull them.
# The docker client must reach a daemon, which gets the image.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
bin=$(programs_dir) base=$(debian_dir) tag=$(node_image)
docker image inspect "$tag" >/dev/null 2>&1 && exit

kind_source=$(cd "$here/kubenode" && go mod download -json "sigs.k8s.io/kind@$KIND_VERSION" | jq -r .Dir)
work=$(mktemp -d "$cache/node-image.XXXXXX")
root=$work/root images=$work/images
containerd_pid=
cleanup() { [ -z "$containerd_pid" ] || kill "$containerd_pid" 2>/dev/null || true; rm -rf "$work"; }
trap cleanup EXIT

# What kind's images/base/Dockerfile does to a Debian.
base_files() {
  cp -a "$base" "$root"; rm "$root/.done"
  cp -r --no-preserve=mode "$kind_source"/images/base/files/. "$root/"
  chmod 755 "$root"/usr/local/bin/* "$root"/kind/bin/*
  local units=$root/lib/systemd/system
  rm -f "$units"/sysinit.target.wants/systemd-tmpfiles-setup.service "$units"/multi-user.target.wants/* \
    "$root"/etc/systemd/system/*.wants/* "$units"/local-fs.target.wants/* \
    "$units"/sockets.target.wants/*{udev,initctl}* "$units"/basic.target.wants/*
  echo ReadKMsg=no >>"$root/etc/systemd/journald.conf"
  systemctl --root="$root" -q enable kubelet containerd undo-mount-hacks
  systemctl --root="$root" -q mask systemd-binfmt.service
  ln -sf /usr/bin/{containerd,ctr,containerd-shim-runc-v2} "$root/usr/local/bin/"
  mkdir -p "$root"/opt/cni/bin "$root"/etc/kubernetes/manifests "$root"/kind/manifests
  cp "$root"/usr/lib/cni/{host-local,loopback,ptp,portmap} "$root/opt/cni/bin/"
  chroot "$root" ctr oci spec | jq '
    .hooks.createContainer[.hooks.createContainer|length] |= . + {"path": "/kind/bin/mount-product-files.sh"}
    | del(.process.rlimits)' >"$root/etc/containerd/cri-base.json"
  # Where root lacks CAP_SYS_RESOURCE no process may lower its oom_score_adj.
  sed -i 's/restrict_oom_score_adj = false/restrict_oom_score_adj = true/' "$root/etc/containerd/config.toml"
  # crictl is in no package: kind needs this much of it, for `kind export logs`.
  printf '#!/bin/sh\n[ "$1" = images ] && exec ctr -n k8s.io images ls\nexit 1\n' >"$root/usr/local/bin/crictl"
  chmod 755 "$root/usr/local/bin/crictl"
}

# constant FILE NAME and manifest FILE NAME read a Go constant of kind's source:
# the names and manifests must be the ones that this very kind applies.
constant() { sed -nE "s/^const $2 = \"(.*)\"/\1/p" "$kind_source/pkg/build/nodeimage/$1"; }
manifest() { awk -v n="$2" '$0 ~ "^const "n" = `" {p=1; next} /^`$/ {p=0} p' "$kind_source/pkg/build/nodeimage/$1"; }

kubernetes() {
  # One binary, hard-linked under each name.
  install -m 755 "$bin/kubenode" "$root/usr/bin/kubeadm"
  ln "$root/usr/bin/kubeadm" "$root/usr/bin/kubelet"
  ln "$root/usr/bin/kubeadm" "$root/usr/bin/kubectl"
  echo -n "$KUBE_VERSION" >"$root/kind/version"
  cni=$(constant const_cni.go kindnetdImage)
  provisioner=$(constant const_storage.go storageProvisionerImage)
  helper=$(constant const_storage.go storageHelperImage)
  # kind's manifest and image name for its CNI, with podnet as the program; our
  # one binary for everything is larger than kindnetd, so is its memory.
  manifest const_cni.go defaultCNIManifest | sed \
    -e "s|image: \` + kindnetdImage + \`|image: $cni\n        command: [podnet]|" \
    -e 's|^        env:|&\n        - name: NODE_NAME\n          valueFrom: {fieldRef: {fieldPath: spec.nodeName}}|' \
    -e 's/"50Mi"/"150Mi"/' >"$root/kind/manifests/default-cni.yaml"
  manifest const_storage.go defaultStorageManifest | sed \
    -e "s|\` + storageProvisionerImage + \`|$provisioner|; s|\` + storageHelperImage + \`|$helper|" \
    >"$root/kind/manifests/default-storage.yaml"
}

# add DIR FILE...: files of the node's Debian, and the libraries they load.
add() {
  local dir=$1 f; shift
  for f in "$@" $(chroot "$root" ldd "$@" 2>/dev/null | grep -oE '/[^ ]+[^ :]' | sort -u); do
    mkdir -p "$dir$(dirname "$f")"; cp -Ln "$root$f" "$dir$f"
  done
}

# import DIR CHANGE NAME...: an image out of a folder.
names=()
import() {
  local dir=$1 change=$2 id n; shift 2
  id=$(tar -C "$images/$dir" -c . | docker import -c "$change" -)
  for n in "$@"; do docker tag "$id" "$n"; names+=("$n"); done
}

# The images that kubeadm and kind start. One root file system serves every
# Kubernetes program, so its one layer is stored once.
kube_images() {
  local k=$images/kube p extensions wanted programs
  mkdir -p "$k"/{usr/local/bin,usr/bin,bin,sbin,tmp,etc,run}
  install -m 755 "$bin/kubenode" "$k/usr/local/bin/kubenode"
  for p in etcd kube-apiserver kube-controller-manager kube-scheduler kube-proxy podnet; do
    ln -s kubenode "$k/usr/local/bin/$p"
  done
  # The libraries of iptables' extensions too (libm, for `statistic`): without
  # them kube-proxy's rules are refused, and only its log tells.
  mapfile -t extensions < <(cd "$root" && find usr/lib/*/xtables -name 'lib*.so' -printf '/%p\n')
  add "$k" /usr/sbin/xtables-nft-multi /usr/sbin/nft /usr/sbin/conntrack "${extensions[@]}"
  for p in ip{,6}tables{,-save,-restore}; do ln -s xtables-nft-multi "$k/usr/sbin/$p"; done

  mkdir -p "$images"/{pause,coredns,provisioner/usr/bin,helper/bin}
  install -m 755 "$bin/pause" "$images/pause/pause"
  install -m 755 "$bin/coredns" "$images/coredns/coredns"
  install -m 755 "$bin/local-path-provisioner" "$images/provisioner/usr/bin/"
  cp "$root/bin/busybox" "$images/helper/bin/"
  for p in sh rm mkdir; do ln -s busybox "$images/helper/bin/$p"; done

  mapfile -t wanted < <(chroot "$root" kubeadm config images list --kubernetes-version "$KUBE_VERSION" 2>/dev/null)
  mapfile -t programs < <(printf '%s\n' "${wanted[@]}" | grep -E '/(kube-|etcd)')
  import kube 'ENV PATH=/usr/local/bin:/usr/sbin:/usr/bin' "${programs[@]}" "$cni"
  import pause 'ENTRYPOINT ["/pause"]' "$(sed -nE 's/.*sandbox_image = "(.*)"/\1/p' "$root/etc/containerd/config.toml")"
  import coredns 'ENTRYPOINT ["/coredns"]' "$(printf '%s\n' "${wanted[@]}" | grep /coredns/)"
  import provisioner 'ENV PATH=/usr/bin' "$provisioner"
  import helper 'ENV PATH=/bin' "$helper"
  docker save "${names[@]}" -o "$images/images.tar"
}

# Into the node's containerd store, not unpacked, as kind does it. Both
# containerds are Debian's, so the machine's own can fill the node's store.
preload() {
  local dir=$work/containerd
  mkdir "$dir"
  cat >"$dir/config.toml" <<EOF
version = 2
root = "$root/var/lib/containerd"
state = "$dir/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "$dir/sock"
EOF
  containerd --config "$dir/config.toml" >"$dir/log" 2>&1 & containerd_pid=$!
  for _ in $(seq 100); do ctr -a "$dir/sock" version >/dev/null 2>&1 && break; sleep 0.1; done
  ctr -a "$dir/sock" -n k8s.io images import --label=io.cri-containerd.pinned=pinned --no-unpack --digests "$images/images.tar" >/dev/null
  ctr -a "$dir/sock" -n k8s.io images ls -q | grep -v '@'
  kill "$containerd_pid"; wait "$containerd_pid" || true; containerd_pid=
  docker rmi -f "${names[@]}" >/dev/null
}

base_files
kubernetes
kube_images
preload
# No STOPSIGNAL, which import cannot set: kind removes its nodes by force.
tar -C "$root" -c . | docker import -c 'ENV container=docker' -c 'ENTRYPOINT ["/usr/local/bin/entrypoint", "/sbin/init"]' - "$tag"
# Those of older versions of these scripts: nothing will ask for them again.
docker image ls --format '{{.Repository}}:{{.Tag}}' "${tag%:*}" | { grep -vxF "$tag" || true; } | xargs -r docker image rm -f >/dev/null
