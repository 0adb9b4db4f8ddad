#!/usr/bin/env bash
# Builds everything that is published of a version, as far as this machine can, into
# target/release-artifacts, and runs each to see that it works. What could not be built is said at the
# end, with what it needs, and is a failure unless --partial is given.
#
#   deploy/release.sh [--partial]
#
# Each artifact needs tools of its own, which on Debian are:
#   static x86_64 binary    rustup, musl-tools
#   static aarch64 binary   rustup, gcc-aarch64-linux-gnu; qemu-user-static to run it
#   Debian package          cargo-deb; lintian to check it
#   container image         docker
set -euo pipefail

partial=
case $* in
'') ;;
--partial) partial=yes ;;
*)
    echo "usage: $0 [--partial]" >&2
    exit 2
    ;;
esac
cd "$(dirname "$0")/.."

version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
export SOURCE_DATE_EPOCH CARGO_PROFILE_RELEASE_STRIP=symbols
cargo_target=$(cargo metadata --format-version 1 --no-deps --locked |
    python3 -c 'import json, sys; print(json.load(sys.stdin)["target_directory"])')
artifacts=$PWD/target/release-artifacts
input=$PWD/target/release-input
work=$(mktemp -d)
server=
not_built=()

finish() {
    if [[ -n $server ]]; then kill "$server" 2>/dev/null || true; fi
    rm -r "$work"
}
trap finish EXIT

step() { printf '\n== %s\n' "$*"; }
have() { command -v "$1" >/dev/null; }

