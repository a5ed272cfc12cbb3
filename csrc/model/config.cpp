#include "model/config.h"

#include <algorithm>
#include <cmath>

#include "base/error.h"
#include "base/json.h"
#include "base/text_file.h"
#include "model/config_fields.h"

// Defaults are those of transformers' configuration classes, so that a config that leaves a field out means
// the same here and there.

namespace weft::model {

namespace {

// Far above every published model, and low enough that no product of two or three of them overflows int64.
constexpr int64_t kMaxWidth = int64_t{1} << 20;
constexpr int64_t kMaxHeads = int64_t{1} << 14;
constexpr int64_t kMaxLayers = int64_t{1} << 12;
constexpr int64_t kMaxVocab = int64_t{1} << 24;
constexpr int64_t kMaxPositions = int64_t{1} << 28;
constexpr int64_t kMaxExperts = int64_t{1} << 16;
constexpr double kMaxNumber = 1e12;
constexpr double kTiny = 1e-12;
constexpr double kMinTheta = 2.0;

bool is_deepseek(Architecture a) { return a == Architecture::kDeepseekV2 || a == Architecture::kDeepseekV3; }

void read_architecture(const ConfigFields& fields, ModelConfig& config) {
  static constexpr std::string_view kAdvice =
      "weft has DeepseekV2ForCausalLM, DeepseekV3ForCausalLM, Qwen3ForCausalLM and Qwen3MoeForCausalLM";
  const json::Array* names = fields.array("architectures");
  if (names == nullptr || names->size() != 1 || names->at(0).if_string() == nullptr) {
    fields.refuse("architectures", fmt::format("expected one name; {}", kAdvice));
  }
  const std::string& name = *names->at(0).if_string();
  config.architecture_name = name;
  if (name == "DeepseekV2ForCausalLM") {
    config.architecture = Architecture::kDeepseekV2;
  } else if (name == "DeepseekV3ForCausalLM") {
    config.architecture = Architecture::kDeepseekV3;
  } else if (name == "Qwen3ForCausalLM") {
    config.architecture = Architecture::kQwen3;
  } else if (name == "Qwen3MoeForCausalLM") {
    config.architecture = Architecture::kQwen3Moe;
  } else {
    fields.refuse("architectures", fmt::format("{} is not supported; {}", json::excerpt(name), kAdvice));
  }
}

void refuse_what_weft_lacks(const ConfigFields& fields, const ModelConfig& config) {
  for (const std::string_view name : {"quantization_config", "compression_config"}) {
    if (fields.has(name)) {
      fields.refuse(name, "quantised checkpoints are not supported; use one in bf16, f16 or f32");
    }
  }
  if (const std::string act = fields.text_or("hidden_act", "silu"); act != "silu" && act != "swish") {
    fields.refuse("hidden_act", "only silu is supported");
  }
  if (fields.flag_or("mlp_bias", false)) fields.refuse("mlp_bias", "biases in the FFN are not supported");
  if (fields.number_or("partial_rotary_factor", 1.0, 0.0, 1.0) != 1.0) {
    fields.refuse("partial_rotary_factor", "only whole heads are rotated");
  }
  static constexpr std::string_view kWindow =
      "sliding-window attention is not supported; only full attention in every layer is";
  if (const json::Array* types = fields.array("layer_types")) {
    for (const json::Value& type : *types) {
      if (type.if_string() == nullptr || *type.if_string() != "full_attention") {
        fields.refuse("layer_types", fmt::format("it holds {}: {}", type.describe(), kWindow));
      }
    }
  } else if (!is_deepseek(config.architecture) && fields.flag_or("use_sliding_window", false) &&
             (fields.has("sliding_window") || !fields.is_written("sliding_window"))) {
    // Qwen3 slides from layer max_window_layers on, Qwen3-MoE everywhere.
    const bool moe = config.architecture == Architecture::kQwen3Moe;
    const int64_t first = moe ? 0 : fields.integer_or("max_window_layers", 28, 0, kMaxLayers);
    if (first < config.num_hidden_layers) fields.refuse("use_sliding_window", kWindow);
  }
}

void read_tokens(const ConfigFields& fields, ModelConfig& config) {
  if (fields.has("bos_token_id")) config.bos_token_id = fields.integer("bos_token_id", 0, kMaxVocab);
  const json::Value* eos = fields.find("eos_token_id");
  if (eos == nullptr) return;
  if (eos->if_array() == nullptr) {
    config.eos_token_ids = {fields.integer("eos_token_id", 0, kMaxVocab)};
    return;
  }
  for (const json::Value& id : *eos->if_array()) {
    if (id.if_int() == nullptr || *id.if_int() < 0 || *id.if_int() > kMaxVocab) {
      fields.refuse("eos_token_id", fmt::format("it holds {}, not a token id", id.describe()));
    }
    config.eos_token_ids.push_back(*id.if_int());
  }
}

DType read_dtype(const ConfigFields& fields) {
  const std::string_view field = fields.has("dtype") ? "dtype" : "torch_dtype";
  std::string name = fields.text_or(field, "float32");
  if (name.starts_with("torch.")) name.erase(0, 6);
  if (name == "float32") return DType::kF32;
  if (name == "bfloat16") return DType::kBF16;
  if (name == "float16") return DType::kF16;
  fields.refuse(field, "expected float32, bfloat16 or float16");
}

void read_mla(const ConfigFields& fields, ModelConfig& config) {
  MlaConfig mla;
  // null means no low-rank step; transformers' default for a config without the field is no published
  // model's.
  if (!fields.is_written("q_lora_rank")) fields.refuse("q_lora_rank", "expected a rank, or null for none");
  mla.q_lora_rank = fields.integer_or("q_lora_rank", 0, 1, kMaxWidth);
  mla.kv_lora_rank = fields.integer("kv_lora_rank", 1, kMaxWidth);
  mla.qk_nope_head_dim = fields.integer("qk_nope_head_dim", 1, kMaxWidth);
  mla.qk_rope_head_dim = fields.integer("qk_rope_head_dim", 2, kMaxWidth);
  mla.v_head_dim = fields.integer("v_head_dim", 1, kMaxWidth);
  if (config.num_key_value_heads != config.num_attention_heads) {
    fields.refuse("num_key_value_heads", "multi-head latent attention needs as many as num_attention_heads");
  }
  config.head_dim = mla.qk_nope_head_dim + mla.qk_rope_head_dim;
  config.mla = mla;
}

void read_gqa(const ConfigFields& fields, ModelConfig& config) {
  if (fields.has("head_dim")) {
    config.head_dim = fields.integer("head_dim", 2, kMaxWidth);
  } else if (config.architecture == Architecture::kQwen3) {
    config.head_dim = 128;
  } else {
    if (config.hidden_size % config.num_attention_heads != 0) {
      fields.refuse("head_dim", "hidden_size is not a multiple of num_attention_heads, so it is needed");
    }
    config.head_dim = config.hidden_size / config.num_attention_heads;
  }
  if (config.num_attention_heads % config.num_key_value_heads != 0) {
    fields.refuse("num_key_value_heads",
                  fmt::format("expected a divisor of num_attention_heads {}", config.num_attention_heads));
  }
}

/// How much yarn sharpens attention for a context `factor` times longer.
double yarn_mscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

void read_rope(const ConfigFields& fields, std::string_view source, ModelConfig& config) {
  RopeConfig& rope = config.rope;
  rope.rope_dim = config.is_mla() ? config.mla->qk_rope_head_dim : config.head_dim;
  WEFT_CHECK(rope.rope_dim % 2 == 0, "{}: {} is {}; rotary embedding needs an even width", source,
             config.is_mla() ? "qk_rope_head_dim" : "head_dim", rope.rope_dim);
  // V2 always rotates pairs of neighbours; V3 has a switch for it.
  rope.interleaved =
      config.architecture == Architecture::kDeepseekV2 ||
      (config.architecture == Architecture::kDeepseekV3 && fields.flag_or("rope_interleave", true));

  // transformers prefers a non-empty rope_scaling.
  static const json::Object kNone;
  const json::Object* scaling = fields.object("rope_scaling");
  const bool old_style = scaling != nullptr && scaling->size() != 0;
  const json::Object* parameters = old_style ? scaling : fields.object("rope_parameters");
  const std::string_view prefix = old_style ? "rope_scaling." : "rope_parameters.";
  const ConfigFields inner(source, prefix, parameters == nullptr ? kNone : *parameters);
  for (const std::string_view layer_type : {"full_attention", "sliding_attention"}) {
    if (inner.has(layer_type)) inner.refuse(layer_type, "rotary parameters per layer type are not supported");
  }
  if (inner.number_or("partial_rotary_factor", 1.0, 0.0, 1.0) != 1.0) {
    inner.refuse("partial_rotary_factor", "only whole heads are rotated");
  }
  const double theta = fields.number_or("rope_theta", 10000.0, kMinTheta, kMaxNumber);
  rope.rope_theta = inner.number_or("rope_theta", theta, kMinTheta, kMaxNumber);

  const std::string_view type_field = inner.has("rope_type") ? "rope_type" : "type";
  const std::string type = inner.text_or(type_field, "default");
  if (type == "default") return;
  if (type == "linear") {
    rope.type = RopeType::kLinear;
  } else if (type == "yarn") {
    rope.type = RopeType::kYarn;
  } else if (type == "llama3") {
    rope.type = RopeType::kLlama3;
  } else {
    inner.refuse(type_field, "weft has default, linear, yarn and llama3");
  }
  rope.factor = inner.number("factor", kTiny, kMaxNumber);
  const double mscale = inner.number_or("mscale", 0.0, 0.0, kMaxNumber);
  const double mscale_all_dim = inner.number_or("mscale_all_dim", 0.0, 0.0, kMaxNumber);
  if (rope.type != RopeType::kLinear) {
    const int64_t inside = inner.integer_or("original_max_position_embeddings",
                                            config.max_position_embeddings, 1, kMaxPositions);
    rope.original_max_position_embeddings =
        fields.integer_or("original_max_position_embeddings", inside, 1, kMaxPositions);
  }
  if (rope.type == RopeType::kYarn) {
    const double inferred = mscale != 0.0 && mscale_all_dim != 0.0
                                ? yarn_mscale(rope.factor, mscale) / yarn_mscale(rope.factor, mscale_all_dim)
                                : yarn_mscale(rope.factor, 1.0);
    rope.attention_factor = inner.number_or("attention_factor", inferred, 0.0, kMaxNumber);
    rope.beta_fast = inner.number_or("beta_fast", 32.0, kTiny, kMaxNumber);
    rope.beta_slow = inner.number_or("beta_slow", 1.0, kTiny, kMaxNumber);
    rope.truncate = inner.flag_or("truncate", true);
  }
  if (rope.type == RopeType::kLlama3) {
    rope.low_freq_factor = inner.number("low_freq_factor", kTiny, kMaxNumber);
    rope.high_freq_factor = inner.number("high_freq_factor", kTiny, kMaxNumber);
    if (rope.high_freq_factor <= rope.low_freq_factor) {
      inner.refuse("high_freq_factor",
                   fmt::format("expected more than low_freq_factor {}", rope.low_freq_factor));
    }
  }
  // DeepSeek sharpens the softmax itself, and not only the rotated part.
  if (is_deepseek(config.architecture) && mscale_all_dim != 0.0) {
    const double sharpened = yarn_mscale(rope.factor, mscale_all_dim);
    config.softmax_scale =
        static_cast<float>(std::pow(static_cast<double>(config.head_dim), -0.5) * sharpened * sharpened);
  }
}

/// The first of `names` that the config has, else the first.
std::string_view first_of(const ConfigFields& fields, std::initializer_list<std::string_view> names) {
  for (const std::string_view name : names) {
    if (fields.has(name)) return name;
  }
  return *names.begin();
}

void read_experts(const ConfigFields& fields, std::string_view count_field, ModelConfig& config) {
  MoeConfig& moe = config.moe;
  moe.num_experts_per_tok = fields.integer("num_experts_per_tok", 1, kMaxExperts);
  if (moe.num_experts_per_tok > moe.num_experts) {
    fields.refuse("num_experts_per_tok", fmt::format("{} is {}", count_field, moe.num_experts));
  }
  moe.moe_intermediate_size = fields.integer("moe_intermediate_size", 1, kMaxWidth);
}

void read_deepseek_groups(const ConfigFields& fields, bool v3, MoeConfig& moe) {
  // V3's router always has groups; null is one group.
  const auto group_count = [&](std::string_view name, int64_t otherwise) {
    return fields.is_written(name) ? fields.integer_or(name, 1, 1, moe.num_experts) : otherwise;
  };
  moe.n_group = group_count("n_group", v3 ? 8 : 1);
  moe.topk_group = group_count("topk_group", v3 ? 4 : 1);
  if (moe.num_experts % moe.n_group != 0) {
    fields.refuse("n_group", fmt::format("expected a divisor of the number of experts, {}", moe.num_experts));
  }
  if (moe.topk_group > moe.n_group) fields.refuse("topk_group", fmt::format("n_group is {}", moe.n_group));
  const int64_t group_size = moe.num_experts / moe.n_group;
  if (v3 && moe.n_group > 1 && group_size < 2) {
    fields.refuse("n_group", "a group's score is the sum of its two best experts, so it needs two");
  }
  if (moe.num_experts_per_tok > moe.topk_group * group_size) {
    fields.refuse("topk_group", fmt::format("{} groups of {} hold fewer than num_experts_per_tok {}",
                                            moe.topk_group, group_size, moe.num_experts_per_tok));
  }
  if (moe.n_group > 1) moe.group_score = v3 ? ops::GroupScore::kSumOfTop2 : ops::GroupScore::kMax;
}

void read_deepseek_moe(const ConfigFields& fields, ModelConfig& config) {
  const bool v3 = config.architecture == Architecture::kDeepseekV3;
  MoeConfig& moe = config.moe;
  const std::string_view count_field =
      first_of(fields, {"n_routed_experts", "num_local_experts", "num_experts"});
  moe.num_experts = fields.integer(count_field, 1, kMaxExperts);
  read_experts(fields, count_field, config);
  if (!fields.is_written("n_shared_experts")) moe.n_shared_experts = v3 ? 1 : 2;
  if (fields.has("n_shared_experts")) moe.n_shared_experts = fields.integer("n_shared_experts", 0, 1024);
  moe.routed_scaling_factor =
      static_cast<float>(fields.number_or("routed_scaling_factor", v3 ? 2.5 : 1.0, 0.0, kMaxNumber));
  moe.norm_topk_prob = fields.flag_or("norm_topk_prob", v3);
  moe.router_in_f32 = true;
  if (v3) {
    if (fields.text_or("scoring_func", "sigmoid") != "sigmoid")
      fields.refuse("scoring_func", "V3 has sigmoid only");
    if (fields.text_or("topk_method", "noaux_tc") != "noaux_tc")
      fields.refuse("topk_method", "V3 has noaux_tc only");
    moe.scoring = ops::Scoring::kSigmoid;
    moe.has_correction_bias = true;
    read_deepseek_groups(fields, v3, moe);
  } else {
    if (fields.text_or("scoring_func", "softmax") != "softmax")
      fields.refuse("scoring_func", "V2 has softmax only");
    // transformers ignores it, DeepSeek's own code then drops routed_scaling_factor: no answer is surely
    // right.
    if (moe.norm_topk_prob) fields.refuse("norm_topk_prob", "V2 is supported with false only");
    const std::string method = fields.text_or("topk_method", "greedy");
    if (method == "group_limited_greedy") {
      read_deepseek_groups(fields, v3, moe);
    } else if (method != "greedy") {
      fields.refuse("topk_method", "V2 has greedy and group_limited_greedy");
    }
  }
  if (fields.integer_or("moe_layer_freq", 1, 1, kMaxLayers) != 1) {
    fields.refuse("moe_layer_freq",
                  "only 1 is supported: every layer from first_k_dense_replace on is sparse");
  }
  const int64_t first_sparse = fields.integer_or("first_k_dense_replace", v3 ? 3 : 0, 0, kMaxLayers);
  for (int64_t layer = first_sparse; layer < config.num_hidden_layers; ++layer) {
    config.sparse_layers[static_cast<size_t>(layer)] = true;
  }
  const std::string_view mtp = first_of(fields, {"num_nextn_predict_layers", "num_mtp_layers"});
  config.num_nextn_predict_layers = fields.integer_or(mtp, 0, 0, kMaxLayers);
}

void read_qwen_moe(const ConfigFields& fields, ModelConfig& config) {
  MoeConfig& moe = config.moe;
  const std::string_view count_field = first_of(fields, {"num_experts", "num_local_experts"});
  moe.num_experts = fields.integer(count_field, 0, kMaxExperts);
  if (moe.num_experts == 0) return;
  read_experts(fields, count_field, config);
  moe.norm_topk_prob = fields.flag_or("norm_topk_prob", false);
  const int64_t step = fields.integer_or("decoder_sparse_step", 1, 1, kMaxLayers);
  for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    config.sparse_layers[static_cast<size_t>(layer)] = (layer + 1) % step == 0;
  }
  const json::Array* dense = fields.array("mlp_only_layers");
  if (dense == nullptr) return;
  for (const json::Value& layer : *dense) {
    if (layer.if_int() == nullptr || *layer.if_int() < 0 || *layer.if_int() >= config.num_hidden_layers) {
      fields.refuse("mlp_only_layers", fmt::format("it holds {}, not one of {} layers", layer.describe(),
                                                   config.num_hidden_layers));
    }
    config.sparse_layers[static_cast<size_t>(*layer.if_int())] = false;
  }
}

}  // namespace

