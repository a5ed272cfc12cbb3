// sample: a cluster of blocks a row (row_slice.cuh), which reads the row once.
//
// The order of falling probability is never made: weights are floats in [0, 1], whose bits rise with them, so
// the token at which a count or a mass is reached is found by a radix descent over histograms of what the
// bits fall short of those of 1: first by octaves cut in 32, which few tokens share, then by nine bits, and
// by nine. Masses are whole numbers, so sums are exact, and a token does not depend on how many threads add
// them up.
#include "kernels/sampling/row_slice.cuh"
#include "ops/cuda/kernels.h"
#include "ops/philox.h"

namespace weft::kernels {
namespace {

using ops::SamplingRow;
using Mass = unsigned long long;

constexpr uint32_t kBitsOfOne = 0x3f800000U;
constexpr int kFirstShift = 18;       // 32 bins an octave
constexpr int kCountBins = 128 * 32;  // down to the smallest float
constexpr int kMassBins = 45 * 32;    // less than 2^-44 has no mass
constexpr int kFineBits = 9;
constexpr int kFineBins = 1 << kFineBits;
constexpr int kGroup = kWarpSize;  // bins
// The inverse of a temperature below the smallest normal number, whose own would be infinite.
constexpr float kMaxFloat = 3.402823466e38F;
static_assert((kBitsOfOne >> kFirstShift) < kCountBins && kFirstShift == 2 * kFineBits);

/// floor(x), of 0 <= x < 2^23: by the rounding of a sum, as conversions are slow.
__device__ inline uint32_t whole(float x) {
#if WEFT_CUDA_EMULATED
  return static_cast<uint32_t>(x);
#else
  constexpr float kOneUlp = 0x1p23F;  // whose last digit is 1
  return __float_as_uint(__fadd_rz(x, kOneUlp)) - __float_as_uint(kOneUlp);
#endif
}

/// floor(weight * 2^2n) in two parts of n bits, which sum up in 32 bits over a slice: only of these are there
/// fast atomic sums in shared memory.
struct Parts {
  uint32_t low, high;
};
struct MassDigits {
  int part_bits;
  float scale;  // 2^n

  static __device__ MassDigits of(int slice) {
    int bits = 0;
    while (slice >> bits != 0) ++bits;
    const int part = 32 - bits < 22 ? 32 - bits : 22;
    return {part, static_cast<float>(1 << part)};
  }
  [[nodiscard]] __device__ Parts parts(uint32_t weight_bits) const {
    const float x = __uint_as_float(weight_bits) * scale;
    const uint32_t high = whole(x);
    return {whole((x - static_cast<float>(high)) * scale), high};
  }
  [[nodiscard]] __device__ Mass sum(uint32_t low, uint32_t high) const {
    return low + (static_cast<Mass>(high) << part_bits);
  }
  [[nodiscard]] __device__ Mass mass(uint32_t weight_bits) const {
    const Parts p = parts(weight_bits);
    return sum(p.low, p.high);
  }
};

/// Sums of a block, by bin and by group of bins, which the other blocks read; and the groups' over the
/// cluster. Counts are low parts alone.
template <int kLows, int kHighs>
struct alignas(16) Histogram {
  static constexpr int kGroups = kLows / kGroup;
  uint32_t low[kLows];
  uint32_t high[kHighs];
  Mass groups[kGroups];
  Mass totals[kGroups];
};

struct alignas(16) Shared {
  Exchange exchange;
  Histogram<kCountBins, kMassBins> first;
  Histogram<kFineBins, kFineBins> second, third;
  int32_t ids[kFineBins];  // a token of the bin of `third`
  struct {
    int32_t bin;
    Mass before, sum;
  } found;
  int32_t id;
};

/// Tokens that are still in: those above `bits`, and those at `bits` up to `last_tie`.
struct Kept {
  uint32_t bits = 0;  // weight 0 is out from the start
  int32_t last_tie = -1;
  __device__ bool has(uint32_t weight_bits, int32_t id) const {
    return weight_bits > bits || (weight_bits == bits && id <= last_tie);
  }
};

/// The last token of those that reach a target.
struct Place {
  uint32_t bits;
  int32_t id;
  Mass reached;  // the sum up to it
};

/// A row whose logits become weights at the first pass.
class Draw {
 public:
  __device__ Draw(RowSlice& slice, Shared& shared, float maximum, float temperature, int slice_size)
      : slice_(slice),
        shared_(shared),
        maximum_(maximum),
        of_temperature_(fminf(1.0F / temperature, kMaxFloat)),
        digits_(MassDigits::of(slice_size)) {}

