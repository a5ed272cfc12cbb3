#include "model/scratch.h"

namespace weft::model {

std::string_view scratch_name(ScratchId id) {
  constexpr std::array<std::string_view, static_cast<size_t>(ScratchId::kCount)> kNames = {
      "qkv",
      "query",
      "latents",
      "query_absorbed",
      "attn_latent",
      "attn_out",
      "gate_up",
      "act",
      "router_logits",
      "topk_ids",
      "topk_weights",
      "copies",
      "expert_gate_up",
      "expert_act",
      "expert_out",
      "expert_offsets",
      "expert_counts",
      "copy_source",
      "copy_position",
      "shared_out",
  };
  return kNames[static_cast<size_t>(id)];
}

void Scratch::allocate(const Allocate& allocate) {
  for (size_t i = 0; i < kNumIds; ++i) {
    if (bytes_[i] > 0) memory_[i] = allocate(scratch_name(static_cast<ScratchId>(i)), bytes_[i]);
  }
}

device::TensorView Scratch::view(ScratchId id, DType dtype, std::initializer_list<int64_t> shape) const {
  const auto i = static_cast<size_t>(id);
  const auto view = device::make_view(memory_[i], dtype, shape);
  const int64_t wanted = view.numel() * static_cast<int64_t>(dtype_size(dtype));
  WEFT_CHECK(wanted <= bytes_[i],
             "scratch {}: a step wants {} bytes of {} reserved; the plan passed the capacity",
             scratch_name(id), wanted, bytes_[i]);
  return view;
}

}  // namespace weft::model
