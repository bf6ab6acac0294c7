#!/usr/bin/env bash
# Whether compiled code keeps within its arrays and within C's rules, in three parts:
#
#   sanitizers  the extensions by GCC with AddressSanitizer and UndefinedBehaviorSanitizer, at every level
#   bounds      the extensions with Cython's checks of indices
#   numba       Numba's loops with NUMBA_BOUNDSCHECK=1
#
# and in each the test files below that reach such code. Any report and any failed test fails it. Usage:
#
#   tests/sanitize.sh [--quick] [part ...]    all parts, unless some are named; --quick takes fewer files
#
# PYTHON names an interpreter with fastnw's `test` extra, cython and setuptools (python3 by default); nothing is installed
# there. Files run side by side on all cores of the process's affinity.
set -euo pipefail
cd "$(dirname "$0")/.."
python=$(command -v "${PYTHON:-python3}")
jobs=$(nproc)
source=$PWD

# Every file that calls an extension at all levels or through threads, without the tests of the reference backend; not those
# that look at time, memory or text.
most=(parity sizes density several products tree moments weights tails tails_arithmetic extremes certificates gradients slopes
    selection fourier widths bandwidth largest exp threads shared_estimators properties relative estimators kernel_density inputs errors
    arrays state warnings doubledouble)
few=(sizes density several products tails_arithmetic gradients slopes largest exp weights threads relative properties)
of_numba=(numba)

quick= parts=()
for argument; do
    case $argument in
        --quick) quick=1 ;;
        sanitizers | bounds | numba) parts+=("$argument") ;;
        *) echo "usage: tests/sanitize.sh [--quick] [sanitizers | bounds | numba ...]" >&2; exit 2 ;;
    esac