  __device__ int32_t run(const SamplingRow& params) {
    if (params.top_k > 0) {
      const Mass count = build<false, true>();
      if (count > static_cast<Mass>(params.top_k)) {
        keep(find<false>(static_cast<Mass>(params.top_k)));
      } else {
        slice_.barrier();  // the others have read the counts
      }
    }
    Mass total = params.top_k > 0 ? build<true, false>() : build<true, true>();
    if (params.top_p < 1.0F) {
      const Place last = find<true>(share_of(static_cast<double>(params.top_p), total));
      keep(last);
      total = last.reached;
    }
    if (params.min_p > 0.0F) {
      // Keeps what is at least `least`: all above the number just below it. The largest weight is 1.
      const uint32_t below = __float_as_uint(params.min_p < 1.0F ? params.min_p : 1.0F) - 1;
      if (below >= kept_.bits) {
        kept_ = {below, -1};
        total = mass_of_kept();
      }
    }
    const double random = ops::philox_uniform(params.seed, params.position);
    return find<true>(share_of(random, total)).id;
  }

 private:
  __device__ float weight_of(float logit) const { return expf((logit - maximum_) * of_temperature_); }
  __device__ uint32_t bits_of(int i) const {
    const float x = slice_.logit(i);
    return __float_as_uint(slice_.staged() != nullptr ? x : weight_of(x));
  }
  static __device__ Mass share_of(double share, Mass total) {
    const auto target = static_cast<Mass>(ceil(share * static_cast<double>(total)));
    return target < 1 ? 1 : target > total ? total : target;
  }
  __device__ void keep(const Place& last) { kept_ = {last.bits, last.id}; }

  /// f(bits of the weight, id) for each token. kWeigh: what is staged are logits as yet.
  template <bool kWeigh, class F>
  __device__ void for_each(const F& f) const {
    if (slice_.staged() == nullptr) {
      for (int i = threadIdx.x; i < slice_.count(); i += kSliceThreads) f(bits_of(i), slice_.first() + i);
      return;
    }
    auto* staged = reinterpret_cast<float4*>(slice_.staged());
    for (int p = threadIdx.x; 4 * p < slice_.count(); p += kSliceThreads) {
      float4 x = staged[p];
      if constexpr (kWeigh) {
        x = {weight_of(x.x), weight_of(x.y), weight_of(x.z), weight_of(x.w)};
        staged[p] = x;
      }
      const int id = slice_.first() + 4 * p;
      const int left = slice_.count() - 4 * p;
      f(__float_as_uint(x.x), id);
      if (left > 1) f(__float_as_uint(x.y), id + 1);
      if (left > 2) f(__float_as_uint(x.z), id + 2);
      if (left > 3) f(__float_as_uint(x.w), id + 3);
    }
  }

  __device__ Mass mass_of_kept() {
    Mass sum = 0;
    for_each<false>([&](uint32_t bits, int32_t id) {
      if (kept_.has(bits, id)) sum += digits_.mass(bits);
    });
    return slice_.reduce(sum, Sum{});
  }

