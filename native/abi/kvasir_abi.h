/* The contract between the addon and a compute backend: plain C, no ownership hidden, no exceptions across it.
 *
 * A backend is one static table of functions. The addon loads it, validates every argument through native/contracts, and then
 * calls it; a backend may assume that shapes, dtypes and ranges were checked. Every call is asynchronous on a stream unless it
 * says otherwise, and returns a status together with one sentence in `err`.
 */
#ifndef KVASIR_ABI_H
#define KVASIR_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define KVASIR_ABI_VERSION 3u
#define KVASIR_MAX_RANK 4
#define KVASIR_BACKEND_SYMBOL "kvasir_backend_init"

typedef enum kvasir_status {
  KVASIR_OK = 0,
  KVASIR_INVALID_ARGUMENT, /* a shape, dtype or value that no backend accepts */
  KVASIR_UNSUPPORTED,      /* valid, but this backend or device has no kernel for it */
  KVASIR_OUT_OF_MEMORY,    /* the device lives on; a smaller request may succeed */
  KVASIR_DEVICE_LOST,      /* a sticky error: every later call on the device fails with it */
  KVASIR_UNAVAILABLE,      /* no usable device, library or driver */
  KVASIR_INTERNAL
} kvasir_status;

typedef struct kvasir_error {
  char text[512]; /* one sentence: what, which value, what would work */
} kvasir_error;

typedef enum kvasir_dtype {
  KVASIR_F32 = 0,
  KVASIR_F16,
  KVASIR_BF16,
  KVASIR_F8E4M3,
  KVASIR_F8E5M2,
  KVASIR_I32,
  KVASIR_U8,
  KVASIR_I8
} kvasir_dtype;

/* A view of device memory. Strides are in elements; the innermost stride is 1. rank 0 means "absent" (an optional argument left
 * out); a present tensor may have a zero dimension, and then data may be NULL. */
typedef struct kvasir_tensor {
  void* data;
  int32_t dtype;
  int32_t rank;
  int64_t shape[KVASIR_MAX_RANK];
  int64_t stride[KVASIR_MAX_RANK];
} kvasir_tensor;

/* ---- ops: one struct of arguments each; the enum is the index into kvasir_backend.ops
 * ------------------------------------------- */

typedef enum kvasir_op_id {
  KVASIR_OP_ATTENTION = 0,
  KVASIR_OP_ATTENTION_REFERENCE, /* float64 oracle, CPU only */
  KVASIR_OP_MERGE,
  KVASIR_OP_APPEND,
  KVASIR_OP_ROPE,
  KVASIR_OP_RMS_NORM,
  KVASIR_OP_SILU_MUL,
  KVASIR_OP_EMBEDDING,
  KVASIR_OP_LINEAR,
  KVASIR_OP_ARGMAX,
  KVASIR_OP_SAMPLE,
  KVASIR_OP_ADVANCE,
  KVASIR_OP_CROSS_ENTROPY,
  KVASIR_OP_COMPARE_LOGITS,
  KVASIR_OP_CAST,
  KVASIR_OP_PROBE_READ, /* the two ceilings that benches divide by */
  KVASIR_OP_PROBE_FMA,
  KVASIR_OP_COUNT
} kvasir_op_id;

