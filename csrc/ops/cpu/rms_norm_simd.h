// Kernels of cpu/rms_norm.cpp, compiled once for each instruction set.
namespace weft::ops::cpu::WEFT_ISA {

/// Sum of squares. Four chains hide the latency of the addition; they depend on dim alone.
template <class T>
WEFT_TARGET WEFT_ALWAYS_INLINE float sum_of_squares(const T* x, int64_t dim) {
  F32 sum[4] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + 4 * kLanes <= dim; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      const F32 v = load(x + i + j * kLanes);
      sum[j] = fma(v, v, sum[j]);
    }
  }
  for (; i < dim; i += kLanes) {
    const F32 v = load(x + i, static_cast<int>(std::min<int64_t>(kLanes, dim - i)));
    sum[0] = fma(v, v, sum[0]);
  }
  return reduce_add((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

template <class T>
WEFT_TARGET void rms_norm_row(T* out, const T* x, const T* weight, int64_t dim, float eps) {
  const F32 scale = set(1.0F / std::sqrt(sum_of_squares(x, dim) / static_cast<float>(dim) + eps));
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) store(out + i, load(x + i) * scale * load(weight + i));
  if (i < dim) {
    const int rest = static_cast<int>(dim - i);
    store(out + i, load(x + i, rest) * scale * load(weight + i, rest), rest);
  }
}

}  // namespace weft::ops::cpu::WEFT_ISA
