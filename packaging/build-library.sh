#!/bin/sh
# Builds libioasid.so.1 and ioasid.pc into a directory: build-library.sh DIRECTORY [cargo options, such as --release]
#
# A static library, linked by the C compiler: rustc's own cdylib brings an anonymous version script, which allows no
# symbol versions beside it.
set -eu
out=$1
shift
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/usr}
libdir=${LIBDIR:-$prefix/lib}
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
file=libioasid.so.1.$version
archive=$(cargo rustc --quiet --lib --crate-type staticlib --no-default-features --features capi \
	--message-format=json "$@" | sed -n 's/.*"\([^"]*libioasid[^"/]*\.a\)".*/\1/p' | tail -n 1)
mkdir -p "$out"
${CC:-cc} -shared -o "$out/$file" -Wl,-soname,libioasid.so.1 -Wl,--version-script=packaging/libioasid.map \
	-Wl,--whole-archive "$archive" -Wl,--no-whole-archive -Wl,--gc-sections -Wl,--no-undefined \
	-Wl,-z,relro,-z,now -lgcc_s -lc
ln -sf "$file" "$out/libioasid.so.1"
ln -sf "$file" "$out/libioasid.so"
cat > "$out/ioasid.pc" <<END
prefix=$prefix
libdir=$libdir
includedir=$prefix/include

Name: ioasid
Description: PASIDs shared out on a Linux host: sets held as file descriptors
Version: $version
Libs: -L\${libdir} -lioasid
Cflags: -I\${includedir}
END
