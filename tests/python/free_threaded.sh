#!/usr/bin/env bash
# A CPython without the GIL, compiled from the source that Debian trixie builds its python3.13 of:
# free_threaded.sh FOLDER [JOBS]. What it needs is installed already.
set -euo pipefail
version=3.13.5
sha256=93e583f243454e6e9e4588ca2c2662206ad961659863277afcdb96801647d640

[[ $# -ge 1 ]] || { printf 'usage: %s FOLDER [JOBS]\n' "$0" >&2; exit 2; }
[[ -x /usr/lib/apt/apt-helper ]] || {
    printf 'the source of CPython is fetched with apt: this needs Debian or its kin\n' >&2
    exit 1
}
mkdir -p "$1"
home=$(cd "$1" && pwd)
jobs=${2:-$(nproc)}

# whichever mirror apt has been told of
mirror() {
    # shellcheck disable=SC2016 # apt's names, not the shell's
    { apt-get indextargets --format '$(ORIGIN) $(REPO_URI)' 2>/dev/null || true; } |
        awk '$1 == "Debian" && $2 !~ /security/ { mirror = $2 }
            END { print mirror ? mirror : "http://deb.debian.org/debian/" }'
}

rm -rf "${home:?}"/*
source=$home/source
mkdir "$source"
/usr/lib/apt/apt-helper download-file \
    "$(mirror)pool/main/p/python3.13/python3.13_$version.orig.tar.xz" "$source.tar.xz" "SHA256:$sha256"
tar -xJf "$source.tar.xz" -C "$source" --strip-components=1
cd "$source"
./configure --prefix="$home" --disable-gil --disable-test-modules --without-ensurepip
make -j "$jobs"
make install
cd "$home"
rm -rf "$source" "$source.tar.xz"
