#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <type_traits>

#include "base/dtype.h"

/// Runs the threads of a block as fibers of one host thread: each goes on until it meets a barrier.

struct dim3 {
  unsigned x = 1, y = 1, z = 1;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

extern thread_local dim3 threadIdx, blockIdx, blockDim, gridDim;

/// All threads of the block that have not ended. A thread that ends counts as arrived.
void __syncthreads();
/// The same for the lanes of a warp.
void __syncwarp(unsigned mask = 0xffffffffU);

namespace weft::emulation {

/// Runs `thread` once for each thread of each block. Blocks stand in clusters of cluster_size along x, which
/// run at the same time; only their dynamic shared memory is each block's own then. Throws Error if threads
/// wait for barriers that cannot be reached by all of them.
void run_grid(dim3 grid, dim3 block, unsigned cluster_size, size_t shared_bytes,
              const std::function<void()>& thread);

/// The dynamic shared memory of the block that runs.
void* dynamic_shared();
/// The same place as `shared`, an address of this block's dynamic shared memory, in block `rank` of the
/// cluster.
void* shared_of_block(const void* shared, int rank);
/// The cluster's barrier, in two parts. A thread that ends counts as arrived.
void cluster_arrive();
void cluster_wait();

int lane();
/// Space of `kSlotBytes` for one lane of this warp to show to the others; there are two of each, by turns.
constexpr size_t kSlotBytes = 32;
void* slot(int lane);
/// Ends a turn: what all lanes wrote before can be read until the turn after the next.
void turn();
void* last_slot(int lane);

template <class T>
T exchange(T value, int from) {
  static_assert(sizeof(T) <= kSlotBytes && std::is_trivially_copyable_v<T>);
  std::memcpy(slot(lane()), &value, sizeof(T));
  turn();
  T result;
  std::memcpy(&result, last_slot(from), sizeof(T));
  return result;
}

inline float half_of(uint32_t pair, int64_t index, weft::bf16*) {
  return weft::to_f32(weft::bf16{static_cast<uint16_t>(index == 0 ? pair & 0xffffU : pair >> 16)});
}
inline float half_of(uint32_t pair, int64_t index, weft::f16*) {
  return weft::to_f32(weft::f16{static_cast<uint16_t>(index == 0 ? pair & 0xffffU : pair >> 16)});
}

/// kernels/gemm/mma.cuh says where the elements stand.
template <class T>
void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
  struct Fragments {
    uint32_t a[4], b[2];
  };
  Fragments mine;
  std::memcpy(mine.a, a, sizeof(a));
  std::memcpy(mine.b, b, sizeof(b));
  std::memcpy(slot(lane()), &mine, sizeof(mine));
  turn();
  const auto fragments = [](int of) {
    Fragments f;
    std::memcpy(&f, last_slot(of), sizeof(f));
    return f;
  };
  const int g = lane() / 4;
  const int t = lane() % 4;
  T* const type = nullptr;
  for (int e = 0; e < 4; ++e) {
    const int row = g + (e >= 2 ? 8 : 0);
    const int column = 2 * t + e % 2;
    double sum = 0.0;
    for (int k = 0; k < 16; ++k) {
      const Fragments of_a = fragments(row % 8 * 4 + k % 8 / 2);
      const Fragments of_b = fragments(column * 4 + k % 8 / 2);
      sum += static_cast<double>(half_of(of_a.a[(row >= 8 ? 1 : 0) + (k >= 8 ? 2 : 0)], k % 2, type)) *
             static_cast<double>(half_of(of_b.b[k >= 8 ? 1 : 0], k % 2, type));
    }
    c[e] = static_cast<float>(static_cast<double>(c[e]) + sum);
  }
}

/// kernels/attention/fragments.cuh says who gives what and gets what.
inline void load_matrices(uint32_t (&r)[4], const void* row, bool transposed) {
  std::memcpy(slot(lane()), &row, sizeof(row));
  turn();
  const int major = lane() / 4;
  const int minor = lane() % 4 * 2;
  for (int m = 0; m < 4; ++m) {
    const auto element = [&](int i, int j) {
      const uint16_t* of_row;
      std::memcpy(&of_row, last_slot(m * 8 + i), sizeof(of_row));
      return static_cast<uint32_t>(of_row[j]);
    };
    r[m] = transposed ? element(minor, major) | element(minor + 1, major) << 16
                      : element(major, minor) | element(major, minor + 1) << 16;
  }
}

inline uint32_t transpose_matrix(uint32_t pair) {
  std::memcpy(slot(lane()), &pair, sizeof(pair));
  turn();
  const auto element = [](int i, int j) {
    uint32_t of_row;
    std::memcpy(&of_row, last_slot(i * 4 + j / 2), sizeof(of_row));
    return j % 2 == 0 ? of_row & 0xffffU : of_row >> 16;
  };
  const int row = lane() / 4;
  const int column = lane() % 4 * 2;
  return element(column, row) | element(column + 1, row) << 16;
}

}  // namespace weft::emulation

template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
  return weft::emulation::exchange(value, weft::emulation::lane() ^ mask);
}
template <class T>
T __shfl_sync(unsigned, T value, int from) {
  return weft::emulation::exchange(value, from);
}
/// The lowest lanes get their own value back.
template <class T>
T __shfl_up_sync(unsigned, T value, unsigned delta) {
  const int from = weft::emulation::lane() - static_cast<int>(delta);
  return weft::emulation::exchange(value, from < 0 ? weft::emulation::lane() : from);
}
inline unsigned __ballot_sync(unsigned, bool predicate) {
  const unsigned mine = predicate ? 1 : 0;
  std::memcpy(weft::emulation::slot(weft::emulation::lane()), &mine, sizeof(mine));
  weft::emulation::turn();
  unsigned result = 0;
  for (int i = 0; i < 32; ++i) {
    unsigned bit;
    std::memcpy(&bit, weft::emulation::last_slot(i), sizeof(bit));
    result |= (bit & 1U) << i;
  }
  return result;
}
inline unsigned __reduce_max_sync(unsigned, unsigned value) {
  for (int step = 16; step > 0; step /= 2) {
    const unsigned other = weft::emulation::exchange(value, weft::emulation::lane() ^ step);
    value = other > value ? other : value;
  }
  return value;
}
inline unsigned __reduce_min_sync(unsigned mask, unsigned value) { return ~__reduce_max_sync(mask, ~value); }