/* out = softmax(mask(soft_cap(sm_scale · q kᵀ) + log_weight)) v over ragged or paged KV. T = float dtype of q, out, k, v and
 * pages.
 *
 * Requests: `batch` is the number of rows of the KV side. qo_indptr absent: the queries are split evenly. kv_indptr absent:
 * likewise. Positions: key j of a request sits at position j (page_start[e] + offset in the entry when page_start is given);
 * query i sits at q_start[b] + i, by default kv_len[b] - qo_len[b] + i (bottom-right alignment; rows with negative positions see
 * nothing when causal). A key is visible if it lies in [0, kv_len), inside its entry's page_len, at or before the query's
 * position when causal, and at position >= query position - window_left when window_left >= 0. No visible key (sinks do not
 * count): out = 0, lse = -inf. Paged KV: head h's K payload of page slot s starts at (char*)pages.data + s * pages.stride[0] *
 * sizeof(T) + page_offsets[h][0] bytes (V: [h][1]) and is [page_size][head_dim] contiguous. Row r of the table is b, or b *
 * num_kv_heads + h with per_head_rows; its entries are page_indices[row_start[r] ...], ceil(kv_len[r] / page_size) of them. With
 * page_len, kv_len counts slots of entries, and slot t of entry e holds a key only if t < page_len[e]. Anything past those bounds
 * may be garbage (NaN, huge indices) and is never read into a result. log_weight: ragged [total_kv] or [total_kv, num_kv_heads];
 * paged [entries * page_size], indexed like page_indices. sink: one logit per query head, in the denominator (and in lse) only.
 * k_inv_freq: keys are stored before RoPE; each is rotated on the way in by its position (half-split pairs, k_rope_scale on
 * cos/sin). */
typedef struct kvasir_attention_args {
  kvasir_tensor q;            /* [total_q, num_qo_heads, head_dim] T */
  kvasir_tensor out;          /* [total_q, num_qo_heads, head_dim] T or f32 */
  kvasir_tensor lse;          /* optional [total_q, num_qo_heads] f32, natural log */
  kvasir_tensor k, v;         /* ragged: [total_kv, num_kv_heads, head_dim] T */
  kvasir_tensor qo_indptr;    /* optional [batch + 1] i32 */
  kvasir_tensor kv_indptr;    /* optional, ragged: [batch + 1] i32 */
  kvasir_tensor pages;        /* paged: [num_page_slots, elements_per_page] T */
  kvasir_tensor page_offsets; /* paged: [num_kv_heads, 2] i32, bytes from the start of a page, multiples of 16 */
  kvasir_tensor row_start;    /* paged: [rows] i32, index of the row's first entry in page_indices */
  kvasir_tensor kv_len;       /* paged: [rows] i32, tokens */
  kvasir_tensor page_indices; /* paged: [entries] i32, page slots */
  kvasir_tensor page_start;   /* optional [entries] i32, position of the entry's first token */
  kvasir_tensor page_len;     /* optional [entries] i32, valid tokens of the entry */
  kvasir_tensor q_start;      /* optional [batch] i32, position of the request's first query */
  kvasir_tensor log_weight;   /* optional f32 */
  kvasir_tensor sink;         /* optional [num_qo_heads] f32 */
  kvasir_tensor k_inv_freq;   /* optional [rotary_dim / 2] f32 */
  float k_rope_scale;         /* default 1 */
  float sm_scale;             /* 0 means 1 / sqrt(head_dim) */
  float logits_soft_cap;      /* 0: none; else s -> cap * tanh(s / cap) */
  int32_t window_left;        /* -1: unlimited */
  int32_t page_size;          /* paged: tokens, a multiple of 16 in 16..256 */
  int32_t causal;
  int32_t per_head_rows;
  int32_t batch_invariant; /* a request's bits depend on that request alone */
  int32_t num_splits;      /* 0: chosen by the backend */
} kvasir_attention_args;

/* (out, lse) = the one merge operator over partial attention results: lse = logsumexp_p lse_p, out = sum_p exp(lse_p - lse)
 * out_p. */
typedef struct kvasir_merge_args {
  kvasir_tensor parts;     /* [num_parts, total_q, num_qo_heads, head_dim] T or f32 */
  kvasir_tensor parts_lse; /* [num_parts, total_q, num_qo_heads] f32 */
  kvasir_tensor out;       /* [total_q, num_qo_heads, head_dim] T */
  kvasir_tensor lse;       /* optional [total_q, num_qo_heads] f32 */
} kvasir_merge_args;

