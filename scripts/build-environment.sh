# Sourced by scripts/run and scripts/test: what both need before they can build.
# shellcheck shell=bash

# Shared by all scripts, and by default outside of the working copy, so that a new clone builds in a minute.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/cirrus/target}

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

as_root() {
    if ((EUID == 0)); then
        "$@"
    else
        command -v sudo >/dev/null || fail "run this as root, or install sudo, to: $*"
        sudo "$@"
    fi
}

has_cpp_compiler() {
    command -v c++ >/dev/null
}

# RocksDB's Rust bindings are made with libclang, which needs its own headers as well.
has_libclang() {
    [[ -n ${LIBCLANG_PATH:-} ]] || {
        compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null &&
            compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null
    }
}

has_python_venv() {
    python3 -c 'import ensurepip, venv' 2>/dev/null
}

# Installs what building needs. With "test" as its argument, what the tests need as well.
install_missing() {
    local packages=()
    has_cpp_compiler || packages+=(g++)
    has_libclang || packages+=(libclang-dev)
    if [[ ${1:-} == test ]]; then
        has_python_venv || packages+=(python3 python3-venv)
    fi
    if ((${#packages[@]})); then
        command -v apt-get >/dev/null ||
            fail "this system has no apt-get; install what Debian calls ${packages[*]} and try again"
        echo "Installing ${packages[*]}" >&2
        as_root apt-get update -qq >&2
        as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -y -qq --no-install-recommends ca-certificates "${packages[@]}" >&2
    fi

    # A toolchain that was installed for this user only may not be in a script's PATH.
    command -v cargo >/dev/null || PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    if ! command -v cargo >/dev/null; then
        command -v curl >/dev/null || { as_root apt-get update -qq && as_root apt-get install -y -qq curl ca-certificates; } >&2
        echo "Installing Rust for this user, with rustup" >&2
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs |
            sh -s -- -y --no-modify-path --profile minimal --default-toolchain none >&2 ||
            fail "Rust could not be installed; see https://rustup.rs"
        PATH=$PATH:${CARGO_HOME:-$HOME/.cargo}/bin
    fi
    # With rustup, this installs the pinned toolchain where it is missing.
    cargo --version >&2
    if [[ ${1:-} == test ]] && ! { cargo fmt --version && cargo clippy --version; } >/dev/null 2>&1; then
        command -v rustup >/dev/null || fail "this Rust toolchain lacks rustfmt or clippy"
        rustup component add rustfmt clippy >&2
    fi
    if [[ ${1:-} == test ]] && ! cargo nextest --version >/dev/null 2>&1; then
        echo "Installing cargo-nextest, which takes minutes" >&2
        with_progress cargo install --quiet --locked cargo-nextest --version 0.9.143 >&2
    fi
}

# Builds the binary to deploy and to measure, and sets `dist_binary` to its path: the profile `dist`, on the RocksDB of
# `release`, which would otherwise be compiled a second time. Not to be called in a substitution, where a build that fails
# would not stop the script, and an older binary would pass for the new one.
build_dist() {
    local rocksdb
    rocksdb=$(with_progress cargo build --release -p cirrus-cli --message-format=json-render-diagnostics |
        sed -n 's/.*"reason":"build-script-executed".*"out_dir":"\([^"]*librocksdb-sys-[^"]*\)".*/\1/p')
    [[ -e $rocksdb/librocksdb.a ]] || fail "the compiled RocksDB was not found in \"$rocksdb\""
    echo "Optimising everything as one program, which takes minutes" >&2
    ROCKSDB_LIB_DIR=$rocksdb ROCKSDB_STATIC=1 with_progress cargo build --profile dist -p cirrus-cli
    # shellcheck disable=SC2034  # Read by the scripts that source this.
    dist_binary=$CARGO_TARGET_DIR/dist/cirrus
}

# Runs cargo. On a terminal it shows its own progress; elsewhere a line a minute tells that it goes on, since
# one crate, RocksDB, is more than ten minutes of C++ on two cores, during which cargo prints nothing.
with_progress() {
    if [[ -t 2 ]]; then
        "$@"
        return
    fi
    local started=$SECONDS status=0 ticker
    (
        pause=
        trap 'kill $pause 2>/dev/null; exit 0' TERM
        # Ends with the script, also where that is killed.
        while kill -0 $$ 2>/dev/null; do
            sleep 60 &
            pause=$!
            wait "$pause"
            echo "    … still at it after $(((SECONDS - started) / 60)) min: $*" >&2
        done
    ) >/dev/null &
    ticker=$!
    "$@" || status=$?
    kill "$ticker" 2>/dev/null || true
    wait "$ticker" 2>/dev/null || true
    return "$status"
}
