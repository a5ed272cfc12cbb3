// qk_norm_rope_write and mla_norm_rope_write: a block works on some of a token's heads, some lanes on a head.
//
// A lane has the pack of 16 bytes at `lane` of the head's first half and that at the same place of its second
// half. These hold both halves of its pairs, in either order of pairs, so nothing but the norm's sum passes
// between lanes. Heads that do not divide so, or lie askew, have a warp each and go element by element.
#include "kernels/common/launch.cuh"
#include "kernels/common/reduce.cuh"
#include "kernels/common/types.cuh"
#include "ops/cuda/kernels.h"

namespace weft::kernels {
namespace {

constexpr int kThreads = 128;

/// [rows, heads, dim]; strides in elements.
struct HeadView {
  void* data;
  int64_t row_stride;
  int64_t head_stride;

  template <class T>
  __device__ T* head(int64_t row, int64_t head) const {
    return static_cast<T*>(data) + row * row_stride + head * head_stride;
  }
};

/// Where tokens stand, and the rope table.
struct Places {
  const int32_t* positions;
  const int32_t* slots;
  const float* cos_sin;
  int64_t cos_sin_stride;
  int32_t max_positions;
  int32_t num_slots;
};

struct Texts {
  const char* bad_position;
  const char* bad_slot;
};

/// A token's row of the table (null: it is not rotated), and its slot (-1: it is not written).
struct Place {
  int32_t position, slot;
  const float* cos_sin;
};
__device__ inline Place place_of(const Places& places, int64_t token) {
  // By way of L2: what this multiprocessor read in the step before may be in its L1 still.
  const int32_t position = __ldcg(places.positions + token);
  const int32_t slot = __ldcg(places.slots + token);
  const bool rotated = position >= 0 && position < places.max_positions;
  return {position, slot < 0 || slot >= places.num_slots ? -1 : slot,
          rotated ? places.cos_sin + position * places.cos_sin_stride : nullptr};
}
/// By one thread of a token.
__device__ inline void report(const OpSite& site, const Texts& texts, const Places& places, int64_t token) {
  const int32_t position = places.positions[token];
  const int32_t slot = places.slots[token];
  if (position < -1 || position >= places.max_positions) {
    fail(site, texts.bad_position, token, position, places.max_positions);
  }
  if (slot < -1 || slot >= places.num_slots) fail(site, texts.bad_slot, token, slot, places.num_slots);
}

/// Where a head comes from and goes to.
template <class T>
struct HeadJob {
  const T* from;
  T* to;            // null: nothing is kept
  const T* weight;  // null: no norm
  bool rotated;
};

// Products are rounded before they are added, as every reference does.
template <class T>
__device__ void rotate(T& first, T& second, float cos, float sin) {
  const float a = to_float(first);
  const float b = to_float(second);
  first = from_float<T>(__fsub_rn(__fmul_rn(a, cos), __fmul_rn(b, sin)));
  second = from_float<T>(__fadd_rn(__fmul_rn(b, cos), __fmul_rn(a, sin)));
}

template <class T>
__device__ T normed(T x, float scale, T weight) {
  return from_float<T>(to_float(x) * scale * to_float(weight));
}

struct HeadShape {
  int32_t half;  // of its elements
  float eps;
  bool interleaved;
};

/// Heads by packs, kLanes >= the packs of half a head.
template <class T, int kHeadLanes>
struct PackedHead {
  static constexpr int kLanes = kHeadLanes;
  static constexpr int kPack = kPackOf16Bytes<T>;
  using Values = Pack<T, kPack>;
  using Angles = Pack<float, kPack / 2>;

  Values weight[2];
  Angles cos[2], sin[2];

  static __device__ Values load(const T* x, int64_t pack) { return reinterpret_cast<const Values*>(x)[pack]; }

