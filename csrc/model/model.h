#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "model/config.h"
#include "model/layers/attention.h"
#include "model/layers/ffn.h"
#include "model/weight_map.h"
#include "plan/parallel.h"

namespace weft::model {

/// A decoder layer: norm, attention, norm, FFN, each adding to the residual. What it computes; where its rows
/// live and what moves them is the plan's business.
struct Layer {
  WeightId attention_norm, ffn_norm;
  std::unique_ptr<Attention> attention;
  std::optional<DenseFfn> dense;  // exactly one of the two
  std::optional<SparseFfn> sparse;
};

/// One rank's share of a model.
struct Model {
  std::vector<Layer> layers;
  WeightId embedding;  // [vocab shard over attention TP, hidden]
  WeightId final_norm;
  WeightId lm_head;         // [vocab shard, hidden]: over attention TP with a DP LM head, else over all ranks
  int64_t vocab_begin = 0;  // first id of the embedding's shard
  int lm_head_shards = 1;
  int64_t lm_head_rows = 0;  // ceil(vocab / shards): rows beyond the vocabulary are zeros
};

/// Which ranks a part's weights are sharded over, for one rank.
struct ModelShards {
  ShardRank attention, dense, shared, embedding, lm_head;
  ExpertShard experts;
};
ModelShards model_shards(const plan::ParallelConfig& parallel, int rank);

/// Reserves and maps the weights of `rank`; throws if heads, widths or experts do not divide.
Model make_model(const ModelConfig& config, const plan::ParallelConfig& parallel, int rank,
                 WeightMap& weights);

/// Families: what a layer of one architecture is made of.
Layer make_qwen3_layer(const ModelConfig& config, int64_t layer, const ModelShards& shards,
                       WeightMap& weights);
Layer make_deepseek_layer(const ModelConfig& config, int64_t layer, const ModelShards& shards,
                          WeightMap& weights);

/// Name patterns of checkpoint tensors that weft leaves unread on purpose, such as multi-token prediction
/// layers.
std::vector<std::string> ignored_tensors(const ModelConfig& config);

}  // namespace weft::model
