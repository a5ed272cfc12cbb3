#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"
#include "fuzz/inputs.h"
#include "fuzz/mutate.h"
#include "model/config.h"
#include "model/safetensors_writer.h"

namespace weft::model {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

/// A config.json as a list of members that a test can replace, add or drop.
class ConfigText {
 public:
  explicit ConfigText(std::vector<std::pair<std::string, std::string>> members)
      : members_(std::move(members)) {}
  [[nodiscard]] ConfigText with(const std::string& name, const std::string& json) const {
    ConfigText copy = without(name);
    copy.members_.emplace_back(name, json);
    return copy;
  }
  [[nodiscard]] ConfigText without(const std::string& name) const {
    ConfigText copy = *this;
    std::erase_if(copy.members_, [&](const auto& member) { return member.first == name; });
    return copy;
  }
  [[nodiscard]] std::string text() const {
    std::string text = "{";
    for (const auto& [name, json] : members_) {
      text += text.size() == 1 ? "\"" : ",\"";
      text += name;
      text += "\":";
      text += json;
    }
    return text + "}";
  }
  [[nodiscard]] ModelConfig parse() const { return parse_config(text()); }
  /// The error's message, or "".
  [[nodiscard]] std::string error() const {
    try {
      (void)parse();
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  }

 private:
  std::vector<std::pair<std::string, std::string>> members_;
};

/// The hub's DeepSeek-V3, but for its quantization_config.
ConfigText deepseek_v3() {
  return ConfigText({{"architectures", R"(["DeepseekV3ForCausalLM"])"},
                     {"attention_bias", "false"},
                     {"auto_map", R"({"AutoConfig": "configuration_deepseek.DeepseekV3Config"})"},
                     {"bos_token_id", "0"},
                     {"eos_token_id", "1"},
                     {"ep_size", "1"},
                     {"first_k_dense_replace", "3"},
                     {"hidden_act", "\"silu\""},
                     {"hidden_size", "7168"},
                     {"intermediate_size", "18432"},
                     {"kv_lora_rank", "512"},
                     {"max_position_embeddings", "163840"},
                     {"moe_intermediate_size", "2048"},
                     {"moe_layer_freq", "1"},
                     {"n_group", "8"},
                     {"n_routed_experts", "256"},
                     {"n_shared_experts", "1"},
                     {"norm_topk_prob", "true"},
                     {"num_attention_heads", "128"},
                     {"num_experts_per_tok", "8"},
                     {"num_hidden_layers", "61"},
                     {"num_key_value_heads", "128"},
                     {"num_nextn_predict_layers", "1"},
                     {"q_lora_rank", "1536"},
                     {"qk_nope_head_dim", "128"},
                     {"qk_rope_head_dim", "64"},
                     {"rms_norm_eps", "1e-06"},
                     {"rope_scaling", R"({"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0,
                       "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096, "type": "yarn"})"},
                     {"rope_theta", "10000"},
                     {"routed_scaling_factor", "2.5"},
                     {"scoring_func", "\"sigmoid\""},
                     {"tie_word_embeddings", "false"},
                     {"topk_group", "4"},
                     {"topk_method", "\"noaux_tc\""},
                     {"torch_dtype", "\"bfloat16\""},
                     {"v_head_dim", "128"},
                     {"vocab_size", "129280"}});
}

/// The hub's DeepSeek-V2-Lite.
ConfigText deepseek_v2_lite() {
  return deepseek_v3()
      .with("architectures", R"(["DeepseekV2ForCausalLM"])")
      .with("first_k_dense_replace", "1")
      .with("hidden_size", "2048")
      .with("intermediate_size", "10944")
      .with("moe_intermediate_size", "1408")
      .with("n_group", "1")
      .with("n_routed_experts", "64")
      .with("n_shared_experts", "2")
      .with("norm_topk_prob", "false")
      .with("num_attention_heads", "16")
      .with("num_experts_per_tok", "6")
      .with("num_hidden_layers", "27")
      .with("num_key_value_heads", "16")
      .without("num_nextn_predict_layers")
      .with("q_lora_rank", "null")
      .with("rope_scaling", R"({"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 0.707,
        "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096, "type": "yarn"})")
      .with("routed_scaling_factor", "1.0")
      .with("scoring_func", "\"softmax\"")
      .with("topk_group", "1")
      .with("topk_method", "\"greedy\"")
      .with("vocab_size", "102400");
}

/// The hub's Qwen3-30B-A3B.
ConfigText qwen3_moe() {
  return ConfigText({{"architectures", R"(["Qwen3MoeForCausalLM"])"},
                     {"attention_bias", "false"},
                     {"bos_token_id", "151643"},
                     {"decoder_sparse_step", "1"},
                     {"eos_token_id", "[151645, 151643]"},
                     {"head_dim", "128"},
                     {"hidden_act", "\"silu\""},
                     {"hidden_size", "2048"},
                     {"intermediate_size", "6144"},
                     {"max_position_embeddings", "40960"},
                     {"max_window_layers", "48"},
                     {"mlp_only_layers", "[]"},
                     {"moe_intermediate_size", "768"},
                     {"norm_topk_prob", "true"},
                     {"num_attention_heads", "32"},
                     {"num_experts", "128"},
                     {"num_experts_per_tok", "8"},
                     {"num_hidden_layers", "48"},
                     {"num_key_value_heads", "4"},
                     {"rms_norm_eps", "1e-06"},
                     {"rope_scaling", "null"},
                     {"rope_theta", "1000000.0"},
                     {"sliding_window", "null"},
                     {"tie_word_embeddings", "false"},
                     {"torch_dtype", "\"bfloat16\""},
                     {"use_sliding_window", "false"},
                     {"vocab_size", "151936"}});
}

/// A small dense Qwen3 as transformers 5 saves it.
ConfigText qwen3() {
  return ConfigText({{"architectures", R"(["Qwen3ForCausalLM"])"},
                     {"attention_bias", "false"},
                     {"bos_token_id", "null"},
                     {"dtype", "\"float32\""},
                     {"eos_token_id", "null"},
                     {"head_dim", "16"},
                     {"hidden_act", "\"silu\""},
                     {"hidden_size", "48"},
                     {"intermediate_size", "96"},
                     {"layer_types", R"(["full_attention", "full_attention"])"},
                     {"max_position_embeddings", "512"},
                     {"max_window_layers", "28"},
                     {"num_attention_heads", "6"},
                     {"num_hidden_layers", "2"},
                     {"num_key_value_heads", "2"},
                     {"rms_norm_eps", "1e-05"},
                     {"rope_parameters", R"({"rope_theta": 20000.0, "rope_type": "default"})"},
                     {"sliding_window", "null"},
                     {"tie_word_embeddings", "true"},
                     {"use_sliding_window", "false"},
                     {"vocab_size", "128"}});
}

TEST(ConfigTest, ReadsDeepseekV3OfTheHub) {
  const ModelConfig config = deepseek_v3().parse();
  EXPECT_EQ(config.architecture, Architecture::kDeepseekV3);
  EXPECT_EQ(config.architecture_name, "DeepseekV3ForCausalLM");
  EXPECT_EQ(config.vocab_size, 129280);
  EXPECT_EQ(config.hidden_size, 7168);
  EXPECT_EQ(config.intermediate_size, 18432);
  EXPECT_EQ(config.num_hidden_layers, 61);
  EXPECT_EQ(config.num_attention_heads, 128);
  EXPECT_EQ(config.head_dim, 192);
  EXPECT_EQ(config.max_position_embeddings, 163840);
  EXPECT_EQ(config.dtype, DType::kBF16);
  EXPECT_EQ(config.num_nextn_predict_layers, 1);
  EXPECT_EQ(config.bos_token_id, 0);
  EXPECT_THAT(config.eos_token_ids, ElementsAre(1));
  ASSERT_TRUE(config.is_mla());
  EXPECT_EQ(config.mla->q_lora_rank, 1536);
  EXPECT_EQ(config.mla->kv_lora_rank, 512);
  EXPECT_EQ(config.mla->qk_nope_head_dim, 128);
  EXPECT_EQ(config.mla->qk_rope_head_dim, 64);
  EXPECT_EQ(config.mla->v_head_dim, 128);
  EXPECT_EQ(config.moe.num_experts, 256);
  EXPECT_EQ(config.moe.num_experts_per_tok, 8);
  EXPECT_EQ(config.moe.moe_intermediate_size, 2048);
  EXPECT_EQ(config.moe.shared_intermediate_size(), 2048);
  EXPECT_EQ(config.moe.scoring, ops::Scoring::kSigmoid);
  EXPECT_EQ(config.moe.group_score, ops::GroupScore::kSumOfTop2);
  EXPECT_EQ(config.moe.n_group, 8);
  EXPECT_EQ(config.moe.topk_group, 4);
  EXPECT_TRUE(config.moe.has_correction_bias);
  EXPECT_TRUE(config.moe.norm_topk_prob);
  EXPECT_TRUE(config.moe.router_in_f32);
  EXPECT_EQ(config.moe.routed_scaling_factor, 2.5F);
  EXPECT_FALSE(config.is_sparse(2));
  EXPECT_TRUE(config.is_sparse(3));
  EXPECT_TRUE(config.is_sparse(60));
}

// The scales below are what transformers 5.17 computes for these configurations.
TEST(ConfigTest, DerivesScalesOfDeepseekFromYarn) {
  const ModelConfig v3 = deepseek_v3().parse();
  EXPECT_FLOAT_EQ(v3.softmax_scale, 0.1352337788608801F);
  EXPECT_EQ(v3.rope.type, RopeType::kYarn);
  EXPECT_EQ(v3.rope.rope_dim, 64);
  EXPECT_EQ(v3.rope.factor, 40.0);
  EXPECT_EQ(v3.rope.original_max_position_embeddings, 4096);
  EXPECT_EQ(v3.rope.attention_factor, 1.0);
  EXPECT_TRUE(v3.rope.interleaved);

  const ModelConfig v2 = deepseek_v2_lite().parse();
  EXPECT_FLOAT_EQ(v2.softmax_scale, 0.1147213867929261F);
  EXPECT_EQ(v2.rope.attention_factor, 1.0);

  const ModelConfig uneven =
      deepseek_v2_lite()
          .with("qk_rope_head_dim", "8")
          .with("rope_scaling", R"({"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
            "mscale": 1.0, "mscale_all_dim": 0.5})")
          .parse();
  EXPECT_FLOAT_EQ(uneven.softmax_scale, 0.12029832776695148F);
  EXPECT_DOUBLE_EQ(uneven.rope.attention_factor, 1.1557219901962608);
}

TEST(ConfigTest, ReadsDeepseekV2Lite) {
  const ModelConfig config = deepseek_v2_lite().parse();
  EXPECT_EQ(config.architecture, Architecture::kDeepseekV2);
  EXPECT_EQ(config.mla->q_lora_rank, 0);
  EXPECT_EQ(config.moe.scoring, ops::Scoring::kSoftmax);
  EXPECT_EQ(config.moe.group_score, ops::GroupScore::kNone);
  EXPECT_EQ(config.moe.n_group, 1);
  EXPECT_EQ(config.moe.topk_group, 1);
  EXPECT_FALSE(config.moe.has_correction_bias);
  EXPECT_FALSE(config.moe.norm_topk_prob);
  EXPECT_EQ(config.moe.shared_intermediate_size(), 2816);
  EXPECT_TRUE(config.rope.interleaved);
  EXPECT_FALSE(config.is_sparse(0));
  EXPECT_TRUE(config.is_sparse(1));
}

TEST(ConfigTest, ReadsGroupLimitedDeepseekV2) {
  const ModelConfig config = deepseek_v2_lite()
                                 .with("topk_method", "\"group_limited_greedy\"")
                                 .with("n_group", "8")
                                 .with("topk_group", "3")
                                 .parse();
  EXPECT_EQ(config.moe.group_score, ops::GroupScore::kMax);
  EXPECT_EQ(config.moe.n_group, 8);
  EXPECT_EQ(config.moe.topk_group, 3);
}

TEST(ConfigTest, ReadsQwen3MoeOfTheHub) {
  const ModelConfig config = qwen3_moe().parse();
  EXPECT_EQ(config.architecture, Architecture::kQwen3Moe);
  EXPECT_FALSE(config.is_mla());
  EXPECT_EQ(config.num_key_value_heads, 4);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_FLOAT_EQ(config.softmax_scale, 0.08838834764831845F);
  EXPECT_EQ(config.rope.type, RopeType::kDefault);
  EXPECT_EQ(config.rope.rope_theta, 1e6);
  EXPECT_EQ(config.rope.rope_dim, 128);
  EXPECT_FALSE(config.rope.interleaved);
  EXPECT_EQ(config.moe.num_experts, 128);
  EXPECT_EQ(config.moe.n_shared_experts, 0);
  EXPECT_EQ(config.moe.scoring, ops::Scoring::kSoftmax);
  EXPECT_TRUE(config.moe.norm_topk_prob);
  EXPECT_FALSE(config.moe.router_in_f32);
  EXPECT_TRUE(config.is_sparse(0));
  EXPECT_THAT(config.eos_token_ids, ElementsAre(151645, 151643));
}

TEST(ConfigTest, ReadsDenseQwen3OfTransformers5) {
  const ModelConfig config = qwen3().parse();
  EXPECT_EQ(config.architecture, Architecture::kQwen3);
  EXPECT_EQ(config.dtype, DType::kF32);
  EXPECT_EQ(config.rope.rope_theta, 20000.0);
  EXPECT_EQ(config.rms_norm_eps, 1e-5F);
  EXPECT_TRUE(config.tie_word_embeddings);
  EXPECT_FALSE(config.has_sparse_layer());
  EXPECT_FALSE(config.is_sparse(1));
  EXPECT_EQ(config.moe.num_experts, 0);
  EXPECT_FALSE(config.bos_token_id.has_value());
  EXPECT_THAT(config.eos_token_ids, IsEmpty());
}

TEST(ConfigTest, HubAndTransformers5StylesMeanTheSame) {
  const ModelConfig hub = deepseek_v3().parse();
  const ModelConfig saved =
      deepseek_v3()
          .without("rope_scaling")
          .without("rope_theta")
          .without("torch_dtype")
          .without("topk_method")
          .without("scoring_func")
          .with("dtype", "\"bfloat16\"")
          .with("rope_interleave", "true")
          .with("head_dim", "64")
          .with("qk_head_dim", "192")
          .with("rope_parameters",
                R"({"beta_fast": 32, "beta_slow": 1, "factor": 40, "mscale": 1.0, "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096, "rope_theta": 10000, "rope_type": "yarn", "type": "yarn"})")
          .parse();
  EXPECT_EQ(saved.dtype, hub.dtype);
  EXPECT_EQ(saved.head_dim, hub.head_dim);
  EXPECT_EQ(saved.softmax_scale, hub.softmax_scale);
  EXPECT_EQ(saved.rope.type, hub.rope.type);
  EXPECT_EQ(saved.rope.rope_theta, hub.rope.rope_theta);
  EXPECT_EQ(saved.rope.factor, hub.rope.factor);
  EXPECT_EQ(saved.rope.interleaved, hub.rope.interleaved);
  EXPECT_EQ(saved.moe.scoring, hub.moe.scoring);
  EXPECT_EQ(qwen3_moe().without("num_experts").with("num_local_experts", "128").parse().moe.num_experts, 128);
}

