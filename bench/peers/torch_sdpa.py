"""Times PyTorch's scaled_dot_product_attention on given shapes, as a peer for the benches.

usage: torch_sdpa.py < shapes.json > times.jsonl

shapes.json: [{"id", "device": "cuda" | "cpu", "dtype": "bf16" | "f16" | "f32", "batch", "qoLen", "kvLen", "qoHeads", "kvHeads", "headDim",
"causal", "sets"?, "nodes"?}, ...]. times.jsonl, a line a shape: {"id", "peers": {name: median_us}, "errors": {name: text}}.
On CUDA each back end (cuDNN, FlashAttention-2) is timed with events over inputs rotated beyond the L2 cache, launch included ("cudnn",
"fa2"), and for shapes with qoLen <= 16 also as the nodes of one graph, time over nodes ("cudnn_graph", "fa2_graph"). The CPU uses all
cores.
"""
import json
import math
import os
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

DTYPES = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}
ROTATE_BYTES = 256 << 20  # five times an H100's L2
REPEATS = 30
PERIOD = 4194301  # random values are repeated from here on: making gigabytes of them takes longer than the timing


def inputs(shape, count):
    pattern = torch.randn(PERIOD, device=shape["device"], dtype=DTYPES[shape["dtype"]])

    def make(heads, length):
        size = (shape["batch"], heads, length, shape["headDim"])
        return pattern.repeat(math.ceil(math.prod(size) / PERIOD))[: math.prod(size)].view(size)

    return [
        (make(shape["qoHeads"], shape["qoLen"]), make(shape["kvHeads"], shape["kvLen"]), make(shape["kvHeads"], shape["kvLen"]))
        for _ in range(count)
    ]


def attend(shape, q, k, v):
    return F.scaled_dot_product_attention(q, k, v, is_causal=shape["causal"], enable_gqa=shape["qoHeads"] != shape["kvHeads"])


def kv_bytes(shape):
    width = 4 if shape["dtype"] == "f32" else 2
    return 2 * shape["batch"] * shape["kvHeads"] * shape["kvLen"] * shape["headDim"] * width


def cuda_eager(shape, sets):
    for i in range(5):
        attend(shape, *sets[i % len(sets)])
    times = []
    for i in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        attend(shape, *sets[i % len(sets)])
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3)
    return statistics.median(times)


def cuda_graph(shape, sets):
    nodes = shape.get("nodes", max(32, len(sets)))
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        attend(shape, *sets[0])
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for i in range(nodes):
            attend(shape, *sets[i % len(sets)])
    graph.replay()
    times = []
    for _ in range(REPEATS):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) * 1e3 / nodes)
    return statistics.median(times)


def cpu_eager(shape, sets):
    attend(shape, *sets[0])
    times, begin = [], time.perf_counter()
    for i in range(REPEATS):
        start = time.perf_counter()
        attend(shape, *sets[i % len(sets)])
        times.append((time.perf_counter() - start) * 1e6)
        if len(times) >= 5 and time.perf_counter() - begin > 10:
            break
    return statistics.median(times)


def main():
    torch.manual_seed(1)
    torch.set_grad_enabled(False)
    torch.set_num_threads(os.cpu_count())
    for shape in json.load(sys.stdin):
        peers, errors = {}, {}
        count = shape.get("sets", max(1, min(32, math.ceil(ROTATE_BYTES / max(1, kv_bytes(shape))))))
        if shape["device"] == "cpu":
            runs = {"torch_cpu": (None, cpu_eager)}
        else:
            backends = {"cudnn": SDPBackend.CUDNN_ATTENTION, "fa2": SDPBackend.FLASH_ATTENTION}
            runs = {name: (backend, cuda_eager) for name, backend in backends.items()}
            if shape["qoLen"] <= 16:
                runs |= {name + "_graph": (backend, cuda_graph) for name, backend in backends.items()}
        try:
            sets = inputs(shape, count)
        except RuntimeError as error:
            print(json.dumps({"id": shape["id"], "peers": {}, "errors": {"inputs": str(error)[:200]}}), flush=True)
            continue
        for name, (backend, run) in runs.items():
            try:
                if backend is None:
                    peers[name] = run(shape, sets)
                else:
                    with sdpa_kernel([backend]):
                        peers[name] = run(shape, sets)
            except RuntimeError as error:
                errors[name] = str(error)[:200]
        print(json.dumps({"id": shape["id"], "peers": peers, "errors": errors}), flush=True)
        del sets
        if shape["device"] == "cuda":
            torch.cuda.empty_cache()


if __name__ == "__main__":
    main()
