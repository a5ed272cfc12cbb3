#include "model/families/decoder.h"

namespace weft::model {

/// Qwen3 and Qwen3-MoE: grouped-query attention with q/k norms; SwiGLU, or routed experts without shared
/// ones.
Layer make_qwen3_layer(const ModelConfig& config, int64_t layer, const ModelShards& shards,
                       WeightMap& weights) {
  return make_decoder_layer(config, layer, shards, weights, [&](const std::string& prefix) {
    return make_gqa_attention(config, weights, prefix, shards.attention);
  });
}

}  // namespace weft::model