TEST(ConfigTest, ReadsEveryKindOfRope) {
  const auto rope = [](const std::string& json) {
    return qwen3().with("rope_parameters", json).parse().rope;
  };
  const RopeConfig linear = rope(R"({"rope_type": "linear", "factor": 4})");
  EXPECT_EQ(linear.type, RopeType::kLinear);
  EXPECT_EQ(linear.factor, 4.0);
  EXPECT_EQ(linear.rope_theta, 10000.0);
  const RopeConfig yarn =
      rope(R"({"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6, "truncate": false})");
  EXPECT_EQ(yarn.original_max_position_embeddings, 512);  // max_position_embeddings, for want of another
  EXPECT_DOUBLE_EQ(yarn.attention_factor, 1.138629436111989);
  EXPECT_FALSE(yarn.truncate);
  EXPECT_EQ(rope(R"({"rope_type": "yarn", "factor": 4.0, "attention_factor": 0.75})").attention_factor, 0.75);
  const RopeConfig llama3 = rope(R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 128})");
  EXPECT_EQ(llama3.type, RopeType::kLlama3);
  EXPECT_EQ(llama3.original_max_position_embeddings, 128);
  // Qwen3's softmax knows no mscale.
  EXPECT_EQ(qwen3()
                .with("rope_parameters", R"({"rope_type": "yarn", "factor": 4.0, "mscale": 1.0,
      "mscale_all_dim": 1.0})")
                .parse()
                .softmax_scale,
            0.25F);
}

