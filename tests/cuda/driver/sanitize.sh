#!/bin/bash
# Builds kvasir_cuda.so and the driver without CMake, as many files at once as there are cores, and runs the driver plainly and under
# compute-sanitizer. For a host that has a GPU and a CUDA toolkit and nothing else.
#
#   tests/cuda/driver/sanitize.sh BUILD_FOLDER [plain memcheck racecheck synccheck lose]
set -u
cd "$(dirname "$0")/../../.."
build=${1:?the folder for build outputs}
shift
tools=${*:-plain lose memcheck racecheck synccheck}
arch=${KVASIR_ARCH:-$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -1 | tr -d .)}
[ "$arch" = 90 ] && arch=90a
mkdir -p "$build"

compile() {
  local object="$2/${1//\//_}.o"
  case $1 in
    *.cu) nvcc -std=c++20 -O3 --expt-relaxed-constexpr "-gencode=arch=compute_$3,code=sm_$3" -lineinfo -Xcompiler=-Wall,-Wextra,-fPIC,-fvisibility=hidden -c "$1" -o "$object" ;;
    *) g++ -std=c++20 -O2 -fPIC -Wall -Wextra -fvisibility=hidden -isystem "$(dirname "$(readlink -f "$(command -v nvcc)")")/../include" -c "$1" -o "$object" ;;
  esac || echo "FAILED to compile $1"
}
export -f compile
{ ls -S $(grep -v '^#' cuda/sources.txt) | xargs -P "$(nproc)" -I{} bash -c 'compile "$@"' _ {} "$build" "$arch"; } &
g++ -std=c++20 -O2 tests/cuda/driver/*.cc -ldl -lpthread -o "$build/kvasir_driver" || exit 1
wait
nvcc -shared -cudart static "-gencode=arch=compute_$arch,code=sm_$arch" "$build"/*.o -o "$build/kvasir_cuda.so" -ldl -lpthread || exit 1
echo "built in ${SECONDS} s"

driver=("$build/kvasir_driver" "$build/kvasir_cuda.so")
failed=0
for tool in $tools; do
  echo "== $tool"
  case $tool in
    plain)
      timeout 120 "${driver[@]}" || failed=1
      KVASIR_BLAS=off timeout 60 "${driver[@]}" linear || failed=1
      ;;
    lose) timeout 60 "${driver[@]}" lose || failed=1 ;;
    *) KVASIR_BLAS=off timeout "${SANITIZER_SECONDS:-120}" compute-sanitizer --tool "$tool" --error-exitcode 9 "${driver[@]}" ${SANITIZER_PARTS:-rows linear sampling paging attention} || failed=1 ;;
  esac
  echo "== $tool: $([ $failed = 0 ] && echo ok || echo failed) after ${SECONDS} s"
done
exit $failed
