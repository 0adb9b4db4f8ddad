#!/usr/bin/env bash
# Makes the image that the Containerfile's build stage starts from, where no registry can be reached:
# Debian by debootstrap, this machine's Rust toolchain, and the sources of all dependencies. Needs
# root, debootstrap and docker (or podman as ENGINE).
#
#   deploy/container/build-base.sh [IMAGE]        the image is echo-server-build unless given
set -euo pipefail
cd "$(dirname "$0")/../.."

image=${1:-echo-server-build}
engine=${ENGINE:-docker}
suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
sysroot=$(rustc --print sysroot)

root=$(mktemp -d)
trap 'rm -rf --one-file-system "$root"' EXIT

debootstrap --variant=minbase --include=ca-certificates,gcc,libc6-dev "$suite" "$root" >&2
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

# The toolchain without its documentation, which is larger than the rest.
mkdir -p "$root/usr/local/rust" "$root/usr/local/cargo"
tar -C "$sysroot" --exclude=./share -c . | tar -C "$root/usr/local/rust" -x

# cargo takes the sources from here, as this file says, and asks no registry.
cargo vendor --locked --quiet --versioned-dirs "$root/usr/local/cargo/vendor" >/dev/null
cat >"$root/usr/local/cargo/config.toml" <<'CONFIG'
[source.crates-io]
replace-with = "vendored"
[source.vendored]
directory = "/usr/local/cargo/vendor"
CONFIG

tar -C "$root" -c . | "$engine" import \
    --change 'ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'ENV CARGO_HOME=/usr/local/cargo' - "$image"