TEST(ConfigTest, PlacesSparseLayersAsQwen3MoeDoes) {
  const ModelConfig config = qwen3_moe()
                                 .with("num_hidden_layers", "6")
                                 .with("decoder_sparse_step", "2")
                                 .with("mlp_only_layers", "[3]")
                                 .parse();
  EXPECT_THAT(config.sparse_layers, ElementsAre(false, true, false, false, false, true));
  EXPECT_FALSE(qwen3_moe().with("num_experts", "0").parse().has_sparse_layer());
}

TEST(ConfigTest, MissingFieldsMeanWhatTransformersMakesThem) {
  EXPECT_EQ(qwen3().without("head_dim").parse().head_dim, 128);
  EXPECT_EQ(qwen3_moe().without("head_dim").parse().head_dim, 64);
  EXPECT_EQ(qwen3_moe().without("rope_theta").parse().rope.rope_theta, 10000.0);
  EXPECT_EQ(qwen3().without("dtype").parse().dtype, DType::kF32);
  EXPECT_EQ(qwen3().without("num_key_value_heads").parse().num_key_value_heads, 6);
  EXPECT_EQ(deepseek_v3().without("n_group").without("topk_group").parse().moe.topk_group, 4);
  EXPECT_EQ(deepseek_v3().with("n_group", "null").with("topk_group", "null").parse().moe.group_score,
            ops::GroupScore::kNone);
  EXPECT_EQ(deepseek_v3().with("n_shared_experts", "null").parse().moe.n_shared_experts, 0);
  EXPECT_FALSE(deepseek_v3().with("rope_interleave", "false").parse().rope.interleaved);
  EXPECT_TRUE(qwen3().with("attention_bias", "true").parse().attention_bias);
  EXPECT_EQ(qwen3().with("torch_dtype", "\"torch.float16\"").without("dtype").parse().dtype, DType::kF16);
}

