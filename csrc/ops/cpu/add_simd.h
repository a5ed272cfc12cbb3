// Shared by cpu/elementwise.cpp and cpu/rms_norm.cpp, compiled once for each instruction set.
namespace weft::ops::cpu::WEFT_ISA {

/// sum = a + b, rounded once; any of them may be the same array.
template <class T>
WEFT_TARGET void add_row(T* sum, const T* a, const T* b, int64_t dim) {
  int64_t i = 0;
  for (; i + kLanes <= dim; i += kLanes) store(sum + i, load(a + i) + load(b + i));
  if (i < dim) {
    const int rest = static_cast<int>(dim - i);
    store(sum + i, load(a + i, rest) + load(b + i, rest), rest);
  }
}

}  // namespace weft::ops::cpu::WEFT_ISA