  /// What no kernel writes.
  __device__ void prefetch(const T* weights, const float* cos_sin, const HeadShape& shape, int lane) {
    const int packs = shape.half / kPack;
    if (lane >= packs) return;
    if (weights != nullptr) {
      weight[0] = load(weights, lane);
      weight[1] = load(weights, packs + lane);
    }
    if (cos_sin != nullptr) {
      const int first = shape.interleaved ? lane : 2 * lane;
      const int second = shape.interleaved ? packs + lane : 2 * lane + 1;
      const auto* angles = reinterpret_cast<const Angles*>(cos_sin);
      const auto* sines = reinterpret_cast<const Angles*>(cos_sin + shape.half);
      cos[0] = angles[first];
      cos[1] = angles[second];
      sin[0] = sines[first];
      sin[1] = sines[second];
    }
  }
  __device__ void run(const HeadJob<T>& job, const HeadShape& shape, int lane) const {
    const int packs = shape.half / kPack;
    const bool here = lane < packs && job.to != nullptr;
    Values x[2] = {};
    if (here) {
      x[0] = load(job.from, lane);
      x[1] = load(job.from, packs + lane);
    }
    // Of all lanes, as jobs of a warp differ.
    float sum = 0.0F;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
#pragma unroll
      for (int j = 0; j < kPack; ++j) sum = fmaf(to_float(x[i].at[j]), to_float(x[i].at[j]), sum);
    }
#pragma unroll
    for (int step = kLanes / 2; step > 0; step /= 2) sum += __shfl_xor_sync(kAllLanes, sum, step);
    if (!here) return;
    if (job.weight != nullptr) {
      const float scale = 1.0F / sqrtf(sum / static_cast<float>(2 * shape.half) + shape.eps);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < kPack; ++j) x[i].at[j] = normed(x[i].at[j], scale, weight[i].at[j]);
      }
    }
    if (job.rotated) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int j = 0; j < kPack / 2; ++j) {
          if (shape.interleaved) {
            rotate(x[i].at[2 * j], x[i].at[2 * j + 1], cos[i].at[j], sin[i].at[j]);
          } else {
            const int pair = i * kPack / 2 + j;
            rotate(x[0].at[pair], x[1].at[pair], cos[i].at[j], sin[i].at[j]);
          }
        }
      }
    }
    reinterpret_cast<Values*>(job.to)[lane] = x[0];
    reinterpret_cast<Values*>(job.to)[packs + lane] = x[1];
  }
};

/// Any heads: a warp each, two passes. A lane reads and writes both elements of its pairs.
template <class T>
struct PlainHead {
  static constexpr int kLanes = kWarpSize;
  static constexpr int kPack = 1;
  const float* angles;

  __device__ void prefetch(const T*, const float* cos_sin, const HeadShape&, int) { angles = cos_sin; }
  __device__ void run(const HeadJob<T>& job, const HeadShape& shape, int lane) const {
    const int dim = 2 * shape.half;
    float sum = 0.0F;
    if (job.weight != nullptr && job.to != nullptr) {
      for (int i = lane; i < dim; i += kLanes) sum = fmaf(to_float(job.from[i]), to_float(job.from[i]), sum);
    }
    sum = warp_reduce(sum, Sum{});  // of all lanes, as jobs of a warp differ
    if (job.to == nullptr) return;
    const float scale = 1.0F / sqrtf(sum / static_cast<float>(dim) + shape.eps);
    for (int pair = lane; pair < shape.half; pair += kLanes) {
      const int first = shape.interleaved ? 2 * pair : pair;
      const int second = shape.interleaved ? 2 * pair + 1 : shape.half + pair;
      T a = job.from[first];
      T b = job.from[second];
      if (job.weight != nullptr) {
        a = normed(a, scale, job.weight[first]);
        b = normed(b, scale, job.weight[second]);
      }
      if (job.rotated) rotate(a, b, angles[pair], angles[shape.half + pair]);
      job.to[first] = a;
      job.to[second] = b;
    }
  }
};

constexpr char kBadPosition[] = "qk_norm_rope_write: positions[{}]={} is outside cos_sin = [{}, ..]";
constexpr char kBadSlot[] = "qk_norm_rope_write: slots[{}]={} is outside the cache = [{}, ..]";
constexpr Texts kTexts{kBadPosition, kBadSlot};

struct QkNormRopeWrite {
  HeadView q, k, v, k_cache, v_cache;
  const void* q_norm;
  const void* k_norm;
  Places places;
  HeadShape shape;
  int32_t q_heads;
  int32_t kv_heads;
};

