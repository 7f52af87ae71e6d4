#!/bin/sh
# Builds a CUDA-aware Open MPI 5 into a prefix, without root and without a GPU on the building machine.
# What it does, step by step, and how mpi4py is made to load the result: README.md beside this file.
set -eu

usage() {
    cat <<'TEXT'
usage: build.sh --prefix DIR [--source FILE|URL] [--cuda 12|13] [--cuda-headers DIR] [--python PYTHON]
                [--work DIR] [--jobs N]

  --prefix DIR        where to install; built for this place (see README.md for moving it)
  --source FILE|URL   the Open MPI 5 release tarball; without it Debian's source package (apt-get source openmpi)
  --cuda 12|13        major version of the CUDA driver on the GPU machine: which UCX wheel is taken (default 12)
  --cuda-headers DIR  a folder with cuda.h; without it the headers come from a wheel (nvidia-cuda-runtime)
  --python PYTHON     a Python with pip, to fetch the wheels (default python3)
  --work DIR          where to build (default: a temporary folder, removed at the end)
  --jobs N            make -j N (default: all cores)
TEXT
}

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

prefix='' source='' cuda=12 headers='' python=python3 work='' jobs=$(nproc)
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage && exit 0 ;;
        --prefix | --source | --cuda | --cuda-headers | --python | --work | --jobs)
            [ $# -ge 2 ] || fail "$1 needs a value"
            ;;
        *) usage >&2 && fail "unknown option $1" ;;
    esac
    case $1 in
        --prefix) prefix=$2 ;;
        --source) source=$2 ;;
        --cuda) cuda=$2 ;;
        --cuda-headers) headers=$2 ;;
        --python) python=$2 ;;
        --work) work=$2 ;;
        --jobs) jobs=$2 ;;
    esac
    shift 2