bool ModelConfig::has_sparse_layer() const {
  return std::find(sparse_layers.begin(), sparse_layers.end(), true) != sparse_layers.end();
}

ModelConfig parse_config(std::string_view text, std::string_view source) {
  const json::Value value = json::parse(text, {.source = source, .max_bytes = size_t{16} << 20});
  WEFT_CHECK(value.if_object() != nullptr, "{}: expected an object, found {}", source, value.describe());
  const ConfigFields fields(source, "", *value.if_object());
  ModelConfig config;
  read_architecture(fields, config);
  config.vocab_size = fields.integer("vocab_size", 1, kMaxVocab);
  config.hidden_size = fields.integer("hidden_size", 1, kMaxWidth);
  config.intermediate_size = fields.integer("intermediate_size", 1, kMaxWidth);
  config.num_hidden_layers = fields.integer("num_hidden_layers", 1, kMaxLayers);
  config.num_attention_heads = fields.integer("num_attention_heads", 1, kMaxHeads);
  config.num_key_value_heads =
      fields.integer_or("num_key_value_heads", config.num_attention_heads, 1, kMaxHeads);
  config.max_position_embeddings = fields.integer("max_position_embeddings", 1, kMaxPositions);
  config.rms_norm_eps = static_cast<float>(fields.number_or("rms_norm_eps", 1e-6, 0.0, 1.0));
  config.attention_bias = fields.flag_or("attention_bias", false);
  config.tie_word_embeddings = fields.flag_or("tie_word_embeddings", false);
  config.dtype = read_dtype(fields);
  read_tokens(fields, config);
  refuse_what_weft_lacks(fields, config);

  if (is_deepseek(config.architecture)) {
    read_mla(fields, config);
  } else {
    read_gqa(fields, config);
  }
  config.softmax_scale = static_cast<float>(std::pow(static_cast<double>(config.head_dim), -0.5));
  read_rope(fields, source, config);

  config.sparse_layers.assign(static_cast<size_t>(config.num_hidden_layers), false);
  if (is_deepseek(config.architecture)) read_deepseek_moe(fields, config);
  if (config.architecture == Architecture::kQwen3Moe) read_qwen_moe(fields, config);
  return config;
}

ModelConfig load_config(const std::string& folder) {
  const std::string path = folder + "/config.json";
  const auto text = read_text_file(path);
  WEFT_CHECK(text, "cannot open {}; the model's folder must hold a config.json", path);
  return parse_config(*text, path);
}

}  // namespace weft::model
