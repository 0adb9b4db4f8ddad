#!/bin/sh
# Compiles the image's static binary into DIRECTORY, beside its licences and those of what is linked in.
#
#   deploy/container/compile.sh DIRECTORY
#
# With glibc where that is Rust's target, and not with musl: musl's memmove copies backwards byte by
# byte, and a server of 16 KiB messages over TLS then takes twice the CPU time. docs/design.md has the
# figures.
set -eu
mkdir -p "$1"
directory=$(cd "$1" && pwd)
cd "$(dirname "$0")/../.."

target=$(rustc --version --verbose | sed -n 's/^host: //p')
# The target is given although it is the host's, since the flags are then not those of build scripts.
RUSTFLAGS='-C target-feature=+crt-static' CARGO_PROFILE_RELEASE_STRIP=symbols \
    cargo build --release --locked --bin echo-server --target "$target"
cp "${CARGO_TARGET_DIR:-target}/$target/release/echo-server" LICENSE-MIT LICENSE-APACHE "$directory"
deploy/notices.sh "$target" >"$directory/THIRD-PARTY-NOTICES"
