// The inner loop of moe_unpermute; see vec.h.
namespace weft::ops::cpu::WEFT_ISA {

/// out = sum over k of weights[k] * x[positions[k]], in order of k; -1 adds nothing. Rows of x are x_stride
/// apart.
template <class T, class Out>
WEFT_TARGET void combine_row(const T* x, int64_t x_stride, const int32_t* positions, const float* weights,
                             int64_t top_k, int64_t n, Out* out) {
  for (int64_t i = 0; i < n; i += kLanes) {
    const int lanes = static_cast<int>(n - i < kLanes ? n - i : kLanes);
    F32 sum = zero();
    for (int64_t k = 0; k < top_k; ++k) {
      if (positions[k] < 0) continue;
      const T* row = x + positions[k] * x_stride + i;
      const F32 value = lanes == kLanes ? load(row) : load(row, lanes);
      sum = fma(set(weights[k]), value, sum);
    }
    if (lanes == kLanes) {
      store(out + i, sum);
    } else {
      store(out + i, sum, lanes);
    }
  }
}

}  // namespace weft::ops::cpu::WEFT_ISA
