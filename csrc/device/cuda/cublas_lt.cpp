#include "device/cuda/cublas_lt.h"

#include "device/cuda/cuda_core.h"

#if WEFT_HAS_CUBLASLT
#include <cublasLt.h>
#include <dlfcn.h>

#include <array>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <tuple>

#include "base/error.h"
#endif

namespace weft::device::cuda {

#if WEFT_HAS_CUBLASLT
namespace {

constexpr size_t kWorkspaceBytes = size_t{32} << 20;
constexpr uint32_t kAlignment = 16;  // of every matrix, in bytes

/// The functions of the library that are used, found once in a process and never unloaded.
struct Library {
  std::string why_not;  // empty: it is here

  decltype(&cublasLtCreate) create = nullptr;
  decltype(&cublasLtDestroy) destroy = nullptr;
  decltype(&cublasLtGetStatusName) status_name = nullptr;
  decltype(&cublasLtMatmul) matmul = nullptr;
  decltype(&cublasLtMatmulAlgoGetHeuristic) choose = nullptr;
  decltype(&cublasLtMatmulAlgoCheck) check = nullptr;
  decltype(&cublasLtMatmulDescCreate) create_operation = nullptr;
  decltype(&cublasLtMatmulDescDestroy) destroy_operation = nullptr;
  decltype(&cublasLtMatmulDescSetAttribute) set_operation = nullptr;
  decltype(&cublasLtMatrixLayoutCreate) create_layout = nullptr;
  decltype(&cublasLtMatrixLayoutDestroy) destroy_layout = nullptr;
  decltype(&cublasLtMatmulPreferenceCreate) create_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceDestroy) destroy_preference = nullptr;
  decltype(&cublasLtMatmulPreferenceSetAttribute) set_preference = nullptr;

  Library();
};

/// The library that the process has already (of PyTorch, say), else the one that WEFT_CUBLASLT_SO names, else
/// that of the wheel nvidia-cublas beside this package, else the system's, else the toolkit's.
void* open_library(std::string& why_not) {
  const std::string name = fmt::format("libcublasLt.so.{}", CUBLAS_VER_MAJOR);
  if (void* loaded = dlopen(name.c_str(), RTLD_NOW | RTLD_NOLOAD)) return loaded;
  if (const char* path = std::getenv("WEFT_CUBLASLT_SO")) {
    void* named = dlopen(path, RTLD_NOW);
    if (named == nullptr) why_not = fmt::format("WEFT_CUBLASLT_SO={} cannot be loaded: {}", path, dlerror());
    return named;
  }
  Dl_info own{};
  std::string folder;  // of site-packages/weft/libweft.so
  if (dladdr(reinterpret_cast<const void*>(&open_library), &own) != 0 && own.dli_fname != nullptr) {
    folder = own.dli_fname;
    folder.resize(folder.find_last_of('/') + 1);
  }
  for (const std::string& path :
       {folder + "../nvidia/cu13/lib/" + name, name, "/usr/local/cuda/lib64/" + name}) {
    if (void* found = dlopen(path.c_str(), RTLD_NOW)) return found;
  }
  why_not =
      fmt::format("no {} is found; pip install nvidia-cublas, or set WEFT_CUBLASLT_SO to its path", name);
  return nullptr;
}

Library::Library() {
  void* const library = open_library(why_not);
  if (library == nullptr) return;
  const auto find = [&](auto& function, const char* name) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, name));
    if (function == nullptr && why_not.empty()) why_not = fmt::format("libcublasLt has no {}", name);
  };
  find(create, "cublasLtCreate");
  find(destroy, "cublasLtDestroy");
  find(status_name, "cublasLtGetStatusName");
  find(matmul, "cublasLtMatmul");
  find(choose, "cublasLtMatmulAlgoGetHeuristic");
  find(check, "cublasLtMatmulAlgoCheck");
  find(create_operation, "cublasLtMatmulDescCreate");
  find(destroy_operation, "cublasLtMatmulDescDestroy");
  find(set_operation, "cublasLtMatmulDescSetAttribute");
  find(create_layout, "cublasLtMatrixLayoutCreate");
  find(destroy_layout, "cublasLtMatrixLayoutDestroy");
  find(create_preference, "cublasLtMatmulPreferenceCreate");
  find(destroy_preference, "cublasLtMatmulPreferenceDestroy");
  find(set_preference, "cublasLtMatmulPreferenceSetAttribute");
}

