#pragma once

#include <string>
#include <utility>

#include "model/model.h"

namespace weft::model {

/// The pre-norm decoder layer that both families share, around the attention that `make_attention(prefix)`
/// gives.
template <class MakeAttention>
Layer make_decoder_layer(const ModelConfig& config, int64_t layer, const ModelShards& shards,
                         WeightMap& weights, MakeAttention&& make_attention) {
  const auto prefix = "model.layers." + std::to_string(layer) + ".";
  const auto norm = [&](const std::string& name) {
    const auto id = weights.reserve(prefix + name, config.dtype, {config.hidden_size});
    weights.fill(id, {prefix + name + ".weight", {config.hidden_size}});
    return id;
  };
  Layer parts;
  parts.attention_norm = norm("input_layernorm");
  parts.attention = make_attention(prefix + "self_attn.");
  parts.ffn_norm = norm("post_attention_layernorm");
  if (config.is_sparse(layer)) {
    parts.sparse.emplace(config, weights, prefix + "mlp.", shards.experts, shards.shared);
  } else {
    parts.dense.emplace(config, weights, prefix + "mlp.", config.intermediate_size, shards.dense);
  }
  return parts;
}

}  // namespace weft::model
