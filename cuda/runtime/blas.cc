#include "blas.h"

#include <dlfcn.h>
#include <library_types.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../../native/core/dtype.h"
#include "../../native/core/status.h"

namespace kvasir::cuda {

namespace {

// The part of cuBLASLt's C interface that is used, the same in its versions 12 and 13: no header or link dependency.
enum {
  kCompute32F = 68,
  kOpN = 0,
  kOpT = 1,
  kDescTransA = 3,
  kDescTransB = 4,
  kDescEpilogue = 7,
  kDescBiasPointer = 8,
  kDescBiasType = 26
};
enum { kPreferWorkspace = 1, kPreferReduction = 3, kPreferAlignment = 5, kReductionComputeType = 2, kEpilogueBias = 4 };
constexpr int kSuccess = 0;

using Object = void*;
struct HeuristicResult {
  uint64_t algorithm[8];
  size_t workspace;
  int state;
  float waves;
  int reserved[4];
};

struct Library {
  int (*create)(Object*) = nullptr;
  int (*destroy)(Object) = nullptr;
  int (*desc_create)(Object*, int compute, int scale) = nullptr;
  int (*desc_destroy)(Object) = nullptr;
  int (*desc_set)(Object, int attribute, const void*, size_t) = nullptr;
  int (*layout_create)(Object*, int type, uint64_t rows, uint64_t cols, int64_t stride) = nullptr;
  int (*layout_destroy)(Object) = nullptr;
  int (*preference_create)(Object*) = nullptr;
  int (*preference_destroy)(Object) = nullptr;
  int (*preference_set)(Object, int attribute, const void*, size_t) = nullptr;
  int (*heuristic)(Object, Object desc, Object a, Object b, Object c, Object d, Object preference, int asked, HeuristicResult*,
                   int* found) = nullptr;
  int (*matmul)(Object, Object desc, const void* alpha, const void* a, Object a_layout, const void* b, Object b_layout,
                const void* beta, const void* c, Object c_layout, void* d, Object d_layout, const void* algorithm,
                void* workspace, size_t bytes, cudaStream_t) = nullptr;
  bool complete = false;

  Library() {
    const char* setting = std::getenv("KVASIR_BLAS");
    if (setting != nullptr && std::strcmp(setting, "off") == 0) return;
    void* const module = find();
    if (module == nullptr) return;
    complete = load(module, "Create", create) && load(module, "Destroy", destroy) &&
               load(module, "MatmulDescCreate", desc_create) && load(module, "MatmulDescDestroy", desc_destroy) &&
               load(module, "MatmulDescSetAttribute", desc_set) && load(module, "MatrixLayoutCreate", layout_create) &&
               load(module, "MatrixLayoutDestroy", layout_destroy) && load(module, "MatmulPreferenceCreate", preference_create) &&
               load(module, "MatmulPreferenceDestroy", preference_destroy) &&
               load(module, "MatmulPreferenceSetAttribute", preference_set) &&
               load(module, "MatmulAlgoGetHeuristic", heuristic) && load(module, "Matmul", matmul);
  }

 private:
  static void* find() {
    std::vector<std::string> folders = {""};
    for (const char* variable : {"CUDA_HOME", "CUDA_PATH"}) {
      const char* root = std::getenv(variable);
      if (root != nullptr && root[0] != '\0') folders.push_back(std::string(root) + "/lib64/");
    }
    folders.insert(folders.end(), {"/usr/local/cuda/lib64/", "/usr/local/cuda/targets/x86_64-linux/lib/",
                                   "/usr/local/cuda/targets/sbsa-linux/lib/", "/opt/cuda/lib64/", "/usr/lib/x86_64-linux-gnu/"});
    for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12"}) {
      for (const std::string& folder : folders) {
        if (void* const module = dlopen((folder + name).c_str(), RTLD_LAZY | RTLD_LOCAL)) return module;
      }
    }
    return nullptr;
  }
  template <class Function>
  static bool load(void* module, const char* name, Function& function) {
    function = reinterpret_cast<Function>(dlsym(module, (std::string("cublasLt") + name).c_str()));
    return function != nullptr;
  }
};

const Library& library() {
  static const Library loaded;
  return loaded;
}

int data_type(int32_t dtype) { return dtype == KVASIR_F32 ? CUDA_R_32F : dtype == KVASIR_F16 ? CUDA_R_16F : CUDA_R_16BF; }

// The largest power of two up to 256 that divides the address and the byte stride of every row.
uint32_t alignment(const void* data, int64_t row_bytes) {
  const uint64_t bits = reinterpret_cast<uintptr_t>(data) | static_cast<uint64_t>(row_bytes) | 256;
  return static_cast<uint32_t>(bits & (~bits + 1));
}

// Descriptors of one problem. cuBLASLt counts columns first: its A is the weight (transposed), B is x, and D is out.
struct Problem {
  const Library& lt = library();
  Object desc = nullptr, a = nullptr, b = nullptr, d = nullptr;
  bool ok = false;

