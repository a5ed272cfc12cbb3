#include "model/families/decoder.h"

namespace weft::model {

/// DeepSeek-V2 and V3: multi-head latent attention; leading dense layers, then routed and shared experts.
Layer make_deepseek_layer(const ModelConfig& config, int64_t layer, const ModelShards& shards,
                          WeightMap& weights) {
  return make_decoder_layer(config, layer, shards, weights, [&](const std::string& prefix) {
    return make_mla_attention(config, weights, prefix, shards.attention);
  });
}

}  // namespace weft::model