// Blocks: x is the token, y some of its heads: those of q, then k, then v.
template <class T, class Head>
__global__ void __launch_bounds__(kThreads)
    qk_norm_rope_write_kernel(OpSite site, Texts texts, QkNormRopeWrite a) {
  let_next_start();
  const int64_t token = blockIdx.x;
  const int unit = static_cast<int>(blockIdx.y * (kThreads / Head::kLanes) + threadIdx.x / Head::kLanes);
  const int lane = static_cast<int>(threadIdx.x) % Head::kLanes;
  const bool is_q = unit < a.q_heads;
  const bool is_k = !is_q && unit < a.q_heads + a.kv_heads;
  const Place place = place_of(a.places, token);
  HeadJob<T> job{};
  job.rotated = (is_q || is_k) && place.cos_sin != nullptr;
  if (is_q) {
    job.to = a.q.head<T>(token, unit);
    job.from = job.to;
    job.weight = static_cast<const T*>(a.q_norm);
  } else if (unit < a.q_heads + 2 * a.kv_heads && place.slot >= 0) {
    const int head = is_k ? unit - a.q_heads : unit - a.q_heads - a.kv_heads;
    job.to = (is_k ? a.k_cache : a.v_cache).template head<T>(place.slot, head);
    job.from = (is_k ? a.k : a.v).template head<T>(token, head);
    job.weight = is_k ? static_cast<const T*>(a.k_norm) : nullptr;
  }
  Head head;
  head.prefetch(job.weight, job.rotated ? place.cos_sin : nullptr, a.shape, lane);
  wait_for_inputs(site);
  if (blockIdx.y == 0 && threadIdx.x == 0) report(site, texts, a.places, token);
  head.run(job, a.shape, lane);
}

constexpr char kBadMlaPosition[] = "mla_norm_rope_write: positions[{}]={} is outside cos_sin = [{}, ..]";
constexpr char kBadMlaSlot[] = "mla_norm_rope_write: slots[{}]={} is outside the cache = [{}, ..]";
constexpr Texts kMlaTexts{kBadMlaPosition, kBadMlaSlot};

struct MlaNormRopeWrite {
  HeadView q_rope;
  void* latents;
  void* cache;
  const void* kv_norm;
  int64_t latents_stride;
  int64_t cache_stride;
  Places places;
  HeadShape shape;
  int32_t heads;
  int32_t rank;  // kv_lora_rank
};

// Blocks: x is the token; y = 0 its latent, which is normed, else some of its rotary heads: those of q, then
// the one that all share.
template <class T, class Head>
__global__ void __launch_bounds__(kThreads)
    mla_norm_rope_write_kernel(OpSite site, Texts texts, MlaNormRopeWrite a) {
  __shared__ float scratch[kThreads / kWarpSize];
  let_next_start();
  const int64_t token = blockIdx.x;
  const Place place = place_of(a.places, token);
  const T* from = static_cast<const T*>(a.latents) + token * a.latents_stride;
  T* to = static_cast<T*>(a.cache) + place.slot * a.cache_stride;
  if (blockIdx.y == 0) {
    wait_for_inputs(site);
    if (threadIdx.x == 0) report(site, texts, a.places, token);
    if (place.slot < 0) return;
    constexpr int kPack = Head::kPack;
    using Values = Pack<T, kPack>;
    const auto* x = reinterpret_cast<const Values*>(from);
    const auto* weight = static_cast<const Values*>(a.kv_norm);
    const int packs = a.rank / kPack;
    float sum = 0.0F;
    for (int i = threadIdx.x; i < packs; i += kThreads) {
      const Values values = x[i];
#pragma unroll
      for (int j = 0; j < kPack; ++j) sum = fmaf(to_float(values.at[j]), to_float(values.at[j]), sum);
    }
    sum = block_reduce(sum, scratch, Sum{});
    const float scale = 1.0F / sqrtf(sum / static_cast<float>(a.rank) + a.shape.eps);
    for (int i = threadIdx.x; i < packs; i += kThreads) {
      Values values = x[i];
#pragma unroll
      for (int j = 0; j < kPack; ++j) values.at[j] = normed(values.at[j], scale, weight[i].at[j]);
      reinterpret_cast<Values*>(to)[i] = values;
    }
    return;
  }
  const int unit =
      static_cast<int>((blockIdx.y - 1) * (kThreads / Head::kLanes) + threadIdx.x / Head::kLanes);
  const int lane = static_cast<int>(threadIdx.x) % Head::kLanes;
  HeadJob<T> job{.from = nullptr, .to = nullptr, .weight = nullptr, .rotated = place.cos_sin != nullptr};
  if (unit < a.heads) {
    job.to = a.q_rope.head<T>(token, unit);
    job.from = job.to;
  } else if (unit == a.heads && place.slot >= 0) {
    job.to = to + a.rank;
    job.from = from + a.rank;
  }
  Head head;
  head.prefetch(nullptr, place.cos_sin, a.shape, lane);
  wait_for_inputs(site);
  head.run(job, a.shape, lane);
}

HeadView heads_of(const TensorView& view) { return {view.data, view.stride[0], view.stride[1]}; }

Places places_of(const TensorView& positions, const TensorView& slots, const TensorView& cos_sin,
                 int64_t num_slots) {
  return {.positions = positions.as<int32_t>(),
          .slots = slots.as<int32_t>(),
          .cos_sin = cos_sin.as<float>(),
          .cos_sin_stride = cos_sin.stride[0],
          .max_positions = static_cast<int32_t>(cos_sin.shape[0]),
          .num_slots = static_cast<int32_t>(num_slots)};
}

