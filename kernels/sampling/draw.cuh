#pragma once

#include "kernels/sampling/row_slice.cuh"
#include "ops/philox.h"
#include "ops/sampling.h"

/// The draw of a row's token, by the blocks of a cluster.
///
/// The order of falling probability is never made: weights are floats in [0, 1], whose bits rise with them,
/// so the token at which a count or a mass is reached is found by a radix descent over histograms of the
/// bits, in eighths of octaves first, until the few tokens of a bin can be listed and compared. Masses are
/// whole numbers, so sums are exact, and a token does not depend on how many threads add them up.
namespace weft::kernels {

using ops::SamplingRow;
using Mass = unsigned long long;  // of a weight: floor(weight * 2^kMassBits)

constexpr int kMassBits = 34;
constexpr int kMantissaBits = 23;  // that are stored
constexpr uint32_t kBitsOfOne = 0x3f800000U;
constexpr uint32_t kLeastBits = kBitsOfOne - (uint32_t{kMassBits} << kMantissaBits);  // with a mass
constexpr float kNoMass = -24.0F;  // the exponential of this or less has none
constexpr int kFirstShift = 20;    // bins of the first level: eight an octave
// The first bin of the first level is below those: it takes what has no mass.
constexpr uint32_t kFirstBits = kLeastBits - (1U << kFirstShift);
constexpr uint32_t kAllBits = kBitsOfOne + 1 - kFirstBits;  // more than a weight has above those
constexpr int kLevelBits = 8;                               // of each further one
constexpr int kBins = 288;
constexpr int kCopies = 16;   // of a bin: lanes that add at the same time are in each other's way
constexpr int kListed = 128;  // tokens that are worth no further level
// The inverse of a temperature below the smallest normal number, whose own would be infinite.
constexpr float kMaxFloat = 3.402823466e38F;
static_assert(((kBitsOfOne - kFirstBits) >> kFirstShift) < kBins && 1 << kLevelBits <= kBins);
static_assert(kBins % kWarpSize == 0 && kBins <= kSliceThreads && 4 * kListed <= kSliceThreads);

/// What a token counts: 1, or its mass; nothing if it has no mass. Digits, 24 bits at most, over a shift that
/// all of an octave share.
struct Unit {
  uint32_t mask, over;
  int whole;  // the least exponent, as stored, of which digits are not shifted out
  bool is_mass;

  static __device__ Unit counts() { return {0, 1, kLeastBits >> kMantissaBits, false}; }
  static __device__ Unit masses() {
    return {(1U << kMantissaBits) - 1, 1U << kMantissaBits, kMantissaBits + 127 - kMassBits, true};
  }
  /// Of weight_bits >= kLeastBits - 1.
  [[nodiscard]] __device__ uint32_t digits(uint32_t weight_bits) const {
    const int dropped = whole - static_cast<int>(weight_bits >> kMantissaBits);
    return ((weight_bits & mask) | over) >> (dropped > 0 ? dropped : 0);
  }
  [[nodiscard]] __device__ int shift(uint32_t weight_bits) const {
    const int shift = static_cast<int>(weight_bits >> kMantissaBits) - whole;
    return is_mass && shift > 0 ? shift : 0;
  }
  [[nodiscard]] __device__ Mass of(uint32_t weight_bits) const {
    return static_cast<Mass>(digits(weight_bits)) << shift(weight_bits);
  }
};

/// Tokens in order of falling weight, then of rising id, have falling keys.
__device__ inline Mass key_of(uint32_t weight_bits, int32_t id) {
  return static_cast<Mass>(weight_bits) << 32 | (0xffffffffU - static_cast<uint32_t>(id));
}
__device__ inline uint32_t bits_of_key(Mass key) { return static_cast<uint32_t>(key >> 32); }

/// Keys of a block's tokens in some bin, in any order.
struct alignas(16) List {
  Mass keys[kListed];
  uint32_t count;  // 0 until the list is made
};
struct alignas(16) Listed {
  Mass key;
  Mass sum;  // of units, up to it
};

// Of what other blocks read there are two, in turns, as in Exchange.
struct alignas(16) DrawShared {
  Exchange exchange;
  uint32_t words[kBins * kCopies];  // sums of digits, modulo 2^32
  uint32_t carries[kBins];          // and how often they passed that; all 0 between passes
  Mass sums[2][kBins];              // of this block
  Mass first[kBins], finer[kBins];  // of the cluster
  List lists[2];
  Listed listed[kListed];  // of the cluster, in order
  SamplingRow params;
  int32_t id;
};

/// Tokens that are still in: those above `bits`, and those at `bits` up to `last_tie`.
struct Kept {
  uint32_t bits = kLeastBits - 1;
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

/// A row whose logits become weights at the first pass, in shared memory if kStaged. Tokens without mass are
/// never in: they have no share in what a row's token depends on.
template <bool kStaged>
class Draw {
 public:
  /// Clears what must be 0. A barrier must follow.
  static __device__ void clear(DrawShared& shared) {
    auto* words = reinterpret_cast<uint4*>(shared.words);
    for (int i = threadIdx.x; i < kBins * kCopies / 4; i += kSliceThreads) words[i] = {0, 0, 0, 0};
    if (threadIdx.x < kBins) shared.carries[threadIdx.x] = 0;
    if (threadIdx.x < 2) shared.lists[threadIdx.x].count = 0;
  }
  __device__ Draw(RowSlice& slice, DrawShared& shared, float maximum, float temperature)
      : slice_(slice),
        shared_(shared),
        maximum_(maximum),
        of_temperature_(fminf(1.0F / temperature, kMaxFloat)) {}

