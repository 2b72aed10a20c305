#!/bin/sh
# Runs a command with a Docker engine: the one that answers, else one of its own, on a socket of
# its own, which is gone afterwards. For machines that have none (as root, on Debian).
#
#   sh deploy/images/engine.sh make images
set -eu
if docker info >/dev/null 2>&1; then
    exec "$@"
fi
if ! command -v dockerd >/dev/null || ! command -v debootstrap >/dev/null; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends \
        debootstrap docker.io >/dev/null
fi
folder=$(mktemp -d)
engine=
# shellcheck disable=SC2317 # called by the trap
finish() {
    test -z "$engine" || { kill "$engine" 2>/dev/null && wait "$engine" || true; }
    # It leaves its own network behind.
    umount "$folder/run/netns/default" 2>/dev/null || true
    rm -rf "$folder"
}
trap finish EXIT
trap 'exit 129' HUP INT TERM
# Published ports are loopback's alone, and by a proxy: the machine's packet filter is left alone.
dockerd --host "unix://$folder/docker.sock" --data-root "$folder/data" --exec-root "$folder/run" \
    --pidfile "$folder/pid" --iptables=false --ip 127.0.0.1 >"$folder/log" 2>&1 &
engine=$!
DOCKER_HOST="unix://$folder/docker.sock"
export DOCKER_HOST
for _ in $(seq 60); do
    docker info >/dev/null 2>&1 && break
    kill -0 "$engine" 2>/dev/null || break
    sleep 0.5
done
docker info >/dev/null 2>&1 || { cat "$folder/log" >&2; exit 1; }
"$@"
