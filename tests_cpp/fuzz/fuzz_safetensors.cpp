#include <cstdlib>

#include "base/error.h"
#include "fuzz/fuzzer.h"
#include "fuzz/inputs.h"
#include "model/safetensors.h"

/// Any bytes give tensors that lie inside them, or an Error.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    unsigned sum = 0;
    for (const auto& [name, tensor] : weft::model::parse_safetensors(bytes, "fuzz")) {
      size_t num_bytes = weft::dtype_size(tensor.dtype);
      for (const int64_t extent : tensor.shape) num_bytes *= static_cast<size_t>(extent);
      if (num_bytes != tensor.data.size()) std::abort();
      for (const std::byte b : tensor.data) sum += std::to_integer<unsigned>(b);  // the sanitizer checks each
    }
    [[maybe_unused]] volatile unsigned used = sum;
  } catch (const weft::Error&) {
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  size = weft::fuzz::mutate_input(data, size, max_size, seed, weft::fuzz::safetensors_seeds(),
                                  weft::fuzz::kSafetensorsPieces);
  weft::fuzz::repair_header_length(data, size, seed);
  return size;
}
