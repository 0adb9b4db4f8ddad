#!/usr/bin/env bash
# Builds the image, with docker (or podman as ENGINE).
#
#   deploy/container/build.sh [TAG]                  compiles in the build stage, whose base image is
#                                                    BUILD_IMAGE, if set
#   deploy/container/build.sh --outside [TAG]        compiles on this machine, and builds the final
#                                                    stage only, which needs no base image
set -euo pipefail

outside=
if [[ ${1-} == --outside ]]; then
    outside=yes
    shift
fi
tag=${1:-echo-server}
engine=${ENGINE:-docker}

cd "$(dirname "$0")/../.."
file=deploy/container/Containerfile
arguments=(
    --tag "$tag"
    --build-arg "VERSION=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)"
    --build-arg "REVISION=$(git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown)"
)
if [[ -n ${BUILD_IMAGE-} ]]; then arguments+=(--build-arg "BUILD_IMAGE=$BUILD_IMAGE"); fi

if [[ -z $outside ]]; then
    # Tracked files only, with what is not committed in them.
    git ls-files -z | tar --null --files-from - --create |
        "$engine" build --file "$file" "${arguments[@]}" -
    exit
fi

context=$(mktemp -d)
trap 'rm -r "$context"' EXIT
deploy/container/compile.sh "$context/image"
if readelf --program-headers "$context/image/echo-server" | grep --quiet INTERP; then
    echo "$0: the binary is not static, and cannot run in an image without a C library" >&2
    exit 1
fi
# The final stage alone, which then copies from the context.
sed -e '0,/^FROM scratch/{/^FROM scratch/!d}' -e 's/--from=build //' "$file" >"$context/Containerfile"
"$engine" build --file "$context/Containerfile" "${arguments[@]}" "$context"