  /// The token; the same in every thread of the cluster.
  __device__ int32_t run(const SamplingRow& params) {
    enum Cut { kTopK, kTopP, kDraw };
    if (params.top_k > 0) unit_ = Unit::counts();
    weigh();
    sum_up(kFirstBits, kFirstShift, shared_.first);
    Mass total = sum_of_first();
#pragma unroll 1
    for (int cut = params.top_k > 0 ? kTopK : kTopP;; ++cut) {
      Mass target = 0;
      if (cut == kTopK) {
        target = static_cast<Mass>(params.top_k) < total ? static_cast<Mass>(params.top_k) : total;
        const Found last = search(shared_.first, target, 0);
        if (last.before + last.sum <= kListed) {
          unit_ = Unit::masses();
          const uint32_t first = first_of_bin(last.bin);
          return choose(list(first, kAllBits), params);
        }
      } else if (cut == kTopP) {
        if (params.top_p >= 1.0F) continue;
        target = share_of(static_cast<double>(params.top_p), total);
      } else {
        // min_p keeps what is at least `least`: all above the number just below it.
        const uint32_t below = least_bits(params) - 1;
        if (params.min_p > 0.0F && below >= kept_.bits) {
          kept_ = {below, -1};
          total = mass_of_kept();
        }
        target = share_of(random_of(params), total);
      }
      const Place last = find(target);
      if (cut == kDraw) return last.id;
      kept_ = {last.bits, last.id};
      total = last.reached;
      if (cut == kTopK) {
        unit_ = Unit::masses();
        fill(kFirstBits, kFirstShift, kAllBits, shared_.first);
        total = sum_of_first();
      }
    }
  }

 private:
  using Four = uint32_t[4];
  struct Found {
    int bin;
    Mass before, sum;  // of the bins above it; of it
  };

  static __device__ double random_of(const SamplingRow& params) {
    return ops::philox_uniform(params.seed, params.position);
  }
  static __device__ uint32_t least_bits(const SamplingRow& params) {
    return __float_as_uint(params.min_p < 1.0F ? params.min_p : 1.0F);  // the largest weight is 1
  }
  static __device__ uint32_t first_of_bin(int bin) {
    return kFirstBits + (static_cast<uint32_t>(bin) << kFirstShift);
  }
  __device__ float weight_of(float logit) const { return expf((logit - maximum_) * of_temperature_); }
  __device__ uint32_t bits_of(int i) const {
    return __float_as_uint(kStaged ? slice_.staged()[i] : weight_of(slice_.logit(i)));
  }
  static __device__ Mass share_of(double share, Mass total) {
    const auto target = static_cast<Mass>(ceil(share * static_cast<double>(total)));
    return target < 1 ? 1 : target > total ? total : target;
  }

