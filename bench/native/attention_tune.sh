#!/bin/bash
# Builds the drivers on a GPU host, checks the kernels, times them beside PyTorch, and runs the sanitizers on the small cases:
# attention_tune.sh FOLDER
set -u
out=${1:?folder for the results}
root=$(cd "$(dirname "$0")/../.." && pwd)
build=/tmp/attention_tune
make -s -j"$(nproc)" -f "$root/bench/native/Makefile" OUT=$build all 2>&1 | tail -20
python3 "$root/bench/peers/torch_sdpa.py" >"$out/peers.json" 2>"$out/peers.log" <<'SHAPES'
[{"id": "d64 causal", "device": "cuda", "dtype": "bf16", "batch": 1, "qoLen": 16384, "kvLen": 16384, "qoHeads": 32, "kvHeads": 32, "headDim": 64, "causal": true},
 {"id": "d64 full", "device": "cuda", "dtype": "bf16", "batch": 1, "qoLen": 16384, "kvLen": 16384, "qoHeads": 32, "kvHeads": 32, "headDim": 64, "causal": false},
 {"id": "d128 causal", "device": "cuda", "dtype": "bf16", "batch": 1, "qoLen": 16384, "kvLen": 16384, "qoHeads": 16, "kvHeads": 16, "headDim": 128, "causal": true},
 {"id": "d128 full", "device": "cuda", "dtype": "bf16", "batch": 1, "qoLen": 16384, "kvLen": 16384, "qoHeads": 16, "kvHeads": 16, "headDim": 128, "causal": false},
 {"id": "d256 causal", "device": "cuda", "dtype": "bf16", "batch": 1, "qoLen": 16384, "kvLen": 16384, "qoHeads": 8, "kvHeads": 8, "headDim": 256, "causal": true},
 {"id": "decode B1 128k", "device": "cuda", "dtype": "bf16", "batch": 1, "qoLen": 1, "kvLen": 131072, "qoHeads": 32, "kvHeads": 8, "headDim": 128, "causal": false},
 {"id": "decode B16 8k", "device": "cuda", "dtype": "bf16", "batch": 16, "qoLen": 1, "kvLen": 8192, "qoHeads": 32, "kvHeads": 8, "headDim": 128, "causal": false}]
SHAPES
$build/attention_tune check >"$out/check.log" 2>&1
$build/attention_tune tune "$out/tune.json" >"$out/tune.log" 2>&1
$build/decode_tune "$out/decode_tune.json" all >"$out/decode_tune.log" 2>&1
for tool in memcheck racecheck; do
  timeout 120 compute-sanitizer --tool $tool $build/attention_tune check small >"$out/$tool.log" 2>&1
  echo "$tool: $(tail -1 "$out/$tool.log")"
done
# Local-memory traffic inside the hot kernels' loops: each spill access with the barriers and products around it.
cuobjdump -sass $build/prefill_d128.o | grep -E "Function|LDL|STL|HMMA|BAR.SYNC" | sed 's/^ *\/\*[0-9a-f]*\*\/ *//' |
  awk '{k = $0 ~ /Function/ ? $0 : ($0 ~ /LDL/ ? "LDL" : $0 ~ /STL/ ? "STL" : $0 ~ /BAR/ ? "BAR" : "HMMA"); if (k == last) n++; else {if (last) printf "%s x%d\n", last, n; last = k; n = 1}}' >"$out/spills.log"
cat "$out/peers.json"
grep -v ' [0-9]*, [0-9]*, ' "$out/tune.log"
cat "$out/check.log"
