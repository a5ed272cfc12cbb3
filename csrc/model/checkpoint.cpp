#include "model/checkpoint.h"

#include <map>
#include <mutex>

#include "base/error.h"
#include "base/json.h"
#include "base/text_file.h"
#include "model/safetensors.h"
#include "model/tensor_block.h"

namespace weft::model {

namespace {

constexpr std::string_view kSingleFile = "model.safetensors";
constexpr std::string_view kIndexFile = "model.safetensors.index.json";

class Checkpoint final : public WeightSource {
 public:
  explicit Checkpoint(const std::string& folder) : folder_(folder) {
    if (file_exists(path_of(kSingleFile))) {
      open_single_file();
    } else if (file_exists(path_of(kIndexFile))) {
      read_index();
    } else {
      WEFT_THROW("{} holds neither {} nor {}; weft reads safetensors only", folder, kSingleFile, kIndexFile);
    }
  }

  bool contains(std::string_view name) const override { return shard_of_.find(name) != shard_of_.end(); }

  void read(std::string_view name, std::span<const int64_t> full_shape, std::span<const Slice> slices,
            const device::TensorView& dst) override {
    const SafeTensor& tensor = find(name);
    if (!std::equal(full_shape.begin(), full_shape.end(), tensor.shape.begin(), tensor.shape.end())) {
      WEFT_THROW("{}: tensor {} has shape {}, but config.json makes it {}", folder_, json::excerpt(name),
                 describe_shape(tensor.shape), describe_shape(full_shape));
    }
    const TensorBlock block = make_block(name, full_shape, slices, dst);
    const auto element = static_cast<int64_t>(dtype_size(tensor.dtype));
    const int64_t count = block.shape.empty() ? 1 : block.shape.back();
    for_each_row(block, dst, [&](int64_t index, void* out) {
      convert_elements(name, tensor.dtype, tensor.data.data() + index * element, dst.dtype, out, count);
    });
  }

  std::vector<std::string> names() const override {
    std::vector<std::string> names;
    names.reserve(shard_of_.size());
    for (const auto& [name, shard] : shard_of_) names.push_back(name);
    return names;
  }

 private:
  struct Shard {
    std::string file_name;
    std::mutex mutex;  // guards the opening
    std::unique_ptr<SafetensorsFile> file;
  };

  [[nodiscard]] std::string path_of(std::string_view file_name) const {
    return folder_ + "/" + std::string(file_name);
  }

  void open_single_file() {
    Shard& shard = *shards_.emplace_back(std::make_unique<Shard>());
    shard.file_name = kSingleFile;
    shard.file = std::make_unique<SafetensorsFile>(path_of(kSingleFile));
    for (const auto& [name, tensor] : shard.file->tensors()) shard_of_.emplace(name, &shard);
  }

  void read_index() {
    const std::string path = path_of(kIndexFile);
    const auto text = read_text_file(path);
    WEFT_CHECK(text, "cannot open {}", path);
    const json::Value index = json::parse(*text, {.source = path});
    const json::Object* root = index.if_object();
    const json::Value* map = root == nullptr ? nullptr : root->find("weight_map");
    const json::Object* weights = map == nullptr ? nullptr : map->if_object();
    WEFT_CHECK(weights != nullptr, "{}: expected an object with a weight_map from tensors to files", path);
    std::map<std::string, Shard*> by_file;
    for (size_t i = 0; i < weights->size(); ++i) {
      const std::string& name = weights->names()[i];
      const std::string* file_name = weights->values()[i].if_string();
      WEFT_CHECK(file_name != nullptr, "{}: the file of tensor {} is {}", path, json::excerpt(name),
                 weights->values()[i].describe());
      // A hostile index must not reach files elsewhere.
      WEFT_CHECK(file_name->ends_with(".safetensors") && file_name->find('/') == std::string::npos &&
                     file_name->find('\0') == std::string::npos,
                 "{}: the file of tensor {} is {}; expected a plain name that ends in .safetensors", path,
                 json::excerpt(name), json::excerpt(*file_name));
      Shard*& shard = by_file[*file_name];
      if (shard == nullptr) {
        WEFT_CHECK(file_exists(path_of(*file_name)), "{}: shard {} is missing; download it", path,
                   json::excerpt(*file_name));
        shard = shards_.emplace_back(std::make_unique<Shard>()).get();
        shard->file_name = *file_name;
      }
      shard_of_.emplace(name, shard);
    }
  }

  const SafeTensor& find(std::string_view name) {
    const auto it = shard_of_.find(name);
    WEFT_CHECK(it != shard_of_.end(), "{}: tensor {} is missing; the checkpoint does not fit config.json",
               folder_, json::excerpt(name));
    Shard& shard = *it->second;
    const std::lock_guard lock(shard.mutex);
    if (shard.file == nullptr) {
      auto file = std::make_unique<SafetensorsFile>(path_of(shard.file_name));
      check_against_index(shard, *file);
      shard.file = std::move(file);
    }
    const SafeTensor* tensor = shard.file->find(name);
    WEFT_CHECK(tensor != nullptr, "{}: tensor {} is missing from {}, where the index places it", folder_,
               json::excerpt(name), shard.file_name);
    return *tensor;
  }

  /// A tensor that the index places elsewhere, or nowhere, would be silently ignored.
  void check_against_index(const Shard& shard, const SafetensorsFile& file) const {
    for (const auto& [name, tensor] : file.tensors()) {
      const auto it = shard_of_.find(name);
      WEFT_CHECK(it != shard_of_.end(), "{}: {} holds tensor {}, which the index does not list", folder_,
                 shard.file_name, json::excerpt(name));
      WEFT_CHECK(it->second == &shard, "{}: {} holds tensor {}, which the index places in {}", folder_,
                 shard.file_name, json::excerpt(name), it->second->file_name);
    }
  }

  std::string folder_;
  std::vector<std::unique_ptr<Shard>> shards_;
  std::map<std::string, Shard*, std::less<>> shard_of_;
};

}  // namespace

std::unique_ptr<WeightSource> open_checkpoint(const std::string& folder) {
  return std::make_unique<Checkpoint>(folder);
}

}  // namespace weft::model
