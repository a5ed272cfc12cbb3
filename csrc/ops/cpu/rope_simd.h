// Kernels of cpu/rope.cpp, compiled once for each instruction set.
namespace weft::ops::cpu::WEFT_ISA {

template <class T>
WEFT_TARGET WEFT_ALWAYS_INLINE void rotate(T* first, T* second, F32 cos, F32 sin, int n) {
  const F32 a = load(first, n);
  const F32 b = load(second, n);
  // Products are rounded before they are added, as every reference does.
  store(first, a * cos - b * sin, n);
  store(second, b * cos + a * sin, n);
}

/// Pairs (i, i + half).
template <class T>
WEFT_TARGET void rope_head(T* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, half - i));
    rotate(x + i, x + half + i, load(cos + i, n), load(sin + i, n), n);
  }
}

/// Pairs (2i, 2i + 1), drawn apart into two short arrays and put back.
template <class T>
WEFT_TARGET void rope_head_interleaved(T* x, const float* cos, const float* sin, int64_t half) {
  for (int64_t i = 0; i < half; i += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, half - i));
    T even[kLanes];
    T odd[kLanes];
    for (int j = 0; j < n; ++j) {
      even[j] = x[2 * (i + j)];
      odd[j] = x[2 * (i + j) + 1];
    }
    rotate(even, odd, load(cos + i, n), load(sin + i, n), n);
    for (int j = 0; j < n; ++j) {
      x[2 * (i + j)] = even[j];
      x[2 * (i + j) + 1] = odd[j];
    }
  }
}

}  // namespace weft::ops::cpu::WEFT_ISA
