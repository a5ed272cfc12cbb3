#include "base/error.h"
#include "base/json.h"
#include "fuzz/fuzzer.h"
#include "fuzz/inputs.h"

/// Any bytes give a value or an Error; a value can be described.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    (void)weft::json::parse({reinterpret_cast<const char*>(data), size}).describe();
  } catch (const weft::Error&) {
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return weft::fuzz::mutate_input(data, size, max_size, seed, weft::fuzz::json_seeds(),
                                  weft::fuzz::kJsonPieces);
}