  explicit Problem(const MatrixProduct& p) {
    const int type = data_type(p.dtype), out_type = data_type(p.out_dtype), transpose = kOpT, plain = kOpN;
    const auto rows = static_cast<uint64_t>(p.rows), in = static_cast<uint64_t>(p.in_features),
               out = static_cast<uint64_t>(p.out_features);
    ok = lt.desc_create(&desc, kCompute32F, CUDA_R_32F) == kSuccess && set(kDescTransA, transpose) && set(kDescTransB, plain) &&
         lt.layout_create(&a, type, in, out, p.weight_stride) == kSuccess &&
         lt.layout_create(&b, type, in, rows, p.x_stride) == kSuccess &&
         lt.layout_create(&d, out_type, out, rows, p.out_stride) == kSuccess;
    if (ok && p.bias != nullptr) {
      const uint32_t epilogue = kEpilogueBias;
      ok = set(kDescEpilogue, epilogue) && set(kDescBiasPointer, p.bias) && set(kDescBiasType, out_type);
    }
  }
  ~Problem() {
    for (const Object layout : {a, b, d}) {
      if (layout != nullptr) lt.layout_destroy(layout);
    }
    if (desc != nullptr) lt.desc_destroy(desc);
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  template <class Value>
  bool set(int attribute, const Value& value) {
    return lt.desc_set(desc, attribute, &value, sizeof value) == kSuccess;
  }
};

}  // namespace

bool Blas::available() { return library().complete; }

Blas::~Blas() {
  if (handle_ != nullptr) library().destroy(handle_);
}

bool Blas::open() {
  if (handle_ == nullptr && !failed_) failed_ = library().create(&handle_) != kSuccess;
  return !failed_;
}

size_t Blas::Hash::operator()(const Key& key) const {
  uint64_t hash = 0;
  for (const int64_t value : key.values) hash = (hash ^ static_cast<uint64_t>(value)) * 0x9e3779b97f4a7c15ull + (hash >> 29);
  return hash;
}

bool Blas::multiply(cudaStream_t stream, const MatrixProduct& p, void* workspace, size_t workspace_bytes, kvasir_status* status,
                    kvasir_error* err) {
  const std::lock_guard guard(lock_);
  if (!open()) return false;
  const Library& lt = library();
  const int64_t item = dtype_bytes(p.dtype), out_item = dtype_bytes(p.out_dtype);
  const uint32_t alignments[4] = {alignment(p.weight, p.weight_stride * item), alignment(p.x, p.x_stride * item),
                                  alignment(p.out, p.out_stride * out_item), alignment(p.out, p.out_stride * out_item)};
  Problem problem(p);
  if (!problem.ok) return false;

  const Key key = {{p.rows, p.in_features, p.out_features, p.x_stride, p.weight_stride, p.out_stride, p.dtype * 16 + p.out_dtype,
                    p.bias != nullptr ? alignment(p.bias, 0) : 0, alignments[0], alignments[1], alignments[2],
                    static_cast<int64_t>(workspace_bytes)}};
  auto found = algorithms_.find(key);
  if (found == algorithms_.end()) {
    Algorithm algorithm{};
    Object preference = nullptr;
    if (lt.preference_create(&preference) == kSuccess) {
      const uint64_t bytes = workspace_bytes;
      const uint32_t reduction = kReductionComputeType;  // partial sums stay f32
      bool ok = lt.preference_set(preference, kPreferWorkspace, &bytes, sizeof bytes) == kSuccess &&
                lt.preference_set(preference, kPreferReduction, &reduction, sizeof reduction) == kSuccess;
      for (int i = 0; i < 4; ++i)
        ok = ok && lt.preference_set(preference, kPreferAlignment + i, &alignments[i], sizeof(uint32_t)) == kSuccess;
      HeuristicResult result{};
      int count = 0;
      ok = ok && lt.heuristic(handle_, problem.desc, problem.a, problem.b, problem.d, problem.d, preference, 1, &result,
                              &count) == kSuccess;
      algorithm.usable = ok && count == 1 && result.state == kSuccess;
      std::copy(std::begin(result.algorithm), std::end(result.algorithm), algorithm.data);
      lt.preference_destroy(preference);
    }
    if (algorithms_.size() > 4096) algorithms_.clear();  // prompts of every length come by
    found = algorithms_.emplace(key, algorithm).first;
  }
  if (!found->second.usable) return false;

  const float alpha = 1.f, beta = 0.f;
  const int result = lt.matmul(handle_, problem.desc, &alpha, p.weight, problem.a, p.x, problem.b, &beta, p.out, problem.d, p.out,
                               problem.d, found->second.data, workspace, workspace_bytes, stream);
  *status = KVASIR_OK;
  if (result != kSuccess) {
    *status = device_.check(cudaGetLastError(), "linear", err);
    if (*status == KVASIR_OK)
      *status = fail(err, KVASIR_INTERNAL, "On %s, cuBLASLt failed in linear with its status %d.", device_.limits().name, result);
  }
  return true;
}

}  // namespace kvasir::cuda