/* Writes new keys and values into pages, rotating on the way in; q, when given, is rotated in place.
 * slot_mapping[t] = page_slot * page_size + offset in the page; a negative entry is skipped. */
typedef struct kvasir_append_args {
  kvasir_tensor k, v;         /* [total, num_kv_heads, head_dim] T, k before RoPE */
  kvasir_tensor q;            /* optional [total, num_qo_heads, head_dim] T, in and out */
  kvasir_tensor positions;    /* [total] i32 */
  kvasir_tensor slot_mapping; /* [total] i32 */
  kvasir_tensor pages;        /* [num_page_slots, elements_per_page] T */
  kvasir_tensor page_offsets; /* [num_kv_heads, 2] i32 bytes */
  kvasir_tensor inv_freq;     /* optional [rotary_dim / 2] f32; absent: no rotation */
  float rope_scale;           /* multiplies cos and sin (yarn); default 1 */
  int32_t page_size;
  int32_t store_rotated; /* default 1; 0: keys go in before RoPE (q is rotated all the same) */
} kvasir_append_args;

/* x rotated in place: (x_i, x_{i + r/2}) by angle float(position) * inv_freq[i], product rounded to f32, for i < rotary_dim / 2.
 */
typedef struct kvasir_rope_args {
  kvasir_tensor x;         /* [total, heads, head_dim] T, in and out */
  kvasir_tensor positions; /* [total] i32 */
  kvasir_tensor inv_freq;  /* [rotary_dim / 2] f32 */
  float rope_scale;        /* default 1 */
} kvasir_rope_args;

/* out = x / sqrt(mean(x²) + eps) * weight over the last dimension; with residual: residual += x first (in place), then its norm.
 */
typedef struct kvasir_rms_norm_args {
  kvasir_tensor x;        /* [rows, hidden] T */
  kvasir_tensor weight;   /* [hidden] T */
  kvasir_tensor residual; /* optional [rows, hidden] T, in and out */
  kvasir_tensor out;      /* [rows, hidden] T */
  float eps;
} kvasir_rms_norm_args;

typedef struct kvasir_silu_mul_args {
  kvasir_tensor gate, up, out; /* [rows, width] T; out = gate * sigmoid(gate) * up */
} kvasir_silu_mul_args;

/* out[i] = table[ids[i]]: token embedding, and row gather in general. */
typedef struct kvasir_embedding_args {
  kvasir_tensor ids;   /* [rows] i32 */
  kvasir_tensor table; /* [vocab, hidden] T */
  kvasir_tensor out;   /* [rows, hidden] T */
} kvasir_embedding_args;

/* out = x · weightᵀ + bias, accumulated in f32. */
typedef struct kvasir_linear_args {
  kvasir_tensor x;         /* [rows, in_features] T */
  kvasir_tensor weight;    /* [out_features, in_features] T */
  kvasir_tensor bias;      /* optional [out_features] T */
  kvasir_tensor out;       /* [rows, out_features] T or f32 */
  int32_t batch_invariant; /* a row's bits do not depend on the number of rows */
} kvasir_linear_args;

typedef struct kvasir_argmax_args {
  kvasir_tensor logits; /* [rows, vocab] float */
  kvasir_tensor out;    /* [rows] i32; ties go to the lowest index */
} kvasir_argmax_args;

/* Temperature, then top-k, then top-p, then one draw by u = philox(seed[r], step[r]). Absent vectors: temperature 1, top_k off,
 * top_p 1, seed 0, step 0. temperature 0 is argmax. top_k <= 0: off. The kept set of top-p is the smallest prefix, in order of
 * falling probability (ties by index), whose mass reaches top_p; the draw walks that order. */
