// Passes over a row of the vocabulary; see vec.h.
namespace weft::ops::cpu::WEFT_ISA {

/// The largest of x[0, n), n > 0; any number if one of them is NaN.
WEFT_TARGET inline void row_maximum(const float* x, int64_t n, float* maximum) {
  F32 top = set(x[0]);
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) top = max(top, load(x + i));
  float best = reduce_max(top);
  for (; i < n; ++i) best = x[i] > best ? x[i] : best;
  *maximum = best;
}

/// out = e^((x - maximum) / temperature); *sum is theirs: f32 within 64 vectors, f64 across, so that a large
/// vocabulary costs no digits.
WEFT_TARGET inline void exp_row(const float* x, int64_t n, float maximum, float temperature, float* out,
                                double* sum) {
  constexpr int64_t kSpan = 64 * kLanes;
  double total = 0.0;
  int64_t i = 0;
  while (i + kLanes <= n) {
    const int64_t end = n - i < kSpan ? n : i + kSpan;
    F32 part = zero();
    for (; i + kLanes <= end; i += kLanes) {
      const F32 weight = exp((load(x + i) - set(maximum)) / set(temperature));
      store(out + i, weight);
      part = part + weight;
    }
    total += static_cast<double>(reduce_add(part));
  }
  if (i < n) {
    const int rest = static_cast<int>(n - i);
    store(out + i, exp((load(x + i, rest) - set(maximum)) / set(temperature)), rest);
    for (; i < n; ++i) total += static_cast<double>(out[i]);
  }
  *sum = total;
}

}  // namespace weft::ops::cpu::WEFT_ISA