  /// f(bits of the weights, the first's id) for each four tokens in a row; there may be less, then the others
  /// have no weight. kWeigh: what is staged are logits as yet; then tokens without mass may be left out.
  template <bool kWeigh, class F>
  __device__ void for_each_four(const F& f) const {
    if constexpr (!kStaged) {
      for (int i = threadIdx.x; i < slice_.count(); i += kSliceThreads) {
        f({bits_of(i), 0, 0, 0}, slice_.first() + i);
      }
      return;
    }
    auto* staged = reinterpret_cast<float4*>(slice_.staged());
#pragma unroll 1
    for (int p = threadIdx.x; 4 * p < slice_.count(); p += kSliceThreads) {
      float4 x = staged[p];
      if constexpr (kWeigh) {
        x = {(x.x - maximum_) * of_temperature_, (x.y - maximum_) * of_temperature_,
             (x.z - maximum_) * of_temperature_, (x.w - maximum_) * of_temperature_};
        if (fmaxf(fmaxf(x.x, x.y), fmaxf(x.z, x.w)) < kNoMass) {  // as in most of a real row
          staged[p] = {0.0F, 0.0F, 0.0F, 0.0F};
          continue;
        }
        x = {expf(x.x), expf(x.y), expf(x.z), expf(x.w)};
        staged[p] = x;
      }
      f({__float_as_uint(x.x), __float_as_uint(x.y), __float_as_uint(x.z), __float_as_uint(x.w)},
        slice_.first() + 4 * p);
    }
  }
  /// f(bits, id) for each kept token whose bits, less `first`, are below `span`.
  template <class F>
  __device__ void for_each_kept(uint32_t first, uint32_t span, const F& f) const {
    for_each_four<false>([&](const Four& bits, int32_t id) {
      uint32_t least = bits[0] - first;
#pragma unroll
      for (int j = 1; j < 4; ++j) least = min(least, bits[j] - first);
      if (least >= span) return;  // as nearly always
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        if (bits[j] - first < span && kept_.has(bits[j], id + j)) f(bits[j], id + j);
      }
    });
  }

  __device__ Mass mass_of_kept() {
    Mass sum = 0;
    for_each_kept(kLeastBits, kAllBits, [&](uint32_t bits, int32_t) { sum += unit_.of(bits); });
    return slice_.reduce(sum, Sum{});
  }

  __device__ uint32_t add_to(int bin, uint32_t digits) const {
    return atomicAdd(&shared_.words[bin * kCopies + static_cast<int>(threadIdx.x) % kCopies], digits);
  }
  __device__ void add_carry(int bin, uint32_t old, uint32_t digits) const {
    if (old + digits < old) atomicAdd(&shared_.carries[bin], 1U);
  }
  /// Weighs all tokens, and sums up in the bins of the first level.
  __device__ void weigh() const {
    for_each_four<true>([&](const Four& bits, int32_t) {
      // Four sums at a time, before the first is needed, and without a branch.
      int bin[4];
      uint32_t digits[4];
      uint32_t old[4];
      bool carried = false;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const uint32_t with_mass = max(bits[j], kLeastBits - 1);
        bin[j] = static_cast<int>(with_mass >> kFirstShift) - static_cast<int>(kFirstBits >> kFirstShift);
        digits[j] = unit_.digits(with_mass);
        old[j] = add_to(bin[j], digits[j]);
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) carried |= old[j] + digits[j] < old[j];
      if (!carried) return;
#pragma unroll
      for (int j = 0; j < 4; ++j) add_carry(bin[j], old[j], digits[j]);
    });
  }

