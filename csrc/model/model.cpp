#include "model/model.h"

#include <algorithm>

#include "base/math.h"

namespace weft::model {
namespace {

/// This rank's rows of a [vocab, hidden] table, padded to equal shards.
WeightId reserve_vocab_shard(const ModelConfig& config, WeightMap& weights, const std::string& name,
                             const std::string& source, ShardRank shard) {
  const int64_t rows = ceil_div<int64_t>(config.vocab_size, shard.size);
  const auto id = weights.reserve(name, config.dtype, {rows, config.hidden_size});
  const int64_t begin = std::min(shard.rank * rows, config.vocab_size);
  const int64_t end = std::min(begin + rows, config.vocab_size);
  if (begin < end) weights.fill(id, {source, {config.vocab_size, config.hidden_size}, {Slice{begin, end}}});
  if (end - begin < rows) weights.pad(id, end - begin);
  return id;
}

}  // namespace

ModelShards model_shards(const plan::ParallelConfig& parallel, int rank) {
  const ShardRank attention{parallel.attn_tp_size(), parallel.attn_tp_rank(rank)};
  const ShardRank all{parallel.tp_size, rank};
  const bool dispatched = parallel.a2a_backend != plan::A2aBackend::kNone;
  ModelShards shards;
  shards.attention = attention;
  shards.embedding = attention;
  shards.dense = parallel.dense_is_scattered() ? ShardRank{} : all;
  shards.shared = dispatched ? ShardRank{} : all;
  shards.lm_head = parallel.enable_dp_lm_head ? attention : all;
  shards.experts = {parallel.ep_size, parallel.ep_rank(rank), parallel.moe_tp_size(),
                    parallel.moe_tp_rank(rank)};
  return shards;
}

Model make_model(const ModelConfig& config, const plan::ParallelConfig& parallel, int rank,
                 WeightMap& weights) {
  const auto shards = model_shards(parallel, rank);
  Model model;
  model.embedding =
      reserve_vocab_shard(config, weights, "embed_tokens", "model.embed_tokens.weight", shards.embedding);
  model.vocab_begin = shards.embedding.rank * ceil_div<int64_t>(config.vocab_size, shards.embedding.size);
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    model.layers.push_back(config.is_mla() ? make_deepseek_layer(config, i, shards, weights)
                                           : make_qwen3_layer(config, i, shards, weights));
  }
  model.final_norm = weights.reserve("norm", config.dtype, {config.hidden_size});
  weights.fill(model.final_norm, {"model.norm.weight", {config.hidden_size}});
  model.lm_head_shards = shards.lm_head.size;
  model.lm_head_rows = ceil_div<int64_t>(config.vocab_size, shards.lm_head.size);
  const bool same_shard =
      shards.lm_head.size == shards.embedding.size && shards.lm_head.rank == shards.embedding.rank;
  if (config.tie_word_embeddings && same_shard) {
    model.lm_head = model.embedding;
  } else {
    const std::string source = config.tie_word_embeddings ? "model.embed_tokens.weight" : "lm_head.weight";
    model.lm_head = reserve_vocab_shard(config, weights, "lm_head", source, shards.lm_head);
  }
  return model;
}

std::vector<std::string> ignored_tensors(const ModelConfig& config) {
  std::vector<std::string> patterns = {"*.rotary_emb.inv_freq"};
  for (int64_t i = 0; i < config.num_nextn_predict_layers; ++i) {
    patterns.push_back("model.layers." + std::to_string(config.num_hidden_layers + i) + ".*");
  }
  // A tied checkpoint may carry the head all the same; transformers ignores it too.
  if (config.tie_word_embeddings) patterns.emplace_back("lm_head.weight");
  return patterns;
}

}  // namespace weft::model