TEST(ConfigTest, RefusesByNameWhatWeftLacks) {
  struct Case {
    ConfigText config;
    const char* message;
  };
  for (const Case& c : std::initializer_list<Case>{
           {qwen3().with("architectures", "[\"LlamaForCausalLM\"]"), "\"LlamaForCausalLM\" is not supported"},
           {qwen3().without("architectures"), "architectures is missing; expected one name"},
           {qwen3().with("quantization_config", R"({"quant_method": "fp8"})"), "quantised checkpoints"},
           {qwen3().with("hidden_act", "\"gelu\""), "hidden_act is \"gelu\"; only silu"},
           {qwen3().with("layer_types", R"(["full_attention", "sliding_attention"])"),
            "sliding-window attention"},
           {qwen3_moe().with("use_sliding_window", "true").with("sliding_window", "4096"), "sliding-window"},
           {qwen3_moe().with("use_sliding_window", "true").without("sliding_window"), "sliding-window"},
           {qwen3()
                .without("layer_types")
                .with("use_sliding_window", "true")
                .with("sliding_window", "64")
                .with("max_window_layers", "1"),
            "use_sliding_window is true; sliding-window"},
           {qwen3().with("partial_rotary_factor", "0.5"), "partial_rotary_factor is 0.5"},
           {qwen3().with("rope_parameters", R"({"rope_type": "dynamic", "factor": 2})"),
            "rope_parameters.rope_type is \"dynamic\"; weft has default, linear, yarn and llama3"},
           {qwen3().with("rope_scaling", R"({"type": "longrope"})"), "rope_scaling.type is \"longrope\""},
           {qwen3().with("rope_parameters", R"({"full_attention": {"rope_type": "default"}})"),
            "per layer type"},
           {deepseek_v3().with("moe_layer_freq", "2"), "moe_layer_freq is 2; only 1"},
           {deepseek_v3().with("topk_method", "\"greedy\""),
            "topk_method is \"greedy\"; V3 has noaux_tc only"},
           {deepseek_v3().with("scoring_func", "\"softmax\""), "V3 has sigmoid only"},
           {deepseek_v2_lite().with("topk_method", "\"noaux_tc\""), "V2 has greedy and group_limited_greedy"},
           {deepseek_v2_lite().with("scoring_func", "\"sigmoid\""), "V2 has softmax only"},
           {deepseek_v2_lite().with("norm_topk_prob", "true"), "norm_topk_prob is true; V2"},
           {deepseek_v2_lite().with("mlp_bias", "true"), "mlp_bias is true"},
           {deepseek_v3().with("num_key_value_heads", "64"), "multi-head latent attention needs as many"},
           {qwen3().with("dtype", "\"float8_e4m3fn\""), "expected float32, bfloat16 or float16"},
       }) {
    EXPECT_THAT(c.config.error(), AllOf(HasSubstr("config.json: "), HasSubstr(c.message))) << c.config.text();
  }
}

