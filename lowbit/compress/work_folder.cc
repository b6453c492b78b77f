// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/work_folder.h"

#include <fmt/format.h>

#include <cerrno>
#include <filesystem>
#include <memory>

#include "lowbit/backend/pack_cache.h"
#include "lowbit/base/mapped_file.h"
#include "lowbit/base/text_file.h"
#include "lowbit/io/checkpoint.h"
#include "lowbit/io/checkpoint_writer.h"
#include "lowbit/io/json.h"

namespace lowbit {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view manifest_name = "manifest.json";
constexpr int manifest_version = 1;

bool is_ours(const std::string& name) {
  return name == manifest_name || name.starts_with(manifest_name) || name == "inputs" ||
         name.starts_with("hidden-") || name.starts_with("block-") || name.starts_with(".");
}

Result<std::string> hash_of(const std::string& path, ThreadPool& pool) {
  const auto file = MappedFile::open(path);
  if (!file) return Error(file.error());
  const MappedFile* const files[] = {&*file};
  const ContentHash hash = content_hash(files, pool);
  return fmt::format("{:016x}{:016x}", hash.high, hash.low);
}

}  // namespace

std::string WorkFolder::block_path(std::int64_t block) const {
  return fmt::format("{}/block-{:04}", folder_, block);
}

Result<WorkFolder> WorkFolder::open(const std::string& folder, const std::string& key,
                                    ThreadPool& pool) {
  WorkFolder work;
  work.folder_ = folder;
  work.key_ = key;
  std::error_code error;
  fs::create_directories(folder, error);
  if (error) return system_error("create the folder", folder, error.value());
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    if (!is_ours(entry.path().filename().string())) {
      return Error(fmt::format(
          "{} holds {}, which lowbit did not put there; remove the folder or choose another output",
          folder, entry.path().filename().string()));
    }
  }
  if (error) return system_error("read the folder", folder, error.value());
  if (Status read = work.read_manifest(pool); !read) work.start_anew();
  return work;
}

/// An error, whatever it says, means that nothing here can be taken up.
Status WorkFolder::read_manifest(ThreadPool& pool) {
  const auto text = read_text(fmt::format("{}/{}", folder_, manifest_name));
  if (!text) return Error(text.error());
  auto json = parse_json_object(*text);
  if (!json) return std::move(json).error();
  const auto string_at = [&](const Json& object, const char* name) {
    const auto at = object.find(name);
    return at != object.end() && at->is_string() ? at->get<std::string>() : std::string();
  };
  if (json->value("version", 0) != manifest_version || string_at(*json, "key") != key_) {
    return Error("of another run");
  }
  const auto finished = json->find("finished");
  const auto tensors = json->find("tensors"), notes = json->find("notes");
  if (finished == json->end() || !finished->is_number_integer() || tensors == json->end() ||
      !tensors->is_object() || notes == json->end() || !notes->is_array()) {
    return Error("damaged");
  }
  hidden_file_ = string_at(*json, "hidden");
  hidden_hash_ = string_at(*json, "hidden_hash");
  if (!hidden_file_.empty()) {
    const auto hash = hash_of(hidden_file_, pool);
    if (!hash || *hash != hidden_hash_) return Error("damaged");
  }
  for (const auto& [name, block] : tensors->items()) {
    if (!block.is_number_integer()) return Error("damaged");
    const auto index = block.get<std::int64_t>();
    const auto checkpoint = open_safetensors(block_path(index));
    if (!checkpoint || (*checkpoint)->index_of(name) < 0) return Error("damaged");
    blocks_[name] = index;
  }
  for (const Json& note : *notes) {
    if (note.is_array() && note.size() == 2 && note[0].is_string() && note[1].is_string()) {
      notes_.emplace_back(note[0].get<std::string>(), note[1].get<std::string>());
    }
  }
  n_finished_ = finished->get<std::int64_t>();
  return ok();
}

void WorkFolder::start_anew() {
  n_finished_ = 0;
  notes_.clear();
  blocks_.clear();
  hidden_file_.clear();
  hidden_hash_.clear();
  std::error_code error;
  fs::remove(fmt::format("{}/{}", folder_, manifest_name), error);  // before what it names
  std::vector<fs::path> old;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder_, error)) {
    if (is_ours(entry.path().filename().string())) old.push_back(entry.path());
  }
  for (const fs::path& path : old) fs::remove_all(path, error);
}

Status WorkFolder::write_manifest() const {
  Json tensors = Json::object(), notes = Json::array();
  for (const auto& [name, block] : blocks_) tensors[name] = block;
  for (const auto& [tensor, text] : notes_) notes.push_back(Json::array({tensor, text}));
  const Json json = {{"version", manifest_version}, {"key", key_},
                     {"finished", n_finished_},     {"hidden", hidden_file_},
                     {"hidden_hash", hidden_hash_}, {"notes", notes},
                     {"tensors", tensors}};
  return write_text(fmt::format("{}/{}", folder_, manifest_name), to_text(json, 2) + "\n");
}

Status WorkFolder::finish_block(const Tensors& tensors, const std::string& hidden_file,
                                std::vector<std::pair<std::string, std::string>> notes,
                                ThreadPool& pool) {
  if (!tensors.empty()) {
    std::vector<TensorDeclaration> declarations;
    for (const auto& [name, tensor] : tensors) {
      std::vector<std::int64_t> shape{tensor.cols};
      if (tensor.rows > 1) shape.insert(shape.begin(), tensor.rows);
      declarations.push_back({name, std::move(shape), tensor.scheme, tensor.input});
    }
    auto writer = create_lowbit_folder(block_path(n_finished_), "", {}, std::move(declarations));
    if (!writer) return std::move(writer).error();
    for (const auto& [name, tensor] : tensors) {
      if (Status added = (*writer)->add(tensor); !added) return std::move(added).error().in(name);
    }
    if (Status committed = (*writer)->commit(); !committed) return committed;
  }
  hidden_file_ = hidden_file;
  hidden_hash_.clear();
  if (!hidden_file.empty()) {
    auto hash = hash_of(hidden_file, pool);
    if (!hash) return std::move(hash).error();
    hidden_hash_ = *hash;
  }
  for (const auto& [name, tensor] : tensors) blocks_[name] = n_finished_;
  notes_.insert(notes_.end(), notes.begin(), notes.end());
  ++n_finished_;
  return write_manifest();
}

Result<QuantizedTensor> WorkFolder::load(std::string_view name, ThreadPool& pool) const {
  const auto checkpoint = open_safetensors(block_path(blocks_.find(name)->second));
  if (!checkpoint) return Error(checkpoint.error());
  const std::int64_t index = (*checkpoint)->index_of(name);
  if (index < 0) return Error(fmt::format("{} lost the tensor {}", folder_, name));
  return (*checkpoint)->load(static_cast<std::size_t>(index), &pool);
}

Status WorkFolder::remove() {
  std::error_code error;
  fs::remove_all(folder_, error);
  if (error) return system_error("remove the folder", folder_, error.value());
  return ok();
}

}  // namespace lowbit
