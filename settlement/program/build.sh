#!/usr/bin/env bash
# Builds the program from the registries alone: stock Rust, the standard library's source, sbpf-linker.
#
#   settlement/program/build.sh            writes aro_settlement.so and aro_settlement.so.sha256 beside this file
#   settlement/program/build.sh --check    builds in a temporary folder and fails if the committed bytes differ
#
# The bytes do not depend on the folder: every path is mapped away.
set -euo pipefail
rust=1.95.0
linker=0.2.6
here=$(cd "$(dirname "$0")" && pwd)
repo=$(cd "$here/../.." && pwd)
check=; [ "${1:-}" = --check ] && check=1

found=$(rustc --version | cut -d' ' -f2)
if [ "$found" != "$rust" ]; then
  echo "rustc $found builds other bytes than rustc $rust" >&2
  [ -z "$check" ] || exit 1
fi
"$here/rust-src.sh"
export PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
if [ "$(sbpf-linker --version 2>/dev/null | awk 'NR == 1 {print $2}')" != "$linker" ]; then
  cargo install sbpf-linker --version "=$linker" --locked
fi

target="$here/target"
if [ -n "$check" ]; then target=$(mktemp -d); trap 'rm -rf "$target"' EXIT; fi

flags=(
  -C linker=sbpf-linker
  -C panic=abort
  -C relocation-model=static
  -C target-cpu=v2
  -C target-feature=+allows-misaligned-mem-access
  -C link-arg=--llvm-args=--bpf-stack-size=4096
  # No part of the program may need 128-bit or float arithmetic; what needs it then fails to build.
  -C link-arg=--disable-math-builtins
  "--remap-path-prefix=$repo=/aro"
  "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
  "--remap-path-prefix=$(rustc --print sysroot)=/rust"
)
cd "$here"
env -u RUSTFLAGS -u RUSTC_WRAPPER \
  CARGO_ENCODED_RUSTFLAGS="$(IFS=$'\x1f'; echo "${flags[*]}")" \
  CARGO_TARGET_DIR="$target" RUSTC_BOOTSTRAP=1 \
  cargo build --release --locked --target bpfel-unknown-none -Z build-std=core,alloc
built="$target/bpfel-unknown-none/release/libaro_settlement.so"

if [ -n "$check" ]; then
  cmp "$built" "$here/aro_settlement.so"
  (cd "$here" && sha256sum --check --quiet aro_settlement.so.sha256)
  echo "aro_settlement.so is what the sources build"
else
  cp "$built" "$here/aro_settlement.so"
  chmod 644 "$here/aro_settlement.so"
  (cd "$here" && sha256sum aro_settlement.so > aro_settlement.so.sha256 && cat aro_settlement.so.sha256)
fi
