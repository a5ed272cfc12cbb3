#include "model/layers/attention.h"

namespace weft::model {

WeightId reserve_row_parallel_bias(WeightMap& weights, const std::string& name, DType dtype, int64_t size,
                                   ShardRank shard) {
  const auto id = weights.reserve(name, dtype, {size});
  if (shard.rank == 0) {
    weights.fill(id, {name, {size}});
  } else {
    weights.pad(id, 0);
  }
  return id;
}

}  // namespace weft::model
