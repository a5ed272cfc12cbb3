#pragma once

#include <cstdint>

/// What plan_prefill leaves for the kernels that run a step's prompts tile by tile.
namespace weft::kernels {

/// Query rows of one sequence that one block takes together; of one head at a time.
struct alignas(16) PrefillTile {
  int32_t seq;
  int32_t index;    // of the tile in its sequence
  int32_t q_begin;  // first query row of the sequence
  int32_t q_len;    // rows of the sequence
  int32_t kv_len;
  int32_t
      kv_begin;  // tokens of the sequences before this one, which is where its keys begin if they are packed
  int32_t unused[2];
};

/// Where things stand in the plan's memory, in int32 from its start.
struct PrefillPlanLayout {
  static constexpr int kTileRows = 128;
  static constexpr int64_t kNumTiles = 0;
  static constexpr int64_t kNumSeqs = 1;  // that are planned, bad ones included
  static constexpr int64_t kHeader = 8;
  static constexpr int64_t kTileInts = sizeof(PrefillTile) / sizeof(int32_t);

  int64_t max_tiles;
  int64_t max_seqs;

  constexpr PrefillPlanLayout(int64_t max_rows, int64_t seqs)
      : max_tiles(max_rows / kTileRows + seqs), max_seqs(seqs) {}
  /// The tiles, longest first. Independent of the sizes, so that who runs them need not know these.
  [[nodiscard]] static constexpr int64_t tiles() { return kHeader; }
  // What the plan's kernel works with.
  [[nodiscard]] constexpr int64_t unsorted_tiles() const { return tiles() + max_tiles * kTileInts; }
  [[nodiscard]] constexpr int64_t first_tile() const { return unsorted_tiles() + max_tiles * kTileInts; }
  [[nodiscard]] constexpr int64_t kv_begin() const { return first_tile() + max_seqs + 1; }
  [[nodiscard]] constexpr int64_t size() const { return kv_begin() + max_seqs + 1; }
};

}  // namespace weft::kernels
