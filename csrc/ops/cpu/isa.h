#pragma once

#include <cstdint>
#include <string_view>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define WEFT_X86 1
#else
#define WEFT_X86 0
#endif

/// Attributes of a function that is compiled for one instruction set and called only where the machine has
/// it.
#if WEFT_X86
#define WEFT_TARGET_AVX2 __attribute__((target("avx2,fma,f16c")))
#define WEFT_TARGET_AVX512 __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#define WEFT_TARGET_AVX512_BF16 \
  __attribute__((target("avx512bf16,avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")))
#endif
#define WEFT_ALWAYS_INLINE inline __attribute__((always_inline))

namespace weft::ops::cpu {

/// Instruction sets that the CPU ops are compiled for, each one including those before it.
enum class Isa : uint8_t {
  kPortable,    // any machine: what the compiler makes of plain C++
  kAvx2,        // AVX2, FMA, F16C
  kAvx512,      // AVX-512 F, BW, DQ, VL
  kAvx512Bf16,  // and dot products of bf16 pairs
};

/// "portable", "avx2", "avx512", "avx512_bf16".
std::string_view isa_name(Isa isa);

/// The best one of this machine; asked once.
Isa best_isa();

/// The one that the ops use: best_isa(), unless overridden.
Isa current_isa();

/// Diagnostics and tests: makes every op of the process use `isa` as long as this object lives. Nests; throws
/// Error if the machine lacks `isa`. No op may run while one is made or destroyed.
class IsaOverride {
 public:
  explicit IsaOverride(Isa isa);
  ~IsaOverride();
  IsaOverride(const IsaOverride&) = delete;
  IsaOverride& operator=(const IsaOverride&) = delete;

 private:
  Isa previous_;
};

}  // namespace weft::ops::cpu
