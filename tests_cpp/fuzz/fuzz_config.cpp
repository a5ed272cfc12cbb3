#include <cmath>
#include <cstdlib>

#include "base/error.h"
#include "fuzz/fuzzer.h"
#include "fuzz/inputs.h"
#include "model/config.h"

/// Any text gives a configuration whose derived values make sense, or an Error.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const weft::model::ModelConfig config =
        weft::model::parse_config({reinterpret_cast<const char*>(data), size});
    if (config.sparse_layers.size() != static_cast<size_t>(config.num_hidden_layers)) std::abort();
    if (!std::isfinite(config.softmax_scale) || !std::isfinite(config.rope.attention_factor)) std::abort();
  } catch (const weft::Error&) {
  }
  return 0;
}

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size, unsigned seed) {
  return weft::fuzz::mutate_input(data, size, max_size, seed, weft::fuzz::config_seeds(),
                                  weft::fuzz::kConfigPieces);
}