  /// totals = sums of units of kept tokens, over the cluster, by (bits - first) >> shift, of those whose
  /// bits, less `first`, are below `span`. All of a bin are of one octave.
  __device__ void fill(uint32_t first, int shift, uint32_t span, Mass* totals) {
    for_each_kept(first, span, [&](uint32_t bits, int32_t) {
      const auto bin = static_cast<int>((bits - first) >> shift);
      const uint32_t digits = unit_.digits(bits);
      add_carry(bin, add_to(bin, digits), digits);
    });
    sum_up(first, shift, totals);
  }
  /// totals = what the bins hold, over the cluster. Leaves them 0.
  __device__ void sum_up(uint32_t first, int shift, Mass* totals) {
    __syncthreads();
    turn_ ^= 1;
    Mass* sums = shared_.sums[turn_];
    if (threadIdx.x < kBins) {
      const uint32_t bin = threadIdx.x;
      auto* words = reinterpret_cast<uint4*>(shared_.words) + bin * (kCopies / 4);
      Mass sum = static_cast<Mass>(shared_.carries[bin]) << 32;
      shared_.carries[bin] = 0;
#pragma unroll
      for (int i = 0; i < kCopies / 4; ++i) {
        uint4& four = words[(i + bin) % (kCopies / 4)];  // by turns that keep to banks of their own
        sum += static_cast<Mass>(four.x) + four.y + four.z + four.w;
        four = {0, 0, 0, 0};
      }
      sums[bin] = sum << unit_.shift(first + (bin << shift));
    }
    slice_.barrier();
    if (threadIdx.x < kBins / 2) {
      Mass both[2] = {0, 0};
#pragma unroll 4
      for (int r = 0; r < slice_.cluster_size(); ++r) {
        const float4 theirs = load_from_block(reinterpret_cast<const float4*>(sums) + threadIdx.x, r);
        Mass two[2];
        memcpy(two, &theirs, sizeof(two));
        both[0] += two[0];
        both[1] += two[1];
      }
      totals[2 * threadIdx.x] = both[0];
      totals[2 * threadIdx.x + 1] = both[1];
    }
    __syncthreads();
  }

  /// By every warp: the bin, from the last down, at which the sum, above `before`, reaches `target` <= that
  /// of all.
  static __device__ Found search(const Mass* totals, Mass target, Mass before) {
    constexpr int kPer = kBins / kWarpSize;
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    Mass mine = 0;
#pragma unroll
    for (int j = 0; j < kPer; ++j) mine += totals[kBins - 1 - lane * kPer - j];
    Mass up_to = mine;
    for (int step = 1; step < kWarpSize; step *= 2) {
      const Mass lower = __shfl_up_sync(kAllLanes, up_to, step);
      if (lane >= step) up_to += lower;
    }
    const int at = __ffs(static_cast<int>(__ballot_sync(kAllLanes, before + up_to >= target))) - 1;
    before += __shfl_sync(kAllLanes, up_to - mine, at);
    int bin = kBins - 1 - at * kPer;
    while (before + totals[bin] < target) before += totals[bin--];
    return {bin, before, totals[bin]};
  }

  /// The sum of all, once the first level of find() is there.
  __device__ Mass sum_of_first() const {
    Mass total = 0;
    for (int b = static_cast<int>(threadIdx.x) % kWarpSize; b < kBins; b += kWarpSize) {
      total += shared_.first[b];
    }
    return warp_reduce(total, Sum{});
  }

  /// The kept token at which the sum, in falling order, reaches `target` <= that of all. The first level must
  /// be built; it may have been when more tokens were kept, as those all stand behind.
  __device__ Place find(Mass target) {
    Found found = search(shared_.first, target, 0);
    uint32_t first = first_of_bin(found.bin);
    int shift = kFirstShift;
    while (found.sum > kListed * unit_.of(first)) {  // no token of the bin has less
      if (shift == 0 || first == kBitsOfOne) {
        const Mass one = unit_.of(first);
        const Mass tie = (target - found.before + one - 1) / one;
        return {first, id_of_tie(first, tie), found.before + tie * one};
      }
      const int bits = shift < kLevelBits ? shift : kLevelBits;
      shift -= bits;
      fill(first, shift, 1U << (shift + bits), shared_.finer);
      found = search(shared_.finer, target, found.before);
      first += static_cast<uint32_t>(found.bin) << shift;
    }
    const int count = list(first, 1U << shift);
    const Listed last = shared_.listed[reaching(target - found.before, count)];
    return {bits_of_key(last.key), id_at(last.key), found.before + last.sum};
  }