done
[ -n "$prefix" ] || { usage >&2 && fail "--prefix is missing"; }
case $cuda in 12 | 13) ;; *) fail "--cuda is 12 or 13, not $cuda" ;; esac
case $prefix in /*) ;; *) prefix=$PWD/$prefix ;; esac
# everything that is looked up by a relative path is looked up here, before the first cd
[ -z "$source" ] || [ ! -f "$source" ] || source=$(realpath "$source")
[ -z "$headers" ] || headers=$(realpath "$headers")
for tool in cc make perl tar unzip; do
    command -v $tool >/dev/null || fail "$tool is not installed"
done
if [ -z "$work" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
mkdir -p "$work" "$prefix"
work=$(realpath "$work")
cd "$work"

wheel() { # wheel NAME: fetches and unpacks a wheel into work/NAME
    rm -rf "wheels/$1" "$1"
    "$python" -m pip download --quiet --no-deps --only-binary=:all: --dest "wheels/$1" "$1"
    mkdir "$1"
    unzip -q "wheels/$1"/*.whl -d "$1"
}

# 1. the Open MPI source
mkdir -p source
if [ -z "$source" ]; then
    (cd source && apt-get source --download-only openmpi) ||
        fail "apt has no source package openmpi (no deb-src line?); give --source FILE|URL of the release tarball"
    source=$(ls "$work"/source/openmpi_5*.orig.tar.* 2>/dev/null | tail -n 1)
    [ -n "$source" ] || fail "this distribution's openmpi is not version 5; give --source FILE|URL of the release tarball"
elif [ ! -f "$source" ]; then
    case $source in *://*) ;; *) fail "no file $source" ;; esac
    curl --fail --silent --show-error --location --output "source/${source##*/}" "$source"
    source=$work/source/${source##*/}
fi
rm -rf openmpi
mkdir openmpi
tar -xf "$source" -C openmpi --strip-components=1
grep -q '^major=5' openmpi/VERSION || fail "$source is not Open MPI 5"

# 2. cuda.h
if [ -z "$headers" ]; then
    if [ "$cuda" = 12 ]; then runtime=nvidia-cuda-runtime-cu12; else runtime=nvidia-cuda-runtime; fi
    wheel "$runtime"
    headers=$(dirname "$(find "$work/$runtime" -name cuda.h | head -n 1)")
fi
[ -f "$headers/cuda.h" ] || fail "no cuda.h in '$headers'"
mkdir -p toolkit # configure wants a folder with include/cuda.h in it
ln -sfn "$headers" toolkit/include

# 3. a libcuda.so.1 to link against: the names that cuda.h declares (cuMemFree_v2), and those without their version,
#    which configure looks for; nothing behind them. It is not installed; the components that need the driver are loaded
#    at run time (--enable-mca-dso) and then find the machine's own.
mkdir -p stub
echo '#include <cuda.h>' | cc -E -I "$headers" - | tr '\n' ' ' | grep -o 'CUresult *cu[A-Za-z0-9_]* *(' |
    sed 's/CUresult *\(cu[A-Za-z0-9_]*\) *(/\1/' | sed 'p; s/_v[0-9]*$//' | sort -u |
    sed 's/.*/int &(void) { return 999; }/' >stub/cuda.c
grep -q 'cuMemFree(' stub/cuda.c || fail "no functions found in $headers/cuda.h"
cc -shared -fPIC -Wl,-soname,libcuda.so.1 -o stub/libcuda.so stub/cuda.c

# 4. UCX, with its CUDA transports, from its wheel. Its libraries find each other by $ORIGIN, and the CUDA runtime
#    it carries at ../libucx_cu*.libs; its .pc files name the folder it was built in, and so do its .la files.
wheel "libucx-cu$cuda"
rm -rf "$prefix/ucx" "$prefix/libucx_cu$cuda.libs"
cp -R "libucx-cu$cuda/libucx" "$prefix/ucx"
[ ! -d "libucx-cu$cuda/libucx_cu$cuda.libs" ] || cp -R "libucx-cu$cuda/libucx_cu$cuda.libs" "$prefix/"
find "$prefix/ucx" \( -name '*.la' -o -name '*.a' -o -name '*perftest*.so*' \) -delete
for library in $(find "$prefix/ucx/lib" -name '*.so.0.0.0'); do # a wheel holds three copies where links would do
    ln -sf "${library##*/}" "${library%.0.0}"
    ln -sf "${library##*/}" "${library%.0.0.0}"
done
sed -i "s|^prefix *=.*|prefix = $prefix/ucx|" "$prefix"/ucx/lib/pkgconfig/*.pc

# 5. Open MPI itself
rm -rf build
mkdir build
cd build
PKG_CONFIG_PATH=$prefix/ucx/lib/pkgconfig ../openmpi/configure --prefix="$prefix" \
    --with-cuda="$work/toolkit" --with-cuda-libdir="$work/stub" --with-ucx="$prefix/ucx" \
    --enable-mca-dso=accelerator-cuda,rcache-rgpusm,rcache-gpusm,btl-smcuda,pml-ucx,osc-ucx,common-ucx,btl-uct \
    --with-hwloc=internal --with-libevent=internal --with-pmix=internal --with-prrte=internal \
    --disable-mpi-fortran --disable-oshmem --without-ofi --without-psm2 --disable-sphinx \
    LDFLAGS="-Wl,-rpath,$prefix/ucx/lib -Wl,-rpath-link,$work/stub"
grep -q 'define OPAL_CUDA_SUPPORT 1' opal/include/opal_config.h ||
    fail "configure found no usable CUDA in $headers and $work/stub: see $work/build/config.log"
make -j "$jobs"
make install-strip

# 6. what a shell needs to use it; the mpi4py wheel takes the libmpi that MPI4PY_LIBMPI names
cat >"$prefix/env.sh" <<TEXT
export PATH='$prefix/bin':"\$PATH"
export MPI4PY_LIBMPI='$prefix/lib/libmpi.so.40'
TEXT

# 7. what came of it
"$prefix/bin/ompi_info" --parsable --all | grep mpi_built_with_cuda_support:value
"$prefix/bin/ompi_info" --parsable --all | grep -q 'mpi_built_with_cuda_support:value:true' ||
    fail "this Open MPI says that it was built without CUDA support"
echo "installed in $prefix; to use it in a shell: . $prefix/env.sh"
