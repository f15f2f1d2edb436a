#!/bin/sh
# Installs the programs that tests run for real, or names the one command that brings them.
set -eu
PATH="$PATH:/usr/sbin"
packages=""
for pair in chromium:chromium node:nodejs npm:npm nginx:nginx prometheus:prometheus ip:iproute2 cc:gcc cc:libc6-dev valgrind:valgrind; do
    command -v "${pair%%:*}" >/dev/null || packages="$packages ${pair##*:}"
done
if [ -z "$packages" ]; then
    :
elif [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "make: installing$packages"
    apt-get -qq update
    # RUNLEVEL=1: installing a server's package must not start it.
    DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq install -y --no-install-recommends $packages >/dev/null
else
    echo "make: the tests need more programs; on Debian: sudo RUNLEVEL=1 apt-get install$packages" >&2
    exit 1
fi
node=$(node --version)
if [ "$(expr "$node" : 'v\([0-9]*\)')" -lt 20 ]; then
    echo "make: the client's tests need Node 20 or newer, this is $node; newer ones are at https://nodejs.org/" >&2
    exit 1
fi