# Starts a server by the given command, and has its own probe ping all five protocols.
verify() {
    local ready="$work/ready.json" urls
    rm -f "$ready"
    "$@" --tcp 0 --udp 0 --ws 0 --tls 0 --wss 0 --ready-file "$ready" 2>"$work/log" &
    server=$!
    until [[ -e $ready ]]; do
        kill -0 "$server" || { cat "$work/log" >&2; return 1; }
        sleep 0.1
    done
    mapfile -t urls < <(python3 -c '
import json, sys
for listener in json.load(open(sys.argv[1]))["listeners"]:
    print(listener["protocol"] + "://" + listener["address"])' "$ready")
    for url in "${urls[@]}"; do
        "$@" probe "$url" --insecure --count 2 --interval 10ms --timeout 20s >"$work/probe" 2>&1 ||
            { cat "$work/probe" >&2; return 1; }
    done
    kill -TERM "$server"
    wait "$server" || { cat "$work/log" >&2; return 1; }
    server=
    echo "it runs: all five protocols echo, and SIGTERM ends it with exit code 0"
}

# Packs a static binary with its documents: static TARGET RUNNER...
# With musl, since these are for hosts of any kind: a static glibc would load the host's NSS modules,
# which are of another version there.
static() {
    local target=$1 name="echo-server-$version-$1"
    shift
    cargo build --release --locked --bin echo-server --target "$target"
    mkdir "$work/$name"
    cp "$cargo_target/$target/release/echo-server" README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$work/$name"
    deploy/notices.sh "$target" >"$work/$name/THIRD-PARTY-NOTICES"
    cp -r "$input/man" "$input/completions" deploy/systemd "$work/$name"
    # The same names, owners and times whoever packs it.
    tar -C "$work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        --mode=u=rwX,go=rX --create "$name" | gzip --no-name --best >"$artifacts/$name.tar.gz"
    mkdir "$work/unpacked-$target"
    tar -C "$work/unpacked-$target" --extract --file "$artifacts/$name.tar.gz"
    if readelf --program-headers "$work/unpacked-$target/$name/echo-server" | grep --quiet INTERP; then
        echo "the binary for $target is not static" >&2
        return 1
    fi
    verify "$@" "$work/unpacked-$target/$name/echo-server"
}

# A C compiler for aarch64 with musl: Debian's cross compiler, which knows glibc, with the headers of
# Debian's musl-dev for that architecture. apt keeps its lists here, so that the machine's own
# architectures stay as they are. The path does not change, since cargo builds anew if it does.
aarch64_musl_compiler() {
    local root="$cargo_target/aarch64-musl" state="$work/apt"
    mkdir -p "$root" "$state/lists/partial" "$state/archives/partial"
    local apt=(-o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists="$state/lists"
        -o Dir::Cache::archives="$state/archives" -o Dir::Cache::pkgcache= -o Dir::Cache::srcpkgcache=
        -o APT::Sandbox::User=root -o Acquire::Retries=3)
    # The caller asks whether this works, and there `set -e` does not hold.
    apt-get "${apt[@]}" --quiet=2 update >&2 || return
    (cd "$state" && apt-get "${apt[@]}" --quiet=2 download musl-dev >&2) || return
    dpkg-deb --extract "$state"/musl-dev_*.deb "$root" || return
    printf '#!/bin/sh\nexec aarch64-linux-gnu-gcc -nostdinc -isystem %q -isystem %q "$@"\n' \
        "$root/usr/include/aarch64-linux-musl" "$(aarch64-linux-gnu-gcc -print-file-name=include)" >"$root/gcc"
    chmod +x "$root/gcc"
}

rm -rf "$artifacts" "$input"
mkdir -p "$artifacts" "$input/man" "$input/completions"
rehearsal=$(git status --porcelain)
if [[ $rehearsal ]]; then
    echo "The work tree has changes that are not committed: this is a rehearsal, not a release."
fi

step "the command, its completions and man pages"
cargo build --release --locked --bin echo-server
native=$cargo_target/release/echo-server
"$native" completions bash >"$input/completions/echo-server.bash"
"$native" completions zsh >"$input/completions/_echo-server"
"$native" completions fish >"$input/completions/echo-server.fish"
"$native" man "$input/man"
printf 'echo-server (%s-1) unstable; urgency=medium\n\n  * Release of version %s; changelog.gz has what is new.\n\n -- %s  %s\n' "$version" "$version" \
    "$(sed -n 's/^maintainer = "\(.*\)"/\1/p' Cargo.toml)" \
    "$(date --utc --rfc-email --date="@$SOURCE_DATE_EPOCH")" >"$input/changelog.Debian"
gzip --no-name --best <CHANGELOG.md >"$input/changelog.gz"
deploy/notices.sh "$(rustc --version --verbose | sed -n 's/^host: //p')" >"$work/notices"
gzip --no-name --best <"$work/notices" >"$input/THIRD-PARTY-NOTICES.gz"
for kind in man completions; do
    tar -C "$input" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner \
        --mode=u=rwX,go=rX --create "$kind" | gzip --no-name --best >"$artifacts/echo-server-$version-$kind.tar.gz"
done

x86_64=x86_64-unknown-linux-musl
step "static binary for $x86_64"
if [[ $(uname -m) == x86_64 ]] && have musl-gcc && rustup target add "$x86_64"; then
    static "$x86_64"
else
    not_built+=("the static binary for $x86_64: needs an x86_64 machine, musl-gcc (musl-tools) and rustup's target")
fi

aarch64=aarch64-unknown-linux-musl
step "static binary for $aarch64"
if have aarch64-linux-gnu-gcc && have qemu-aarch64-static && rustup target add "$aarch64" && aarch64_musl_compiler; then
    export CC_aarch64_unknown_linux_musl="$cargo_target/aarch64-musl/gcc" AR_aarch64_unknown_linux_musl=aarch64-linux-gnu-ar
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=aarch64-linux-gnu-gcc
    static "$aarch64" qemu-aarch64-static
else
    not_built+=("the static binary for $aarch64: needs gcc-aarch64-linux-gnu, qemu-user-static, apt's lists and rustup's target")
fi

step "Debian package"
if have cargo-deb; then
    cargo deb --locked --no-build --output "$artifacts/"
    deb=$(echo "$artifacts"/*.deb)
    if have lintian; then lintian --fail-on error "$deb"; fi
    dpkg-deb --extract "$deb" "$work/deb"
    verify "$work/deb/usr/bin/echo-server"
else
    not_built+=("the Debian package: needs cargo-deb (cargo install --locked cargo-deb)")
fi

step "container image"
if docker info >/dev/null 2>&1; then
    deploy/container/build.sh --outside "echo-server:$version"
    image="$artifacts/echo-server-$version-image-$(uname -m).tar.gz"
    docker save "echo-server:$version" | gzip --no-name >"$image"
    docker load --input "$image"
    IMAGE="echo-server:$version" cargo test --locked --test container -- --ignored --test-threads=1
else
    not_built+=("the image: needs docker")
fi

step "the crate"
if [[ $rehearsal ]]; then dirty=--allow-dirty; else dirty=; fi
cargo publish --dry-run --locked ${dirty:+"$dirty"}

step "checksums"
(cd "$artifacts" && sha256sum -- * >SHA256SUMS && sha256sum --check --quiet SHA256SUMS && ls -l)

if ((${#not_built[@]})); then
    printf '\nNOT BUILT: %s' "${not_built[@]}"
    echo
    # What is not complete must not pass for a release.
    [[ $partial ]] || exit 1
fi