  /// Sums counts or masses of kept tokens into the bins (what their bits fall short of those of 1, less
  /// `first`) >> shift, as far as there are such; then, once all blocks have, those of groups over the
  /// cluster.
  template <bool kMass, bool kWeigh, int kLows, int kHighs>
  __device__ void fill(Histogram<kLows, kHighs>& histogram, uint32_t first, int shift, int32_t* ids) {
    constexpr uint32_t kBins = kMass ? kHighs : kLows;
    for (int b = threadIdx.x; b < kLows; b += kSliceThreads) histogram.low[b] = 0;
    for (int b = threadIdx.x; b < kHighs; b += kSliceThreads) histogram.high[b] = 0;
    __syncthreads();
    for_each<kWeigh>([&](uint32_t bits, int32_t id) {
      const uint32_t bin = (kBitsOfOne - bits - first) >> shift;
      if (bin >= kBins || !kept_.has(bits, id)) return;
      if constexpr (kMass) {
        const Parts parts = digits_.parts(bits);
        atomicAdd(&histogram.low[bin], parts.low);
        atomicAdd(&histogram.high[bin], parts.high);
      } else {
        atomicAdd(&histogram.low[bin], 1U);
      }
      if (ids != nullptr) ids[bin] = id;
    });
    __syncthreads();
    // Four threads sum a group.
    constexpr int kGroups = kLows / kGroup;
    static_assert(4 * kGroups <= kSliceThreads);
    Mass part = 0;
    const int group = static_cast<int>(threadIdx.x) / 4;
    if (group < kGroups) {
      for (int j = 0; j < kGroup / 4; ++j) {
        // By turns that keep to banks of their own.
        const int bin = group * kGroup + (4 * (group + j) + static_cast<int>(threadIdx.x) % 4) % kGroup;
        part += digits_.sum(histogram.low[bin], bin < kHighs ? histogram.high[bin] : 0);
      }
    }
    part += __shfl_xor_sync(kAllLanes, part, 1);
    part += __shfl_xor_sync(kAllLanes, part, 2);
    if (group < kGroups && threadIdx.x % 4 == 0) histogram.groups[group] = part;
    slice_.barrier();
    // A thread reads two groups of one block.
    static_assert(kGroups / 2 * kMaxCluster <= kSliceThreads);
    const int pair = static_cast<int>(threadIdx.x) / kMaxCluster;
    const int rank = static_cast<int>(threadIdx.x) % kMaxCluster;
    Mass sums[2] = {0, 0};
    if (pair < kGroups / 2 && rank < slice_.cluster_size()) {
      const float4 both = load_from_block(reinterpret_cast<const float4*>(histogram.groups) + pair, rank);
      memcpy(sums, &both, sizeof(sums));
    }
    for (int step = kMaxCluster / 2; step > 0; step /= 2) {
      sums[0] += __shfl_xor_sync(kAllLanes, sums[0], step);
      sums[1] += __shfl_xor_sync(kAllLanes, sums[1], step);
    }
    if (pair < kGroups / 2 && rank == 0) {
      histogram.totals[2 * pair] = sums[0];
      histogram.totals[2 * pair + 1] = sums[1];
    }
    __syncthreads();
  }

  /// By the first warp: the bin `lane` of a group, over the cluster.
  template <int kLows, int kHighs>
  __device__ Mass sum_bin(const Histogram<kLows, kHighs>& histogram, int group, int lane) const {
    // A lane reads four bins of every fourth block.
    const int quad = lane % 8;
    const int first = group * kGroup + 4 * quad;
    Mass sums[4] = {0, 0, 0, 0};
#pragma unroll
    for (int i = 0; i < kMaxCluster / 4; ++i) {
      const int rank = lane / 8 + 4 * i;
      if (rank >= slice_.cluster_size()) continue;
      uint32_t low[4];
      uint32_t high[4] = {0, 0, 0, 0};
      const float4 lows = load_from_block(reinterpret_cast<const float4*>(histogram.low + first), rank);
      memcpy(low, &lows, sizeof(low));
      if (first < kHighs) {
        const float4 highs = load_from_block(reinterpret_cast<const float4*>(histogram.high + first), rank);
        memcpy(high, &highs, sizeof(high));
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) sums[j] += digits_.sum(low[j], high[j]);
    }
    Mass mine = 0;
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      sums[j] += __shfl_xor_sync(kAllLanes, sums[j], 8);
      sums[j] += __shfl_xor_sync(kAllLanes, sums[j], 16);
      const Mass theirs = __shfl_sync(kAllLanes, sums[j], lane / 4);
      if (lane % 4 == j) mine = theirs;
    }
    return mine;
  }

  /// By a warp whose lanes have a value each: the first lane at which the sum of those up to it, above
  /// `before`, reaches target, which the sum of all does; `before` becomes the sum of those before it.
  static __device__ int reach(Mass value, Mass target, Mass& before, int lane) {
    Mass up_to = value;
    for (int step = 1; step < kWarpSize; step *= 2) {
      const Mass lower = __shfl_up_sync(kAllLanes, up_to, step);
      if (lane >= step) up_to += lower;
    }
    const int first = __ffs(static_cast<int>(__ballot_sync(kAllLanes, before + up_to >= target))) - 1;
    before += __shfl_sync(kAllLanes, up_to - value, first);
    return first;
  }

  /// Leaves in `found` the bin at which the sum of bins, above `before`, reaches target.
  template <int kLows, int kHighs>
  __device__ void search(const Histogram<kLows, kHighs>& histogram, Mass target, Mass before) {
    if (threadIdx.x < kWarpSize) {
      const int lane = static_cast<int>(threadIdx.x);
      constexpr int kGroups = kLows / kGroup;
      constexpr int kPer = (kGroups + kWarpSize - 1) / kWarpSize;
      Mass mine = 0;
      for (int j = 0; j < kPer; ++j) {
        const int g = lane * kPer + j;
        mine += g < kGroups ? histogram.totals[g] : 0;
      }
      int group = reach(mine, target, before, lane) * kPer;
      while (before + histogram.totals[group] < target) before += histogram.totals[group++];
      const Mass bin_sum = sum_bin(histogram, group, lane);
      const int bin = reach(bin_sum, target, before, lane);
      const Mass found = __shfl_sync(kAllLanes, bin_sum, bin);
      if (lane == 0) shared_.found = {group * kGroup + bin, before, found};
    }
    __syncthreads();
  }

