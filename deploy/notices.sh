#!/bin/sh
# Prints the licences of all that is linked into the binary for TARGET besides this project's own code:
# each text once, below the names of the crates that carry it.
#
#   deploy/notices.sh TARGET
#
# It reads the crates' sources, where cargo has put them to compile: cargo's registry, or the vendored
# directory that build-base.sh makes. In POSIX shell, since the image's build stage has no Python.
set -eu
target=$1
cd "$(dirname "$0")/.."

cargo_home=${CARGO_HOME:-$HOME/.cargo}
texts=$(mktemp -d)
trap 'rm -r "$texts"' EXIT

# The sources of a crate, NAME-VERSION.
sources() {
    for directory in "$cargo_home"/registry/src/*/"$1" "$cargo_home/vendor/$1"; do
        if [ -d "$directory" ]; then
            echo "$directory"
            return
        fi
    done
    echo "$0: the sources of $1 are neither in $cargo_home/registry nor in $cargo_home/vendor" >&2
    return 1
}

# Notes that CRATE carries the text of FILE.
add() {
    sum=$(sha256sum <"$2" | cut -d ' ' -f 1)
    if [ ! -e "$texts/$sum.text" ]; then cp "$2" "$texts/$sum.text"; fi
    echo "$1" >>"$texts/$sum.crates"
}

# Lines of: name vVERSION|licence. Procedural macros run in the compiler and are not linked; this
# package is the line with a path.
cargo tree --locked --target "$target" --edges normal,no-proc-macro --prefix none --format '{p}|{l}' |
    grep -v ' (/' | sort -u | sed 's/ v\([^ |]*\)[^|]*|/-\1|/' >"$texts/list"
if [ ! -s "$texts/list" ]; then
    echo "$0: cargo lists no dependencies for $target" >&2
    exit 1
fi
while IFS='|' read -r crate licence; do
    directory=$(sources "$crate")
    # aws-lc and mimalloc are C code within a crate, with licences of their own further down.
    find "$directory" -maxdepth 4 -type f \( -iname 'licen[cs]e*' -o -iname 'copying*' -o -iname 'copyright*' \
        -o -iname 'notice*' -o -iname 'unlicense*' \) ! -name '*.rs' ! -name '*.py' >"$texts/files"
    if [ ! -s "$texts/files" ]; then echo "$crate: $licence" >>"$texts/without"; fi
    while read -r file; do add "$crate" "$file"; done <"$texts/files"
done <"$texts/list"

# The C library, where it is linked statically.
case $target in
*-musl) library='musl (MIT)' copyright=/usr/share/doc/musl-dev/copyright ;;
*-gnu) library='the GNU C library (LGPL-2.1-or-later), where it is linked statically' copyright=/usr/share/doc/libc6-dev/copyright ;;
*) library="the system's C library" copyright= ;;
esac
if [ -n "$copyright" ] && [ -e "$copyright" ]; then add "$library" "$copyright"; fi

cat <<END
echo-server is licensed under MIT or Apache-2.0, at your option. Its binary for $target also has:

- Rust's standard library (MIT or Apache-2.0), https://github.com/rust-lang/rust
- $library
- the crates below; each licence stands once, below the names of all that carry it.
END
if [ -e "$texts/without" ]; then
    printf '\nCrates that come without the text of their licence:\n'
    sed 's/^/  /' "$texts/without"
fi
for crates in "$texts"/*.crates; do
    printf '\n%s\n' '================================================================================'
    sort -u "$crates"
    printf '%s\n\n' '--------------------------------------------------------------------------------'
    cat "${crates%.crates}.text"
done