typedef struct kvasir_sample_args {
  kvasir_tensor logits;      /* [rows, vocab] float */
  kvasir_tensor temperature; /* optional [rows] f32 */
  kvasir_tensor top_k;       /* optional [rows] i32 */
  kvasir_tensor top_p;       /* optional [rows] f32 */
  kvasir_tensor seed;        /* optional [rows] i32 */
  kvasir_tensor step;        /* optional [rows] i32 */
  kvasir_tensor out;         /* [rows] i32 */
} kvasir_sample_args;

/* Reserves one token per row, on the device, so that a recorded decode step needs no host: for each row with active != 0
 * pos = kv_len; positions = pos; slot_mapping = page_indices[row_start + pos / page_size] * page_size + pos % page_size; kv_len =
 * pos + 1; step += 1. Inactive rows: positions = 0, slot_mapping = -1, nothing else changes. */
typedef struct kvasir_advance_args {
  kvasir_tensor kv_len;       /* [rows] i32, in and out */
  kvasir_tensor row_start;    /* [rows] i32 */
  kvasir_tensor page_indices; /* [entries] i32 */
  kvasir_tensor positions;    /* [rows] i32 out */
  kvasir_tensor slot_mapping; /* [rows] i32 out */
  kvasir_tensor step;         /* optional [rows] i32, in and out */
  kvasir_tensor active;       /* optional [rows] i32 */
  int32_t page_size;
} kvasir_advance_args;

/* nll[r] = logsumexp(logits[r]) - logits[r][target[r]], natural log; a negative target gives 0. */
typedef struct kvasir_cross_entropy_args {
  kvasir_tensor logits;  /* [rows, vocab] float */
  kvasir_tensor targets; /* [rows] i32 */
  kvasir_tensor nll;     /* [rows] f32 */
} kvasir_cross_entropy_args;

/* kl[r] = KL(softmax(reference) || softmax(logits)); agree[r] = 1 where the argmax is the same. */
typedef struct kvasir_compare_logits_args {
  kvasir_tensor reference, logits; /* [rows, vocab] float */
  kvasir_tensor kl;                /* [rows] f32 */
  kvasir_tensor agree;             /* [rows] i32 */
} kvasir_compare_logits_args;

/* out = x converted (round to nearest even); shapes equal, rank 1..4, any strides. Floating dtypes, or i32 to i32. */
typedef struct kvasir_cast_args {
  kvasir_tensor x, out;
} kvasir_cast_args;

/* Reads x once with all cores, as fast as the machine can: the read-bandwidth ceiling. */
typedef struct kvasir_probe_read_args {
  kvasir_tensor x;   /* any shape and dtype, contiguous */
  kvasir_tensor out; /* [1] i32: xor of the 32-bit words, so that no read can be left out */
} kvasir_probe_read_args;

/* Keeps every core's f32 multiply-add units busy: the FMA ceiling. out[0] = number of floating-point operations done (2 per
 * multiply-add), in units of 2^20. CPU only. */
typedef struct kvasir_probe_fma_args {
  kvasir_tensor out;  /* [1] i32 */
  int32_t iterations; /* rounds of 2^20 vector multiply-adds per thread */
} kvasir_probe_fma_args;

/* ---- devices, memory, streams
 * ---------------------------------------------------------------------------------------------------- */

typedef struct kvasir_device kvasir_device;
typedef struct kvasir_stream kvasir_stream;
typedef struct kvasir_program kvasir_program;

typedef struct kvasir_device_info {
  char name[128]; /* "NVIDIA H100 80GB HBM3", "Intel(R) Xeon(R) ..." */
  char isa[64];   /* cpu: "amx" | "avx512_bf16" | "avx512" | "avx2" | "portable"; cuda: "sm_90" */
  int64_t total_bytes;
  int32_t multiprocessors; /* cuda: SMs; cpu: threads */
  int32_t driver_version;  /* cuda: as cudaDriverGetVersion; cpu: 0 */
  int32_t runtime_version;
  int32_t has_blas; /* cuda: cuBLASLt was found */
  int64_t l2_bytes;
} kvasir_device_info;

