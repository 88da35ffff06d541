#!/usr/bin/env bash
# Builds the kernel of test/vm, build/kernel/bzImage, from Debian's package linux-source-7.3 and test/vm/kernel.config.
# With --config it ends when the configuration is made and checked. Fails, and says what to do, when the package or a
# tool is not there, or when the configuration lacks an option that the fragment asks for.
set -eu
cd "$(dirname "$0")/.."
package=linux-source-7.3
fragment=$PWD/test/vm/kernel.config
build=$PWD/build/kernel

missing=()
for tool in make gcc flex bison bc xz dpkg-deb; do command -v "$tool" >/dev/null || missing+=("$tool"); done
[ -e /usr/include/libelf.h ] || missing+=(libelf-dev)
if [ "${#missing[@]}" -gt 0 ]; then
  echo "Missing: ${missing[*]}. On Debian: apt-get install build-essential flex bison bc xz-utils libelf-dev" >&2
  exit 1
fi

mkdir -p "$build"
if [ ! -e "$build/source/Makefile" ]; then
  archive=/usr/src/$package.tar.xz
  if [ ! -e "$archive" ]; then
    # What an earlier run has left may be of another version, or not whole.
    rm -rf "$build/package" && mkdir "$build/package"
    if ! (cd "$build/package" && apt-get download "$package"); then
      echo "apt has no package $package. It is in Debian's suite trixie-backports: add that suite to a file in" >&2
      echo '/etc/apt/sources.list.d (same mirror and components as your trixie), run apt-get update, and try again.' >&2
      exit 1
    fi
    dpkg-deb -x "$build/package/$package"_*.deb "$build/package"
    archive=$build/package/usr/src/$package.tar.xz
  fi
  # Its name is the sign that the source is whole.
  rm -rf "$build/unpacked" && mkdir "$build/unpacked"
  tar -xf "$archive" -C "$build/unpacked" --strip-components=1
  mv "$build/unpacked" "$build/source"
  rm -rf "$build/package"
fi

make -s -C "$build/source" O="$build/out" KCONFIG_ALLCONFIG="$fragment" alldefconfig
lost=0
while read -r line; do
  case $line in
    CONFIG_*) grep -qxF "$line" "$build/out/.config" || { echo "Not in the configuration: $line" >&2; lost=1; } ;;
    '# CONFIG_'*' is not set')
      option=${line#\# }
      if grep -q "^${option% is not set}=" "$build/out/.config"; then
        echo "Still in the configuration: ${option% is not set}" >&2
        lost=1
      fi
      ;;
  esac
done <"$fragment"
[ "$lost" = 0 ] || exit 1
echo "configured: $build/out/.config"
if [ "${1-}" = --config ]; then exit 0; fi

make -s -C "$build/source" O="$build/out" -j "$(nproc)" bzImage
cp "$build/out/arch/x86/boot/bzImage" "$build/bzImage"
echo "built: $build/bzImage"
