#!/bin/bash
# Shows that a decode step makes the host wait for nothing: counts the driver calls of two runs that differ in 200 steps alone. What a
# step calls appears 200 times more often in the longer one; a call that waits must not. With nsys on PATH a timeline of the shorter run
# is written too. Needs the built package (npm run build), g++ and a CUDA device.
#
#   bench/native/trace_decode.sh [FOLDER]
set -eu
cd "$(dirname "$0")/../.."
folder=$(realpath -m "${1:-build/trace}")
few=20 many=220
mkdir -p "$folder"
g++ -std=c++20 -O2 -Wall -Wextra -shared -fPIC bench/native/driver_calls.cc -ldl -o "$folder/driver_calls.so"
if ! why=$(node -e 'import("./dist/lib/index.js").then((kvasir) => kvasir.openDevice("cuda").dispose()).catch((error) => {
  console.log(error.message);
  process.exitCode = 1;
})'); then
  echo "nothing was traced: $why"
  exit 77
fi
for steps in $few $many; do
  DRIVER_CALLS="$folder/calls_$steps.txt" LD_PRELOAD="$folder/driver_calls.so" node bench/native/trace_decode.mjs $steps
done
join -j 2 <(sort -k2 "$folder/calls_$few.txt") <(sort -k2 "$folder/calls_$many.txt") | awk -v few=$few -v many=$many '
  BEGIN { printf "%-26s %-5s %9s %9s %9s\n", "driver call", "kind", few " steps", many " steps", "a step" }
  { printf "%-26s %-5s %9d %9d %9.2f\n", $1, $2, $3, $5, ($5 - $3) / (many - few) }
  $2 == "wait" { seen += $3; if ($5 > $3) waits = waits " " $1 }
  $1 == "cuGraphLaunch" { launches = $5 - $3 }
  END {
    if (launches != many - few) { print "FAILED: " launches + 0 " program launches more, expected " many - few; exit 1 }
    if (seen == 0) { print "FAILED: no waiting call was seen at all, not even at the end: the count misses them"; exit 1 }
    if (waits != "") { print "FAILED: a decode step waits in" waits; exit 1 }
    print "ok: one launch a step, no call that waits"
  }'
if command -v nsys >/dev/null; then
  nsys profile --trace=cuda --force-overwrite=true -o "$folder/trace_decode" node bench/native/trace_decode.mjs $few
  nsys stats --force-export=true --report cuda_api_sum "$folder/trace_decode.nsys-rep"
else
  echo "nsys is not on PATH: counts only, no timeline"
fi
