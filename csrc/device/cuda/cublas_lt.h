#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <string>

#include "base/dtype.h"
#include "device/cuda/cuda_context.h"

/// cuBLASLt, found when it is first needed: no build and no machine has to have it.
namespace weft::device::cuda {

class Core;

/// out[m, n] = a[m, k] * w[n, k]^T + bias, in device memory, summed in f32. Rows are dense; strides in
/// elements.
struct LtProduct {
  void* out;
  const void* a;
  const void* w;
  const void* bias;  // of out's dtype; null: none
  int64_t out_stride, a_stride, w_stride;
  int64_t m, n, k;
  DType dtype;  // of a and w
  DType out_dtype;
};

/// The products of one device. Thread-safe.
class CublasLt {
 public:
  /// Allocates from `core`, which must outlive this.
  explicit CublasLt(Core& core);
  ~CublasLt();
  CublasLt(const CublasLt&) = delete;
  CublasLt& operator=(const CublasLt&) = delete;

  /// Enqueues `product` on the context's stream; can be captured. False if the library is not here or has no
  /// algorithm for the product; then nothing was enqueued.
  ///
  /// An algorithm is chosen once for each n, k, strides, dtypes and power of two that m is rounded up to, so
  /// within such a class a row of out depends on its row of a alone. Streams of one name share a workspace of
  /// 32 MiB, allocated when the name is first met: their products must not run at the same time.
  [[nodiscard]] bool multiply(const LtProduct& product, const CudaContext& context);

 private:
  class Impl;
  [[maybe_unused]] Core& core_;
  std::once_flag made_;
  std::unique_ptr<Impl> impl_;
};

/// Why products are not served: nothing to compile against, or no library to load. "" if they are.
[[nodiscard]] std::string cublas_lt_unavailable_reason();

}  // namespace weft::device::cuda
