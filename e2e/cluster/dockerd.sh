#!/usr/bin/env bash
# dockerd.sh up|down: a dockerd of our own for a machine where none answers.
# It has no bridge of its own and writes no firewall rules: nodes meet on a
# network made for them, and published ports go through docker's userland
# proxy, so the machine's rules stay as they are. Its images stay in the cache,
# so that a second start finds the node image there.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
export DOCKER_HOST=unix://$run/docker.sock

# The number in the file may be another's by now: only a dockerd on our socket is
# ours. (One that was killed may stay in the process table, with no command line.)
running() { [ -e "$run/dockerd.pid" ] && tr '\0' ' ' <"/proc/$(cat "$run/dockerd.pid")/cmdline" 2>/dev/null | grep -qF "$DOCKER_HOST"; }

case ${1:-} in
  up)
    [ "$(id -u)" = 0 ] || die "no docker daemon answers, and starting one needs root"
    mkdir -p "$run" "$cache/docker" "$cache/log"
    running || rm -f "$run/dockerd.pid" # dockerd itself only asks whether the number is in use
    # Every descriptor but these three is closed: a daemon that inherits a
    # caller's lock or pipe would hold it for ever.
    setsid bash -c 'for fd in /proc/$$/fd/*; do fd=${fd##*/}; [ "$fd" -gt 2 ] && eval "exec $fd>&-"; done; exec "$@"' - \
      dockerd --data-root "$cache/docker" --exec-root "$run/exec" -H "$DOCKER_HOST" -p "$run/dockerd.pid" \
      --bridge=none --iptables=false --ip6tables=false --oom-score-adjust 0 \
      --add-runtime "held=$here/runc-held-caps" --default-runtime held >"$cache/log/dockerd.log" 2>&1 </dev/null &
    pid=$!
    for _ in $(seq 150); do
      docker info >/dev/null 2>&1 && exit
      kill -0 "$pid" 2>/dev/null || break
      sleep 0.2 # dockerd tells nobody when it is ready, except systemd
    done
    tail -n 5 "$cache/log/dockerd.log" >&2
    die "dockerd does not start; its log is $cache/log/dockerd.log" ;;
  down)
    [ -e "$run/dockerd.pid" ] || exit 0
    if running; then
      pid=$(cat "$run/dockerd.pid")
      kill "$pid"
      timeout 60 tail --pid="$pid" -f /dev/null || die "dockerd (process $pid) does not end"
    fi
    rm -f "$run/dockerd.pid" "$run/docker.sock"
    rmdir /sys/fs/cgroup/*/docker 2>/dev/null || true ;; # the empty cgroups it leaves
  *) die "usage: dockerd.sh up|down" ;;
esac
