// Kernels of test_vec.cpp, compiled once for each instruction set.
namespace weft::ops::cpu::WEFT_ISA {

WEFT_TARGET void exp_of(float* out, const float* x, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes) {
    const int n = static_cast<int>(std::min<int64_t>(kLanes, count - i));
    store(out + i, exp(load(x + i, n)), n);
  }
}

/// p[j] is the sum of vector j of x by add_reduced, single[j] by reduce_add; max[j] the largest lane.
WEFT_TARGET void reductions(float* p, float* single, float* max, const float* x) {
  add_reduced(p, load(x), load(x + kLanes), load(x + 2 * kLanes), load(x + 3 * kLanes));
  for (int j = 0; j < 4; ++j) {
    single[j] = reduce_add(load(x + j * kLanes));
    max[j] = reduce_max(load(x + j * kLanes));
  }
}

WEFT_TARGET void num_lanes(int* lanes) { *lanes = kLanes; }

}  // namespace weft::ops::cpu::WEFT_ISA