TEST(ConfigTest, AcceptsWindowsThatNoLayerUses) {
  EXPECT_EQ(
      qwen3().without("layer_types").with("use_sliding_window", "true").with("sliding_window", "64").error(),
      "");
  EXPECT_EQ(qwen3_moe().with("use_sliding_window", "true").error(), "");  // sliding_window is null
  EXPECT_EQ(qwen3_moe().with("sliding_window", "4096").error(), "");      // use_sliding_window is false
}

TEST(ConfigTest, AbsurdValuesAreErrorsWithFieldAndValue) {
  struct Case {
    ConfigText config;
    const char* message;
  };
  for (const Case& c : std::initializer_list<Case>{
           {qwen3().with("vocab_size", "-1"), "vocab_size is -1; expected an integer from 1"},
           {qwen3().with("hidden_size", "0"), "hidden_size is 0; expected"},
           {qwen3().with("hidden_size", "4611686018427387904"),
            "hidden_size is 4611686018427387904; expected"},
           {qwen3().with("hidden_size", "48.5"), "hidden_size is 48.5; expected an integer"},
           {qwen3().with("hidden_size", "\"48\""), "hidden_size is \"48\"; expected an integer"},
           {qwen3().without("hidden_size"), "hidden_size is missing"},
           {qwen3().with("hidden_size", "null"), "hidden_size is missing"},
           {qwen3().with("num_hidden_layers", "1000000"), "num_hidden_layers is 1000000; expected"},
           {qwen3().with("num_key_value_heads", "4"), "num_key_value_heads is 4; expected a divisor"},
           {qwen3().with("head_dim", "15"), "head_dim is 15; rotary embedding needs an even width"},
           {qwen3_moe().without("head_dim").with("hidden_size", "2047"), "head_dim is missing; hidden_size"},
           {qwen3().with("rms_norm_eps", "-1"), "rms_norm_eps is -1; expected a number"},
           {qwen3().with("tie_word_embeddings", "1"), "tie_word_embeddings is 1; expected true or false"},
           {qwen3().with("eos_token_id", "[1, -2]"), "it holds -2, not a token id"},
           {qwen3().with("eos_token_id", "\"x\""), "eos_token_id is \"x\"; expected an integer"},
           {qwen3().with("rope_parameters", R"({"rope_theta": 0})"),
            "rope_parameters.rope_theta is 0; expected"},
           {qwen3().with("rope_parameters", R"({"rope_type": "yarn"})"), "rope_parameters.factor is missing"},
           {qwen3().with("rope_parameters", R"({"rope_type": "yarn", "factor": -4})"),
            "factor is -4; expected"},
           {qwen3().with("rope_parameters", "[1]"), "rope_parameters is array of 1; expected an object"},
           {qwen3().with("rope_parameters", R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4,
              "high_freq_factor": 4})"),
            "high_freq_factor is 4; expected more than low_freq_factor 4"},
           {qwen3_moe().with("num_experts_per_tok", "129"), "num_experts_per_tok is 129; num_experts is 128"},
           {qwen3_moe().with("mlp_only_layers", "[48]"), "it holds 48, not one of 48 layers"},
           {qwen3_moe().with("decoder_sparse_step", "0"), "decoder_sparse_step is 0; expected"},
           {deepseek_v3().with("n_group", "7"), "n_group is 7; expected a divisor"},
           {deepseek_v3().with("n_group", "256").with("topk_group", "8"), "sum of its two best experts"},
           {deepseek_v3().with("topk_group", "9"), "topk_group is 9; n_group is 8"},
           {deepseek_v3().with("n_group", "64").with("topk_group", "1"),
            "hold fewer than num_experts_per_tok 8"},
           {deepseek_v3().without("q_lora_rank"), "q_lora_rank is missing; expected a rank, or null"},
           {deepseek_v3().with("qk_rope_head_dim", "63"),
            "qk_rope_head_dim is 63; rotary embedding needs an even"},
           {deepseek_v3().without("kv_lora_rank"), "kv_lora_rank is missing"},
           {deepseek_v2_lite().with("num_experts_per_tok", "null"), "num_experts_per_tok is missing"},
       }) {
    EXPECT_THAT(c.config.error(), AllOf(HasSubstr("config.json: "), HasSubstr(c.message))) << c.config.text();
  }
  EXPECT_THAT(ConfigText({}).error(), HasSubstr("architectures is missing"));
  EXPECT_THROW((void)parse_config("[]"), Error);
  EXPECT_THROW((void)parse_config(""), Error);
}