typedef struct kvasir_device_options {
  int32_t index;
  int32_t threads;      /* cpu: size of the pool, 0 = all cores this process may use */
  int64_t memory_limit; /* bytes that alloc may hold at once, 0 = unlimited */
} kvasir_device_options;

/* How pages travel between host and device; other pairs of memories take whatever the backend has. */
typedef enum kvasir_copy_path {
  KVASIR_COPY_AUTO = 0, /* the backend's rule by the size of what lies together */
  KVASIR_COPY_DMA,      /* one copy by the device's copy engine for each run of pages */
  KVASIR_COPY_BATCH,    /* many such copies in one call of the driver; the same as DMA where the driver or toolkit has none */
  KVASIR_COPY_KERNEL /* a kernel that reads or writes pinned host memory in place: fast for small pages, takes multiprocessors */
} kvasir_copy_path;

/* Page i: `bytes` from from + from_slots[i] * from_stride + from_offset to to + to_slots[i] * to_stride + to_offset. Strides and
 * offsets in bytes. No destination overlaps another or any source. */
typedef struct kvasir_page_copy {
  void* to;
  const void* from;
  size_t to_stride, from_stride; /* between slots */
  size_t to_offset, from_offset; /* within a slot */
  size_t bytes;                  /* of a page */
  const int32_t* to_slots;       /* [count] */
  const int32_t* from_slots;     /* [count] */
  int32_t count;
  int32_t path; /* kvasir_copy_path */
} kvasir_page_copy;

typedef struct kvasir_op {
  const char* name;
  /* Scratch bytes that enqueue needs for these arguments; NULL: none. Depends on shapes and scalars only, never on device data.
   */
  size_t (*workspace)(kvasir_device*, const void* args);
  /* NULL: this backend does not have the op. `workspace` is 256-byte aligned and stays valid until the stream has passed the op.
   */
  kvasir_status (*enqueue)(kvasir_stream*, const void* args, void* workspace, size_t workspace_bytes, kvasir_error*);
} kvasir_op;