const Library& library() {
  static const Library instance;
  return instance;
}

void check_lt(cublasStatus_t status, const char* what) {
  WEFT_CHECK(status == CUBLAS_STATUS_SUCCESS, "{}: {}", what, library().status_name(status));
}

struct HandleDeleter {
  void operator()(cublasLtContext* handle) const noexcept { (void)library().destroy(handle); }
};
struct OperationDeleter {
  void operator()(cublasLtMatmulDescOpaque_t* p) const noexcept { (void)library().destroy_operation(p); }
};
struct LayoutDeleter {
  void operator()(cublasLtMatrixLayoutOpaque_t* p) const noexcept { (void)library().destroy_layout(p); }
};
struct PreferenceDeleter {
  void operator()(cublasLtMatmulPreferenceOpaque_t* p) const noexcept {
    (void)library().destroy_preference(p);
  }
};
using Layout = std::unique_ptr<cublasLtMatrixLayoutOpaque_t, LayoutDeleter>;

cudaDataType_t type_of(DType dtype) {
  switch (dtype) {
    case DType::kBF16:
      return CUDA_R_16BF;
    case DType::kF16:
      return CUDA_R_16F;
    default:
      return CUDA_R_32F;
  }
}

// cuBLASLt counts columns first: our row is its column, and a row-major w is its transposed matrix.
Layout make_layout(DType dtype, int64_t columns, int64_t rows, int64_t stride) {
  cublasLtMatrixLayout_t layout = nullptr;
  check_lt(library().create_layout(&layout, type_of(dtype), static_cast<uint64_t>(columns),
                                   static_cast<uint64_t>(rows), stride),
           "cublasLtMatrixLayoutCreate");
  return Layout(layout);
}

/// One product, described for `m` rows.
struct Described {
  std::unique_ptr<cublasLtMatmulDescOpaque_t, OperationDeleter> operation;
  Layout w, a, out;

  Described(const LtProduct& p, int64_t m)
      : w(make_layout(p.dtype, p.k, p.n, p.w_stride)),
        a(make_layout(p.dtype, p.k, m, p.a_stride)),
        out(make_layout(p.out_dtype, p.n, m, p.out_stride)) {
    cublasLtMatmulDesc_t made = nullptr;
    check_lt(library().create_operation(&made, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    operation.reset(made);
    set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
    if (p.bias != nullptr) {
      set(CUBLASLT_MATMUL_DESC_EPILOGUE, CUBLASLT_EPILOGUE_BIAS);
      set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
    }
  }

 private:
  template <class T>
  void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
    check_lt(library().set_operation(operation.get(), attribute, &value, sizeof(value)),
             "cublasLtMatmulDescSetAttribute");
  }
};

bool aligned(const void* data, int64_t stride, DType dtype) {
  return reinterpret_cast<uintptr_t>(data) % kAlignment == 0 &&
         stride * static_cast<int64_t>(dtype_size(dtype)) % kAlignment == 0;
}

}  // namespace

class CublasLt::Impl {
 public:
  Impl() {
    cublasLtHandle_t made = nullptr;
    check_lt(library().create(&made), "cublasLtCreate");
    handle_.reset(made);
  }

  bool multiply(const LtProduct& p, const CudaContext& context, Core& core) {
    const Algorithm* const algorithm = algorithm_of(p);
    if (algorithm == nullptr) return false;
    void* const workspace = workspace_of(context.site.progress, core);
    const Described described(p, p.m);
    const float one = 1.0F;
    const float zero = 0.0F;
    check_lt(
        library().matmul(handle_.get(), described.operation.get(), &one, p.w, described.w.get(), p.a,
                         described.a.get(), &zero, p.out, described.out.get(), p.out, described.out.get(),
                         &algorithm->algo, workspace, kWorkspaceBytes, context.foreign_stream()),
        "cublasLtMatmul");
    return true;
  }

 private:
  using Algorithm = cublasLtMatmulHeuristicResult_t;
  using Key = std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t, uint64_t, DType, DType, bool>;