TEST(ConfigTest, LoadsFromAFolderAndNamesTheFile) {
  const TempFolder folder;
  try {
    (void)load_config(folder.path());
    FAIL();
  } catch (const Error& e) {
    EXPECT_THAT(e.what(), AllOf(HasSubstr("cannot open"), HasSubstr(folder.path() + "/config.json")));
  }
  folder.write("config.json", qwen3().text());
  EXPECT_EQ(load_config(folder.path()).hidden_size, 48);
}

TEST(ConfigFuzzTest, AnyTextGivesAConfigOrAnError) {
  std::vector<std::string> seeds = fuzz::config_seeds();
  seeds.push_back(deepseek_v2_lite().text());
  std::mt19937_64 rng(20260103);
  int accepted = 0;
  int rejected = 0;
  for (size_t i = 0; i < 20000; ++i) {
    const std::string text = fuzz::mutate(seeds[i % seeds.size()], fuzz::kConfigPieces, rng);
    try {
      const ModelConfig config = parse_config(text);
      EXPECT_EQ(config.sparse_layers.size(), static_cast<size_t>(config.num_hidden_layers));
      ++accepted;
    } catch (const Error&) {
      ++rejected;
    }
  }
  EXPECT_GT(accepted, 100);
  EXPECT_GT(rejected, 1000);
}

}  // namespace
}  // namespace weft::model
