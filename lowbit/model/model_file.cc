// SPDX-License-Identifier: Apache-2.0
#include "lowbit/model/model_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <filesystem>
#include <numeric>
#include <set>

#include "lowbit/model/tensor_names.h"

namespace lowbit {
namespace {

using nlohmann::json;

constexpr std::string_view rope_divisors_name = "rope_freqs.weight";
// A file that is not there is an empty object; a damaged one is an error.
Result<json> read_json(const Checkpoint& checkpoint, std::string_view name) {
  const auto text = checkpoint.side_file(name);
  if (!text) return json::object();
  json parsed = json::parse(*text, /*cb=*/nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) {
    return Error(fmt::format("{}/{} is not a JSON object", checkpoint.path(), name));
  }
  return parsed;
}

// Buffers that some checkpoints carry and no forward pass needs.
bool is_ignored(std::string_view name) {
  return name.ends_with(".rotary_emb.inv_freq");
}

// Puts the numbers of a one-row plain tensor (a bias) into a new order.
void permute_numbers(QuantizedTensor& tensor, std::span<const std::int64_t> order) {
  const CodeArray stored = tensor.codes;
  for (std::size_t i = 0; i < order.size(); ++i) {
    tensor.codes.set(0, static_cast<std::int64_t>(i), stored.get(0, order[i]));
  }
}

}  // namespace

std::int64_t gguf_permuted_heads(const ModelConfig& config, std::string_view canonical_name) {
  const std::string_view role = role_of(canonical_name);
  if (role == "self_attn.q_proj") return config.n_heads;
  if (role == "self_attn.k_proj") return config.n_kv_heads;
  return 0;
}

Status reorder_outputs(QuantizedTensor& tensor, std::span<const std::int64_t> order,
                       bool is_matrix) {
  if (is_matrix) return permute_rows(tensor, order);
  permute_numbers(tensor, order);
  return ok();
}

std::vector<std::int64_t> halves_from_interleaved(std::int64_t n_heads, std::int64_t head_dim) {
  std::vector<std::int64_t> order;
  order.reserve(static_cast<std::size_t>(n_heads * head_dim));
  for (std::int64_t head = 0; head < n_heads; ++head) {
    for (std::int64_t half = 0; half < 2; ++half) {
      for (std::int64_t i = 0; i < head_dim / 2; ++i)
        order.push_back(head * head_dim + 2 * i + half);
    }
  }
  return order;
}

std::vector<std::int64_t> interleaved_from_halves(std::int64_t n_heads, std::int64_t head_dim) {
  std::vector<std::int64_t> order;
  order.reserve(static_cast<std::size_t>(n_heads * head_dim));
  for (std::int64_t head = 0; head < n_heads; ++head) {
    for (std::int64_t i = 0; i < head_dim / 2; ++i) {
      for (std::int64_t half = 0; half < 2; ++half) {
        order.push_back(head * head_dim + half * (head_dim / 2) + i);
      }
    }
  }
  return order;
}

Status permute_rows(QuantizedTensor& tensor, std::span<const std::int64_t> order) {
  if (static_cast<std::int64_t>(order.size()) != tensor.rows) {
    return Error(
        fmt::format("{} rows cannot be put into an order of {}", tensor.rows, order.size()));
  }
  if (tensor.scale && tensor.group_rows() != 1 && tensor.group_rows() < tensor.rows) {
    return Error(
        fmt::format("scheme {} shares scales between rows, so its rows cannot be reordered",
                    to_string(tensor.scheme)));
  }
  CodeArray permuted(tensor.codes.width(), tensor.codes.n_rows(), tensor.codes.n_per_row());
  for (std::int64_t row = 0; row < tensor.rows; ++row) {
    std::ranges::copy(std::as_const(tensor.codes).row(order[static_cast<std::size_t>(row)]),
                      permuted.row(row).begin());
  }
  tensor.codes = std::move(permuted);
  for (QuantizedTensor* plane : {tensor.scale.get(), tensor.zero.get()}) {
    if (plane == nullptr || plane->rows == 1) continue;
    if (Status status = permute_rows(*plane, order); !status) return status;
  }
  return ok();
}

Status ModelFile::read_folder() {
  const std::array files{
      std::pair{"config.json", &config_json_},
      std::pair{"tokenizer.json", &tokenizer_json_},
      std::pair{"tokenizer_config.json", &tokenizer_config_json_},
      std::pair{"generation_config.json", &generation_config_json_},
  };
  for (const auto& [name, target] : files) {
    auto parsed = read_json(*checkpoint_, name);
    if (!parsed) return std::move(parsed).error();
    *target = std::move(*parsed);
  }
  if (config_json_.empty()) {
    return Error(fmt::format("{} has no config.json; a model folder needs one", path_));
  }
  if (auto text = checkpoint_->side_file("chat_template.jinja"); text) {
    template_file_ = std::move(*text);
  }
  return ok();
}

Status ModelFile::name_tensors() {
  const bool is_gguf = checkpoint_->container() == "gguf";
  std::set<std::string, std::less<>> seen;
  for (std::size_t index = 0; index < checkpoint_->tensors().size(); ++index) {
    const TensorInfo& info = checkpoint_->tensors()[index];
    ModelTensor tensor{.name = info.name,
                       .stored_name = info.name,
                       .shape = info.shape,
                       .scheme = info.scheme,
                       .n_bytes = info.n_bytes,
                       .index = index,
                       .input = info.input};
    if (is_ignored(info.name) || (is_gguf && info.name == rope_divisors_name)) continue;
    auto canonical = is_gguf ? canonical_from_gguf(info.name) : std::optional(info.name);
    if (canonical && !gguf_from_canonical(*canonical)) canonical.reset();
    if (!canonical) {
      return Error(
          fmt::format("{}: tensor {} is not part of architecture {}; the model cannot be run",
                      path_, info.name, config_.arch->name));
    }
    tensor.name = *canonical;
    if (!seen.insert(tensor.name).second) {
      return Error(fmt::format("{}: tensor {} is there twice", path_, info.name));
    }
    if (is_gguf && config_.arch->gguf_permutes_qk) {
      tensor.permuted_heads = gguf_permuted_heads(config_, tensor.name);
      if (tensor.permuted_heads != 0 &&
          (tensor.shape.empty() || tensor.shape[0] != tensor.permuted_heads * config_.head_dim)) {
        return Error(fmt::format("{}: tensor {} has {} rows, expected {} heads of {}", path_,
                                 info.name, tensor.shape.empty() ? 0 : tensor.shape[0],
                                 tensor.permuted_heads, config_.head_dim));
      }
    }
    tensors_.push_back(std::move(tensor));
  }
  return ok();
}

Result<ModelFile> ModelFile::open(const std::string& path) {
  ModelFile model;
  model.path_ = path;
  while (model.path_.size() > 1 && model.path_.back() == '/') model.path_.pop_back();
  model.config_json_ = model.tokenizer_json_ = json::object();
  model.tokenizer_config_json_ = model.generation_config_json_ = json::object();
  std::error_code failure;
  const auto kind = std::filesystem::status(path, failure).type();
  if (kind == std::filesystem::file_type::not_found) {
    return Error(fmt::format("{} does not exist; give a .gguf file or a model folder", path));
  }
  if (kind == std::filesystem::file_type::directory) {
    auto checkpoint = open_safetensors(model.path_);
    if (!checkpoint) return std::move(checkpoint).error();
    model.checkpoint_ = std::move(*checkpoint);
    if (Status status = model.read_folder(); !status) return std::move(status).error();
    auto config = config_from_json(model.config_json_);
    if (!config) return std::move(config).error().in(path);
    model.config_ = std::move(*config);
  } else {
    auto checkpoint = open_gguf(model.path_);
    if (!checkpoint) return std::move(checkpoint).error();
    model.checkpoint_ = std::move(*checkpoint);
    auto config = config_from_gguf(model.checkpoint_->metadata());
    if (!config) return std::move(config).error().in(path);
    model.config_ = std::move(*config);
    if (Status status = model.read_rope_divisors(); !status) return std::move(status).error();
  }
  if (Status status = model.name_tensors(); !status) return std::move(status).error();
  const bool has_head = model.find("lm_head.weight") != nullptr;
  model.config_.tied_embeddings = !has_head;
  return model;
}

Status ModelFile::read_rope_divisors() {
  const std::span<const TensorInfo> tensors = checkpoint_->tensors();
  const auto found = std::ranges::find(tensors, rope_divisors_name, &TensorInfo::name);
  if (found == tensors.end()) return ok();
  auto tensor = checkpoint_->load(static_cast<std::size_t>(found - tensors.begin()), nullptr);
  if (!tensor) return std::move(tensor).error();
  config_.rope_divisors = decode(*tensor);
  if (Status status = check_config(config_); !status) return std::move(status).error().in(path_);
  return ok();
}

const ModelTensor* ModelFile::find(std::string_view name) const {
  const auto found = std::ranges::find(tensors_, name, &ModelTensor::name);
  return found == tensors_.end() ? nullptr : &*found;
}

Result<TokenizerData> ModelFile::tokenizer() const {
  auto data =
      checkpoint_->container() == "gguf"
          ? tokenizer_from_gguf(checkpoint_->metadata())
          : tokenizer_from_json(tokenizer_json_, &tokenizer_config_json_, &generation_config_json_);
  if (!data) return std::move(data).error().in(path_);
  return data;
}

std::string ModelFile::chat_template() const {
  if (checkpoint_->container() == "gguf") {
    const auto text = checkpoint_->metadata().string("tokenizer.chat_template");
    return text ? std::string(*text) : std::string();
  }
  if (!template_file_.empty()) return template_file_;
  const auto found = tokenizer_config_json_.find("chat_template");
  if (found == tokenizer_config_json_.end()) return {};
  if (found->is_string()) return found->get<std::string>();
  if (!found->is_array()) return {};
  for (const json& entry : *found) {
    if (entry.is_object() && entry.value("name", json()) == "default" &&
        entry.contains("template") && entry["template"].is_string()) {
      return entry["template"].get<std::string>();
    }
  }
  return {};
}

Result<QuantizedTensor> ModelFile::load(const ModelTensor& tensor, ThreadPool* pool) const {
  auto loaded = checkpoint_->load(tensor.index, pool);
  if (!loaded) return std::move(loaded).error().in(path_);
  if (tensor.permuted_heads != 0) {
    const auto order = halves_from_interleaved(tensor.permuted_heads, config_.head_dim);
    if (Status status = reorder_outputs(*loaded, order, tensor.is_matrix()); !status) {
      return std::move(status).error().in(tensor.stored_name);
    }
  }
  return loaded;
}

std::optional<RowSource> ModelFile::rows_of(const ModelTensor& tensor) const {
  Checkpoint::ReadRows read = checkpoint_->row_reader(tensor.index);
  if (!read || !tensor.is_matrix()) return std::nullopt;
  std::vector<std::int64_t> order(static_cast<std::size_t>(tensor.rows()));
  std::iota(order.begin(), order.end(), 0);
  if (tensor.permuted_heads != 0) {
    order = halves_from_interleaved(tensor.permuted_heads, config_.head_dim);
  }
  return RowSource{tensor.scheme, tensor.rows(), tensor.cols(),
                   [read = std::move(read), order = std::move(order)](
                       std::int64_t first, std::int64_t n_rows, QuantizedTensor& out) {
                     read(std::span(order).subspan(static_cast<std::size_t>(first),
                                                   static_cast<std::size_t>(n_rows)),
                          out);
                   }};
}

std::int64_t ModelFile::n_parameters() const {
  std::int64_t n = 0;
  for (const TensorInfo& tensor : checkpoint_->tensors()) n += tensor.n_numbers();
  return n;
}

double ModelFile::bits_per_weight() const {
  std::int64_t n_numbers = 0, n_bytes = 0;
  for (const ModelTensor& tensor : tensors_) {
    if (!tensor.is_matrix()) continue;
    n_numbers += tensor.rows() * tensor.cols();
    n_bytes += tensor.n_bytes;
  }
  constexpr double bits_per_byte = 8;
  return n_numbers == 0
             ? 0
             : bits_per_byte * static_cast<double>(n_bytes) / static_cast<double>(n_numbers);
}

const json& ModelFile::folder_json(std::string_view file) const {
  if (file == "config.json") return config_json_;
  if (file == "tokenizer.json") return tokenizer_json_;
  if (file == "tokenizer_config.json") return tokenizer_config_json_;
  return generation_config_json_;
}

}  // namespace lowbit