unsigned blocks_of_heads(int64_t heads, int lanes) {
  return static_cast<unsigned>(ceil_div<int64_t>(heads, kThreads / lanes));
}

/// Calls f with the type that works on heads of `dim`: packed by the fewest lanes that hold half a head.
template <class T, class F>
void visit_head(bool packed, int64_t dim, const F& f) {
  constexpr int64_t kPack = kPackOf16Bytes<T>;
  const int64_t packs = dim / 2 / kPack;
  if (!packed || dim % (2 * kPack) != 0 || packs > kWarpSize) return f(PlainHead<T>{});
  if (packs <= 4) return f(PackedHead<T, 4>{});
  if (packs <= 8) return f(PackedHead<T, 8>{});
  if (packs <= 16) return f(PackedHead<T, 16>{});
  f(PackedHead<T, 32>{});
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void qk_norm_rope_write(const QkNormRopeWriteArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const int64_t tokens = args.q.shape[0];
  const int64_t dim = args.q.shape[2];
  const QkNormRopeWrite a{
      .q = heads_of(args.q),
      .k = heads_of(args.k),
      .v = heads_of(args.v),
      .k_cache = heads_of(args.k_cache),
      .v_cache = heads_of(args.v_cache),
      .q_norm = args.q_norm.data,
      .k_norm = args.k_norm.data,
      .places = places_of(args.positions, args.slots, args.cos_sin, args.k_cache.shape[0]),
      .shape = {static_cast<int32_t>(dim / 2), args.eps, args.interleaved},
      .q_heads = static_cast<int32_t>(args.q.shape[1]),
      .kv_heads = static_cast<int32_t>(args.k.shape[1])};
  visit_dtype("qk_norm_rope_write", args.q.dtype, [&](auto type) {
    using T = decltype(type);
    const auto aligned = [&](const TensorView& view) {
      return !view.defined() || has_packed_rows<T>(view, dim);
    };
    const bool packed = aligned(args.q) && aligned(args.k) && aligned(args.v) && aligned(args.k_cache) &&
                        aligned(args.v_cache) && aligned(args.q_norm) && aligned(args.k_norm) &&
                        has_packed_rows<float>(args.cos_sin, dim);
    visit_head<T>(packed, dim, [&](auto head) {
      using Head = decltype(head);
      const LaunchShape shape{
          .grid = dim3(grid_x(tokens), blocks_of_heads(a.q_heads + 2 * a.kv_heads, Head::kLanes)),
          .block = dim3(kThreads)};
      launch<&qk_norm_rope_write_kernel<T, Head>>(cuda, shape, cuda.site, kTexts, a);
    });
  });
}

void mla_norm_rope_write(const MlaNormRopeWriteArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const int64_t tokens = args.q_rope.shape[0];
  const int64_t dim = args.q_rope.shape[2];
  const int64_t rank = args.kv_norm.shape[0];
  const MlaNormRopeWrite a{.q_rope = heads_of(args.q_rope),
                           .latents = args.latents.data,
                           .cache = args.cache.data,
                           .kv_norm = args.kv_norm.data,
                           .latents_stride = args.latents.stride[0],
                           .cache_stride = args.cache.stride[0],
                           .places = places_of(args.positions, args.slots, args.cos_sin, args.cache.shape[0]),
                           .shape = {static_cast<int32_t>(dim / 2), args.eps, args.interleaved},
                           .heads = static_cast<int32_t>(args.q_rope.shape[1]),
                           .rank = static_cast<int32_t>(rank)};
  visit_dtype("mla_norm_rope_write", args.q_rope.dtype, [&](auto type) {
    using T = decltype(type);
    const bool packed = has_packed_rows<T>(args.q_rope, dim) && has_packed_rows<T>(args.latents, rank) &&
                        has_packed_rows<T>(args.cache, rank) && has_packed_rows<T>(args.kv_norm, rank) &&
                        has_packed_rows<float>(args.cos_sin, dim);
    visit_head<T>(packed, dim, [&](auto head) {
      using Head = decltype(head);
      const LaunchShape shape{.grid = dim3(grid_x(tokens), 1 + blocks_of_heads(a.heads + 1, Head::kLanes)),
                              .block = dim3(kThreads)};
      launch<&mla_norm_rope_write_kernel<T, Head>>(cuda, shape, cuda.site, kMlaTexts, a);
    });
  });
}

}  // namespace weft::ops::cuda