  /// Null: there is none.
  const Algorithm* algorithm_of(const LtProduct& p) {
    const uint64_t rows = std::bit_ceil(static_cast<uint64_t>(p.m));
    const Key key(p.n, p.k, p.w_stride, p.a_stride, p.out_stride, rows, p.dtype, p.out_dtype,
                  p.bias != nullptr);
    const std::lock_guard lock(mutex_);
    const auto [found, is_new] = algorithms_.try_emplace(key);
    if (is_new) found->second = choose(p, static_cast<int64_t>(rows));
    return found->second.get();
  }

  std::unique_ptr<Algorithm> choose(const LtProduct& p, int64_t rows) {
    cublasLtMatmulPreference_t made = nullptr;
    check_lt(library().create_preference(&made), "cublasLtMatmulPreferenceCreate");
    const std::unique_ptr<cublasLtMatmulPreferenceOpaque_t, PreferenceDeleter> preference(made);
    const auto set = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check_lt(library().set_preference(preference.get(), attribute, &value, sizeof(value)),
               "cublasLtMatmulPreferenceSetAttribute");
    };
    set(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t{kWorkspaceBytes});
    // Parts of a sum over k meet in f32, in the workspace, in a fixed order.
    set(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t{CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE});
    for (const auto side :
         {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES,
          CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES}) {
      set(side, kAlignment);
    }
    const Described most(p, rows);
    const Described fewest(p, rows / 2 + 1);
    std::array<Algorithm, 8> results;
    int count = 0;
    if (library().choose(handle_.get(), most.operation.get(), most.w.get(), most.a.get(), most.out.get(),
                         most.out.get(), preference.get(), static_cast<int>(results.size()), results.data(),
                         &count) != CUBLAS_STATUS_SUCCESS) {
      return nullptr;
    }
    for (int i = 0; i < count; ++i) {
      Algorithm checked{};
      if (library().check(handle_.get(), fewest.operation.get(), fewest.w.get(), fewest.a.get(),
                          fewest.out.get(), fewest.out.get(), &results[static_cast<size_t>(i)].algo,
                          &checked) == CUBLAS_STATUS_SUCCESS &&
          checked.workspaceSize <= kWorkspaceBytes) {
        return std::make_unique<Algorithm>(results[static_cast<size_t>(i)]);
      }
    }
    return nullptr;
  }

  void* workspace_of(const void* stream, Core& core) {
    const std::lock_guard lock(mutex_);
    DeviceMemory& workspace = workspaces_[stream];
    if (workspace == nullptr) {
      workspace = core.allocate(kWorkspaceBytes, "workspace of cuBLASLt");
      core.allocated_bytes.fetch_add(kWorkspaceBytes);
    }
    return workspace.get();
  }

  std::unique_ptr<cublasLtContext, HandleDeleter> handle_;
  std::mutex mutex_;
  std::map<Key, std::unique_ptr<Algorithm>> algorithms_;
  std::map<const void*, DeviceMemory> workspaces_;  // by the stream's progress word
};

bool CublasLt::multiply(const LtProduct& p, const CudaContext& context) {
  const bool fits = dtype_size(p.dtype) == 2 && aligned(p.a, p.a_stride, p.dtype) &&
                    aligned(p.w, p.w_stride, p.dtype) && aligned(p.out, p.out_stride, p.out_dtype) &&
                    p.k > 0 && (p.bias == nullptr || (p.out_dtype == p.dtype && aligned(p.bias, 0, p.dtype)));
  if (!fits || !library().why_not.empty()) return false;
  const RelaxedCapture relaxed;
  std::call_once(made_, [&] { impl_ = std::make_unique<Impl>(); });
  return impl_->multiply(p, context, core_);
}

std::string cublas_lt_unavailable_reason() { return library().why_not; }

#else

class CublasLt::Impl {};

bool CublasLt::multiply(const LtProduct& /*product*/, const CudaContext& /*context*/) { return false; }

std::string cublas_lt_unavailable_reason() {
  return "this build lacks the headers of cuBLAS, which ./dev build fetches (WEFT_CUBLAS_INCLUDE_DIR)";
}

#endif

CublasLt::CublasLt(Core& core) : core_(core) {}
CublasLt::~CublasLt() = default;

}  // namespace weft::device::cuda
