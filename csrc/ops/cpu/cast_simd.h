// Shared by cpu/elementwise.cpp and cpu/gemm_block.cpp, compiled once for each instruction set.
namespace weft::ops::cpu::WEFT_ISA {

/// out = x, by way of f32.
template <class Out, class In>
WEFT_TARGET void cast_row(Out* out, const In* x, int64_t columns) {
  int64_t i = 0;
  for (; i + kLanes <= columns; i += kLanes) store(out + i, load(x + i));
  if (i < columns) {
    const int rest = static_cast<int>(columns - i);
    store(out + i, load(x + i, rest), rest);
  }
}

}  // namespace weft::ops::cpu::WEFT_ISA