  /// Lists the kept tokens whose bits, less `first`, are below `span`: there are kListed at most. Returns how
  /// many there are.
  __device__ int list(uint32_t first, uint32_t span) {
    list_ ^= 1;
    List& mine = shared_.lists[list_];
    for_each_kept(first, span, [&](uint32_t bits, int32_t id) {
      mine.keys[atomicAdd(&mine.count, 1U)] = key_of(bits, id);
    });
    slice_.barrier();
    if (threadIdx.x == 0) shared_.lists[list_ ^ 1].count = 0;  // which the others read before this barrier
    // A warp takes a block's.
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
    const int theirs =
        lane < slice_.cluster_size() ? static_cast<int>(load_from_block(&mine.count, lane)) : 0;
    const int count = warp_reduce(theirs, Sum{});
    if (warp < slice_.cluster_size()) {
      const int before = warp_reduce(lane < warp ? theirs : 0, Sum{});
      const int of_block = __shfl_sync(kAllLanes, theirs, warp);
      for (int i = 2 * lane; i < of_block; i += 2 * kWarpSize) {
        const float4 pair = load_from_block(reinterpret_cast<const float4*>(mine.keys) + i / 2, warp);
        Mass keys[2];
        memcpy(keys, &pair, sizeof(keys));
        for (int j = 0; j < 2 && i + j < of_block; ++j) {
          shared_.listed[before + i + j] = {keys[j], unit_.of(bits_of_key(keys[j]))};
        }
      }
    }
    __syncthreads();
    // Four threads find the place of a token: how many have its key or a larger one.
    const int at = static_cast<int>(threadIdx.x) / 4;
    const Mass key = at < count ? shared_.listed[at].key : 0;
    int place = 0;
    Mass sum = 0;
    if (at < count) {
#pragma unroll 2
      for (int j = static_cast<int>(threadIdx.x) % 4; j < count; j += 4) {
        const Listed other = shared_.listed[j];
        place += other.key >= key ? 1 : 0;
        sum += other.key >= key ? other.sum : 0;
      }
    }
    for (int step = 1; step < 4; step *= 2) {
      place += __shfl_xor_sync(kAllLanes, place, step);
      sum += __shfl_xor_sync(kAllLanes, sum, step);
    }
    __syncthreads();
    if (at < count && threadIdx.x % 4 == 0) shared_.listed[place - 1] = {key, sum};
    __syncthreads();
    return count;
  }

  /// The first of `count` listed tokens with is(token), or the last.
  template <class Is>
  __device__ int first_listed(int count, const Is& is) const {
    int low = 0;
    int high = count - 1;
    while (low < high) {
      const int middle = (low + high) / 2;
      if (is(shared_.listed[middle])) {
        high = middle;
      } else {
        low = middle + 1;
      }
    }
    return low;
  }
  __device__ int reaching(Mass target, int count) const {
    return first_listed(count, [&](const Listed& token) { return token.sum >= target; });
  }

  /// Of listed tokens, with masses, that are the first of the row and hold all that top_k leaves.
  __device__ int32_t choose(int count, const SamplingRow& params) const {
    if (count > params.top_k) count = params.top_k;
    if (params.top_p < 1.0F) {
      const Mass total = shared_.listed[count - 1].sum;
      count = reaching(share_of(static_cast<double>(params.top_p), total), count) + 1;
    }
    if (params.min_p > 0.0F) {
      const uint32_t least = least_bits(params);
      const int last = first_listed(count, [&](const Listed& x) { return bits_of_key(x.key) < least; });
      count = bits_of_key(shared_.listed[last].key) < least ? last : count;
    }
    const Mass total = shared_.listed[count - 1].sum;
    return id_at(shared_.listed[reaching(share_of(random_of(params), total), count)].key);
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
    if (before < tie && tie <= before + mine) find_tie_here(is_tie, static_cast<int>(tie - before));
    __syncthreads();
    const auto found = slice_.tell_all(static_cast<long long>(shared_.id), -1LL);
    return static_cast<int32_t>(warp_reduce(found, Max{}));
  }
  template <class IsTie>
  __device__ void find_tie_here(const IsTie& is_tie, int tie) {
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
  DrawShared& shared_;
  float maximum_, of_temperature_;
  Unit unit_ = Unit::masses();
  Kept kept_;
  int turn_ = 0;  // of `sums`
  int list_ = 0;
};

}  // namespace weft::kernels
