#pragma once

#include <cutlass/fast_math.h>

#include <cute/tensor.hpp>

#include "kernels/attention/prefill_plan.h"
#include "kernels/common/launch.cuh"

namespace weft::kernels {

/// A tile scheduler for FlashInfer's Hopper kernels that reads plan_prefill's tiles. Items are (tile, head)
/// pairs, longest first; the blocks, one a multiprocessor, take them in turns, from left to right and then
/// from right to left, so that all end at about the same time.
struct PrefillScheduler {
  struct Params {
    OpSite site;
    const int32_t* num_tiles;
    const PrefillTile* tiles;
    cutlass::FastDivmod heads;  // query heads
    cutlass::FastDivmod group;  // query heads of a key head
    int32_t
        page_table_stride;  // keys of a sequence: its row of the page table; 0: packed one after the other
  };

  struct WorkTileInfo {
    int round;
    int tile;
    int head;
    bool valid;

    CUTLASS_DEVICE bool is_valid(const Params&) const { return valid; }
    /// q_tile_idx, qo_head_idx, kv_head_idx, qo_indptr, kv_indptr, qo_len, kv_len, batch_idx.
    CUTLASS_DEVICE auto get_block_coord(const Params& params) const {
      const PrefillTile t = params.tiles[tile];
      const int kv_begin = params.page_table_stride > 0 ? t.seq * params.page_table_stride : t.kv_begin;
      return cute::tuple{t.index,  head, params.group.divide(head), t.q_begin, kv_begin, t.q_len,
                         t.kv_len, t.seq};
    }
  };

  CUTLASS_DEVICE static WorkTileInfo item(const Params& params, int round) {
    const int column = static_cast<int>(round % 2 == 0 ? blockIdx.x : gridDim.x - 1 - blockIdx.x);
    const int i = round * static_cast<int>(gridDim.x) + column;
    int tile = 0;
    int head = 0;
    params.heads(tile, head, i);
    return {round, tile, head, tile < *params.num_tiles};
  }

  CUTLASS_DEVICE WorkTileInfo get_initial_work(const Params& params) const {
    wait_for_inputs(params.site);
    return item(params, 0);
  }
  template <bool kIsProducer = false>
  CUTLASS_DEVICE WorkTileInfo get_next_work(const Params& params, const WorkTileInfo& last) const {
    return item(params, last.round + 1);
  }
  CUTLASS_DEVICE void init_consumer() const {}
  CUTLASS_DEVICE void prefetch_next_work(const Params&, const WorkTileInfo&) const {}
  CUTLASS_DEVICE void broadcast_next_work(const WorkTileInfo&) const {}
};

}  // namespace weft::kernels