  /// The first level of find(); returns the sum of all.
  template <bool kMass, bool kWeigh>
  __device__ Mass build() {
    __syncthreads();
    fill<kMass, kWeigh>(shared_.first, 0, kFirstShift, nullptr);
    Mass total = 0;
    for (int g = static_cast<int>(threadIdx.x) % kWarpSize; g < kCountBins / kGroup; g += kWarpSize) {
      total += shared_.first.totals[g];
    }
    return warp_reduce(total, Sum{});
  }

  /// The kept token at which the sum of counts or masses, in falling order, reaches `target` <= their sum.
  /// The first level must be built; it may have been when more tokens were kept, as those all stand behind.
  template <bool kMass>
  __device__ Place find(Mass target) {
    search(shared_.first, target, 0);
    uint32_t short_of_one = static_cast<uint32_t>(shared_.found.bin) << kFirstShift;
    Mass before = shared_.found.before;
    fill<kMass, false>(shared_.second, short_of_one, kFineBits, nullptr);
    search(shared_.second, target, before);
    short_of_one += static_cast<uint32_t>(shared_.found.bin) << kFineBits;
    before = shared_.found.before;
    fill<kMass, false>(shared_.third, short_of_one, 0, shared_.ids);
    search(shared_.third, target, before);
    const int bin = shared_.found.bin;
    short_of_one += static_cast<uint32_t>(bin);
    before = shared_.found.before;
    const Mass sum = shared_.found.sum;
    Place place{kBitsOfOne - short_of_one, -1, 0};
    const Mass one = kMass ? digits_.mass(place.bits) : 1;
    const Mass tie = (target - before + one - 1) / one;
    place.reached = before + tie * one;
    place.id = sum == one ? only_id(bin) : id_of_tie(place.bits, tie);
    return place;
  }

  /// Of the one token in this bin of the third level.
  __device__ int32_t only_id(int bin) {
    if (threadIdx.x < kWarpSize) {
      const int rank = static_cast<int>(threadIdx.x);
      int32_t id = -1;
      if (rank < slice_.cluster_size()) {
        const auto* lows = reinterpret_cast<const float4*>(shared_.third.low);
        const auto* highs = reinterpret_cast<const float4*>(shared_.third.high);
        const auto* all_ids = reinterpret_cast<const float4*>(shared_.ids);
        uint32_t low[4];
        uint32_t high[4];
        int32_t ids[4];
        const float4 four_lows = load_from_block(lows + bin / 4, rank);
        const float4 four_highs = load_from_block(highs + bin / 4, rank);
        const float4 four_ids = load_from_block(all_ids + bin / 4, rank);
        memcpy(low, &four_lows, sizeof(low));
        memcpy(high, &four_highs, sizeof(high));
        memcpy(ids, &four_ids, sizeof(ids));
        if ((low[bin % 4] | high[bin % 4]) != 0) id = ids[bin % 4];
      }
      id = warp_reduce(id, Max{});
      if (rank == 0) shared_.id = id;
    }
    __syncthreads();
    return shared_.id;
  }

  /// The `tie`-th, from 1, of the kept tokens whose weight has these bits: they stand in order of id.
  __device__ int32_t id_of_tie(uint32_t bits, Mass tie) {
    const auto is_tie = [&](int i) {
      return i < slice_.count() && bits_of(i) == bits && kept_.has(bits, slice_.first() + i);
    };
    Mass mine = 0;
    for (int i = threadIdx.x; i < slice_.count(); i += kSliceThreads) mine += is_tie(i) ? 1 : 0;
    mine = block_reduce(mine, shared_.exchange.scratch, Sum{});
    const Mass theirs = slice_.tell_all(mine, Mass{0});
    Mass before = 0;
    for (int r = 0; r < slice_.rank(); ++r) before += __shfl_sync(kAllLanes, theirs, r);
    if (threadIdx.x == 0) shared_.id = -1;
    __syncthreads();
    if (before < tie && tie <= before + mine) find_tie(is_tie, static_cast<int>(tie - before));
    __syncthreads();
    const auto found = slice_.tell_all(static_cast<long long>(shared_.id), -1LL);
    return static_cast<int32_t>(warp_reduce(found, Max{}));
  }
  template <class IsTie>
  __device__ void find_tie(const IsTie& is_tie, int tie) {
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    int seen = 0;
    for (int first = 0; first < slice_.count() && seen < tie; first += kSliceThreads) {
      const int i = first + static_cast<int>(threadIdx.x);
      const bool here = is_tie(i);
      const unsigned ballot = __ballot_sync(kAllLanes, here);
      __syncthreads();
      if (lane == 0) shared_.exchange.scratch[warp] = static_cast<Mass>(__popc(ballot));
      __syncthreads();
      int up_to = seen + __popc(ballot & ((2U << lane) - 1U));
      for (int w = 0; w < kSliceWarps; ++w) {
        const auto of_warp = static_cast<int>(shared_.exchange.scratch[w]);
        up_to += w < warp ? of_warp : 0;
        seen += of_warp;
      }
      if (here && up_to == tie) shared_.id = slice_.first() + i;
    }
  }