typedef struct kvasir_backend {
  uint32_t abi_version;
  uint32_t op_count;
  const char* name;     /* "cpu", "cuda" */
  const kvasir_op* ops; /* [op_count], indexed by kvasir_op_id */

  /* Number of usable devices; 0 with a sentence that names the failing layer (library, driver, device, compute capability). */
  int32_t (*probe)(kvasir_error* why);
  kvasir_status (*device_open)(const kvasir_device_options*, kvasir_device**, kvasir_error*);
  void (*device_close)(kvasir_device*); /* all streams destroyed before */
  void (*device_info)(kvasir_device*, kvasir_device_info*);
  /* KVASIR_OK, or KVASIR_DEVICE_LOST with the first asynchronous error seen on the device. */
  kvasir_status (*device_status)(kvasir_device*, kvasir_error*);
  kvasir_status (*memory_info)(kvasir_device*, int64_t* free_bytes, int64_t* total_bytes, kvasir_error*);

  /* Raw memory, 256-byte aligned, synchronous. The addon pools it; these are called on growth and trim only. */
  kvasir_status (*alloc)(kvasir_device*, size_t bytes, void** out, kvasir_error*);
  void (*free)(kvasir_device*, void*);
  /* Host memory that this backend reads and writes at full speed (pinned on CUDA), or makes existing host memory so. */
  kvasir_status (*host_alloc)(kvasir_device*, size_t bytes, void** out, kvasir_error*);
  void (*host_free)(kvasir_device*, void*);
  kvasir_status (*host_register)(kvasir_device*, void*, size_t bytes, kvasir_error*);
  void (*host_unregister)(kvasir_device*, void*);

  kvasir_status (*stream_create)(kvasir_device*, kvasir_stream**, kvasir_error*);
  void (*stream_destroy)(kvasir_stream*); /* waits for the stream */
  /* Like device_status, asking this stream alone. */
  kvasir_status (*stream_status)(kvasir_stream*, kvasir_error*);
  /* Blocks the calling thread: for tests, teardown and benches only. */
  kvasir_status (*stream_synchronize)(kvasir_stream*, kvasir_error*);
  /* Calls fn(user, status, text) once the stream got there, from a thread of the backend; it must be short and call no backend
   * function. */
  kvasir_status (*stream_callback)(kvasir_stream*, void (*fn)(void* user, kvasir_status, const char* text), void* user,
                                   kvasir_error*);

  /* Host memory may be any memory (not only pinned) and must stay valid and unchanged until the stream has passed the copy.
   * None of these blocks the caller, whatever the size. settled != 0: the source holds its bytes already at the call, so that
   * small ones may travel with it; 0: earlier work of the stream may still write them, and they are read when the stream gets
   * there. */
  kvasir_status (*copy_in)(kvasir_stream*, void* dst, const void* host_src, size_t bytes, int32_t settled, kvasir_error*);
  kvasir_status (*copy_out)(kvasir_stream*, void* host_dst, const void* src, size_t bytes, kvasir_error*);
  kvasir_status (*copy)(kvasir_stream*, void* dst, const void* src, size_t bytes, kvasir_error*); /* within the device */
  kvasir_status (*fill)(kvasir_stream*, void* dst, uint8_t value, size_t bytes, kvasir_error*);
  /* Scattered pages between any two of: this device's memory, host memory. The slot lists are free again when the call returns.
   * Pages may be copied in any order. Host memory that is not pinned passes through staging with AUTO and DMA, and is refused
   * with KVASIR_UNSUPPORTED by the other paths. Some thousand copies in a stream make the caller wait in the driver: do not call
   * it from a thread that must not wait. Refused in a recording. */
  kvasir_status (*copy_pages)(kvasir_stream*, const kvasir_page_copy*, kvasir_error*);

  /* Cross-stream and cross-backend order: a flag is 8 bytes of host memory known to every open device (host_register).
   * write: *flag = value + (base ? *base : 0) once all earlier work of the stream is visible to the host and to other devices.
   * wait: later work of the stream starts only when *flag >= value + (base ? *base : 0).
   * base is read when the stream gets there; it is what makes both usable inside a program. */
  kvasir_status (*flag_write)(kvasir_stream*, uint64_t* flag, uint64_t value, const uint64_t* base, kvasir_error*);
  kvasir_status (*flag_wait)(kvasir_stream*, const uint64_t* flag, uint64_t value, const uint64_t* base, kvasir_error*);

  /* Between begin and end, work enqueued on the stream is recorded and not executed. stream_callback and copy_pages are refused
   * there with KVASIR_UNSUPPORTED, and so are copy_in and copy_out unless the host memory is one that the device reaches directly
   * (pinned). */
  kvasir_status (*record_begin)(kvasir_stream*, kvasir_error*);
  kvasir_status (*record_end)(kvasir_stream*, kvasir_program**, kvasir_error*);
  kvasir_status (*program_launch)(kvasir_program*, kvasir_stream*, kvasir_error*);
  void (*program_destroy)(kvasir_program*); /* safe while launched work is in flight */

  /* Device timestamps for benches: slot i of the stream is stamped when the stream gets there; elapsed needs both passed. */
  kvasir_status (*stamp)(kvasir_stream*, int32_t slot, kvasir_error*);
  kvasir_status (*elapsed_us)(kvasir_stream*, int32_t from_slot, int32_t to_slot, double* out, kvasir_error*);
} kvasir_backend;

#define KVASIR_STAMP_SLOTS 256

/* The one symbol exported by a backend library. */
typedef const kvasir_backend* (*kvasir_backend_init_fn)(void);

#ifdef __cplusplus
}
#endif
#endif
