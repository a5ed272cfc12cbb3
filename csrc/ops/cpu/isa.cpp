#include "ops/cpu/isa.h"

#include <atomic>

#include "base/error.h"

namespace weft::ops::cpu {
namespace {

Isa detect() {
#if WEFT_X86
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) return Isa::kAvx512Bf16;
  if (avx512) return Isa::kAvx512;
  if (avx2) return Isa::kAvx2;  // every CPU with AVX2 has F16C, which clang 14 cannot ask for
#endif
  return Isa::kPortable;
}

std::atomic<Isa>& current() {
  static std::atomic<Isa> isa{best_isa()};
  return isa;
}

}  // namespace

std::string_view isa_name(Isa isa) {
  switch (isa) {
    case Isa::kPortable:
      return "portable";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx512Bf16:
      return "avx512_bf16";
  }
  return "?";
}

Isa best_isa() {
  static const Isa isa = detect();
  return isa;
}

Isa current_isa() { return current().load(std::memory_order_relaxed); }

IsaOverride::IsaOverride(Isa isa) : previous_(current_isa()) {
  WEFT_CHECK(isa <= best_isa(), "IsaOverride: this machine has no {}; its best is {}", isa_name(isa),
             isa_name(best_isa()));
  current().store(isa, std::memory_order_relaxed);
}

IsaOverride::~IsaOverride() { current().store(previous_, std::memory_order_relaxed); }

}  // namespace weft::ops::cpu
