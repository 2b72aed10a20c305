#!/bin/sh
# Makes a base for the images where no registry is reached: Debian with its own Python, from
# Debian's packages alone. Gives the image's name.
#
#   sh deploy/images/base.sh windsor-base:bookworm
set -eu
image=$1
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates bookworm "$folder" >&2
# The authorities that this machine trusts, as its own registries may need.
cp /etc/ssl/certs/ca-certificates.crt "$folder/etc/ssl/certs/ca-certificates.crt"
rm -rf "$folder"/var/cache/apt/archives/*.deb "$folder"/var/lib/apt/lists/*
tar -C "$folder" -c . | docker import - "$image" >&2
echo "$image"
