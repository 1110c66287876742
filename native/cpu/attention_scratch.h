// What a task of attention works in: the running softmax of its rows, and a thread's scratch.
#pragma once
#include "attention_amx.h"
#include "attention_tile.h"

namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE {

constexpr int kRowPad = (kRowTile + 15) / 16 * 16;

// A unit's running softmax: acc is [rows][dim_padded] in pair order.
struct Running {
  float* acc;
  float* max;  // [kRowPad], base 2; -inf: nothing seen
  float* sum;  // [kRowPad]
};

// A thread's scratch, carved from one allocation.
template <class T>
struct Scratch {
  float *q, *packed_k, *packed_v, *scores;
  Running running, folded;
  float *delta, *row_sum, *alpha;  // [kRowPad]
  Visible* visible;                // [kRowPad]
  VecBits* keys;                   // transposed; in the place of packed_k
  T *staged, *zeros;
  const T** rotated;  // [kKeyTile]
  char* amx;          // of AmxTiles
  KeyTile<T>* tiles;  // the current one and the next
  size_t bytes = 0;

  Scratch(const AttentionProblem& problem, void* base) {
    char* at = static_cast<char*>(base);
    const int64_t dim = problem.head_dim, padded = dim_padded(dim);
    take(at, q, kRowTile * padded);
    take(at, packed_k, kKeyTile * padded);
    keys = reinterpret_cast<VecBits*>(packed_k);
    take(at, packed_v, kKeyTile * padded);
    take(at, scores, kRowTile * kKeyTile);
    for (Running* state : {&running, &folded}) {
      take(at, state->acc, kRowTile * padded);
      take(at, state->max, kRowPad);
      take(at, state->sum, kRowPad);
    }
    for (float** rows : {&delta, &row_sum, &alpha}) take(at, *rows, kRowPad);
    take(at, visible, kRowPad);
    take(at, staged, kKeyTile * dim);
    take(at, zeros, padded);
    take(at, rotated, kKeyTile);
    take(at, tiles, 2);
    take(at, amx, AmxTiles<T>::bytes(dim));
    bytes = at - static_cast<char*>(base);
  }

 private:
  template <class V>
  static void take(char*& at, V*& out, int64_t count) {
    out = reinterpret_cast<V*>(at);
    at += (count * sizeof(V) + 63) / 64 * 64;
  }
};

}  // namespace kvasir::cpu::KVASIR_SIMD_NAMESPACE
