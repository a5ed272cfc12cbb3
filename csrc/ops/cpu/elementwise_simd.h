// Kernels of cpu/elementwise.cpp, compiled once for each instruction set.
namespace weft::ops::cpu::WEFT_ISA {

template <class T>
WEFT_TARGET void silu_mul_row(T* out, const T* gate, const T* up, int64_t inter) {
  int64_t i = 0;
  for (; i + kLanes <= inter; i += kLanes) store(out + i, silu(load(gate + i)) * load(up + i));
  if (i < inter) {
    const int rest = static_cast<int>(inter - i);
    store(out + i, silu(load(gate + i, rest)) * load(up + i, rest), rest);
  }
}

}  // namespace weft::ops::cpu::WEFT_ISA