done
[ ${#parts[@]} -gt 0 ] || parts=(sanitizers bounds numba)
files=("${most[@]}")
[ -z "$quick" ] || files=("${few[@]}")

chosen='not reference' # of the tests in them
work=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$work"' EXIT
status=0

step() { printf '\n=== %s (%d s)\n' "$*" "$SECONDS"; }

compiler() { # name, flags ...: a compiler that adds them after those of setup.py
    local path=$work/$1
    printf '#!/bin/sh\nexec gcc "$@" -w %s\n' "${*:2}" >"$path"
    chmod +x "$path"
    printf '%s\n' "$path"
}

copy() { # name: the source tree, without what was built in it
    mkdir "$work/$1"
    git ls-files -z --cached --others --exclude-standard -- . ':!bench/results' |
        tar --null --files-from - --ignore-failed-read -cf - | tar -xf - -C "$work/$1"
}

build() { # tree, compiler: extensions in place, and an environment that imports that tree
    (cd "$1" && CC=$2 "$python" setup.py --quiet build_ext --inplace --parallel "$jobs") >"$work/build.log" 2>&1 ||
        { cat "$work/build.log"; exit 1; }
    # By a .pth, since tests start interpreters that ignore PYTHONPATH. A folder that it names is searched, but the .pth
    # files in it are not read: an editable fastnw there stays out of the way.
    "$python" -m venv --without-pip "$1/env"
    { printf '%s\n' "$1"; "$python" -c 'import sys; print(*(p for p in sys.path if p.endswith("-packages")), sep="\n")'; } \
        >"$("$1/env/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tree.pth"
}

run_tests() { # tree, files ...: each file a process; in the environment of the caller
    local tree=$1 log=$1/logs name
    shift
    mkdir -p "$log" "$tree/away"
    (cd "$tree/away" && printf '%s\n' "$@" | xargs -P "$jobs" -I{} sh -c "'$tree/env/bin/python' -m pytest -q -s -k '$chosen' \
        -o timeout=1200 -p no:cacheprovider -c '$tree/pyproject.toml' --rootdir '$tree' '$tree'/tests/*/test_{}.py >'$log/{}' 2>&1 ||
        echo {} >>'$log/failed'")
    for name; do printf '%-18s %s\n' "$name" "$(tail -n 1 "$log/$name")"; done
    if [ -e "$log/failed" ]; then
        for name in $(cat "$log/failed"); do printf '\n--- %s\n' "$name"; tail -n 80 "$log/$name"; done
        status=1
    fi
}

reports() { # files ...: shows what sanitizers wrote there, each place once
    local fault='runtime error:|ERROR: AddressSanitizer'
    grep -qE "$fault" "$@" || return 0
    grep -hE "$fault" "$@" | sed 's/==[0-9]*==//; s/0x[0-9a-f]*/0x/g' | sort | uniq -c | sort -rn | head -n 40
    grep -hE -A 12 "$fault" "$@" | head -n 60
    return 1
}

with_sanitizers() {
    local tree=$work/sanitizers cc found=$work/reports control=$work/control
    # CPython's -fwrapv would define overflow, and hide it
    cc=$(compiler cc-sanitizers -fsanitize=address,undefined,float-cast-overflow -fsanitize-recover=address \
        -fno-wrapv -fno-omit-frame-pointer -O1 -g)
    step "sanitizers: $(gcc --version | head -n 1)"
    copy sanitizers
    build "$tree" "$cc"
    mkdir "$found"
    # One kind writes to files, the other, which finds the first's interface in its place, to stderr: hence pytest -s.
    export PYTHONMALLOC=malloc UBSAN_OPTIONS=print_stacktrace=1 ASAN_OPTIONS=detect_leaks=0:halt_on_error=0
    # libstdc++ at once: the sanitizer looks for its exceptions when it starts, before an extension brings them
    LD_PRELOAD="$(gcc -print-file-name=libasan.so) $(gcc -print-file-name=libubsan.so) $(gcc -print-file-name=libstdc++.so)"
    export LD_PRELOAD

    # Would a fault be seen? One of each kind, from a library that is loaded as extensions are.
    printf 'int beyond(const int *p, int n) { return p[n]; }\nint overflow(int n) { return n + 2147483647; }\n' >"$work/faults.c"
    LD_PRELOAD= "$cc" -fwrapv -shared -fPIC -o "$work/faults.so" "$work/faults.c"
    ASAN_OPTIONS+=:log_path=$control "$tree/env/bin/python" -c "
import ctypes, numpy
library = ctypes.CDLL('$work/faults.so')
library.beyond(ctypes.c_void_p(numpy.zeros(1000, numpy.int32).ctypes.data), 1000)
library.overflow(2)" 2>"$control.stderr"
    grep -q 'heap-buffer-overflow' "$control".[0-9]* && grep -q 'runtime error: signed integer' "$control.stderr" ||
        { cat "$control".*; echo "the sanitizers do not see faults that are there"; exit 1; }

    ASAN_OPTIONS+=:log_path=$found/report
    step "sanitizers: ${#files[@]} files"
    run_tests "$tree" "${files[@]}"
    unset LD_PRELOAD PYTHONMALLOC UBSAN_OPTIONS ASAN_OPTIONS
    reports "$tree"/logs/* $(find "$found" -type f) || status=1
}

with_bounds() {
    local tree=$work/bounds
    step "bounds: $("$python" -m cython --version 2>&1)"
    copy bounds
    sed -i '1s/boundscheck=False/boundscheck=True/; 1s/initializedcheck=False/initializedcheck=True/' "$tree"/src_cython/*.pyx
    ! grep -rnE 'boundscheck *[=(] *False' "$tree/src_cython" || { echo "bounds are not checked there"; exit 1; }
    build "$tree" "$(compiler cc-bounds -O1 -g0)"
    step "bounds: ${#files[@]} files"
    run_tests "$tree" "${files[@]}"
}

with_numba() {
    local tree=$work/numba
    step "numba: $("$python" -c 'import numba; print(numba.__version__)')"
    copy numba
    build "$tree" "$(compiler cc-plain -O1 -g0)"
    # Checks take the vectors out of a loop but not out of its inlined copy, which a process that loads the tile from the
    # cache runs: two tests look at this. Without checks both have the same bits (11 kernels, both types, four d).
    chosen='not reference and not test_loops_are_vectorised and not test_compiled_once_and_kept_on_disk'
    NUMBA_BOUNDSCHECK=1 run_tests "$tree" "${of_numba[@]}"
}

for part in "${parts[@]}"; do "with_$part"; done
step "$([ "$status" -eq 0 ] && echo "nothing found" || echo "failed"): ${parts[*]}"
exit "$status"