  RowSlice& slice_;
  Shared& shared_;
  float maximum_, of_temperature_;
  MassDigits digits_;
  Kept kept_;
};

constexpr char kBadSampleRows[] = "sample: num_rows={}, but the tensors hold {} rows";
constexpr char kBadSlot[] = "sample: row {} names slot {} of {}";

struct SampleTexts {
  const char* bad_rows;
  const char* bad_slot;
};
constexpr SampleTexts kSampleTexts{kBadSampleRows, kBadSlot};

/// What becomes of tokens, besides that they are written down.
struct Commit {
  int32_t* tokens;
  int64_t tokens_stride;
  int32_t* last_tokens;  // null: nothing is kept
  const int32_t* slots;
  const int32_t* wanted;
  int32_t* targets;
  int64_t num_slots;

  __device__ void row(const OpSite& site, const SampleTexts& texts, int64_t r, int32_t token) const {
    tokens[r * tokens_stride] = token;
    if (last_tokens == nullptr) return;
    const int32_t slot = slots[r];
    if (slot >= num_slots) fail(site, texts.bad_slot, r, slot, num_slots);
    if (slot >= 0 && slot < num_slots) last_tokens[slot] = token;
    targets[r] = wanted[r] >= 0 ? wanted[r] : wanted[r] == -1 ? token : -1;
  }
};

__global__ void __launch_bounds__(kSliceThreads, 2)
    sample_kernel(OpSite site, SampleTexts texts, LogitRows rows, const SamplingRow* params, Commit commit) {
  let_next_start();
  wait_for_inputs(site);
  if (!row_exists(site, texts.bad_rows, rows)) return;
  auto& shared = *dynamic_shared<Shared>();
  RowSlice slice(rows, reinterpret_cast<float*>(&shared + 1), shared.exchange);
  constexpr uint32_t kNanStandsFirst = 0xffffffffU;
  unsigned long long best = 0;
  slice.load([&](int32_t id, float logit) { best = Max{}(place_of(logit, id, kNanStandsFirst), best); });
  best = slice.reduce(best, Max{});
  const int64_t r = RowSlice::row_of(rows);
  const float maximum = logit_at(best);
  int32_t token = -1;
  if (best >> 32 != kNanStandsFirst && isfinite(maximum)) {
    const SamplingRow row_params = params[r];
    if (row_params.temperature > 0.0F) {
      Draw draw(slice, shared, maximum, row_params.temperature, rows.slice);
      token = draw.run(row_params);
    } else {
      token = id_at(best);
    }
  }
  if (slice.rank() == 0 && threadIdx.x == 0) commit.row(site, texts, r, token);
  slice.barrier();  // the others may still read
}

}  // namespace
}  // namespace weft::kernels

namespace weft::ops::cuda {

using namespace weft::kernels;  // the other half of this file

void sample(const SampleArgs& args, ExecContext& context) {
  const CudaContext& cuda = cuda_context(context);
  const LogitRows rows = logit_rows(args.logits, args.num_rows, sizeof(Shared));
  Commit commit{.tokens = args.tokens.as<int32_t>(),
                .tokens_stride = args.tokens.stride[0],
                .last_tokens = nullptr,
                .slots = nullptr,
                .wanted = nullptr,
                .targets = nullptr,
                .num_slots = 0};
  if (args.last_tokens.defined()) {
    commit.last_tokens = args.last_tokens.as<int32_t>();
    commit.slots = args.slots.as<int32_t>();
    commit.wanted = args.wanted.as<int32_t>();
    commit.targets = args.targets.as<int32_t>();
    commit.num_slots = args.last_tokens.shape[0];
  }
  launch<&sample_kernel>(cuda, shape_of(rows, sizeof(Shared)), cuda.site, kSampleTexts, rows, args.params,
                         commit);
}

}  // namespace weft::ops::cuda
