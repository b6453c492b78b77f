// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/sensitivity_cache.h"

#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <utility>

#include "lowbit/backend/pack_cache.h"
#include "lowbit/base/text_file.h"
#include "lowbit/io/json.h"

namespace lowbit {
namespace {

constexpr std::string_view format = "lowbit sensitivity 1";

/// FNV-1a over the ids of all windows.
std::uint64_t hash_of(const CalibrationWindows& windows) {
  constexpr std::uint64_t basis = 14695981039346656037U, prime = 1099511628211U;
  std::uint64_t hash = basis;
  const auto add = [&](std::uint64_t number) { hash = (hash ^ number) * prime; };
  for (const auto& window : windows) {
    add(window.size());
    for (const std::int32_t id : window) add(static_cast<std::uint32_t>(id));
  }
  return hash;
}

/// {"format": ..., "entries": {KEY: {GROUP: [LOSS or null, ...]}}}
Json read_cache(const std::string& path) {
  const auto text = read_text(path);
  auto parsed = parse_json_object(text ? *text : std::string());
  if (parsed && parsed->contains("format") && (*parsed)["format"] == format &&
      parsed->contains("entries") && (*parsed)["entries"].is_object()) {
    return *std::move(parsed);
  }
  return {{"format", format}, {"entries", Json::object()}};
}

/// The part of a key that other targets of the same model share.
std::string_view model_part(std::string_view key) {
  return key.substr(0, key.find(' '));
}

}  // namespace

std::string sensitivity_cache_path(const ModelFile& file) {
  std::string path = file.path();
  while (path.size() > 1 && path.ends_with('/')) path.pop_back();
  return path + ".sensitivity.json";
}

std::string sensitivity_key(const ModelFile& file, const SensitivityOptions& options,
                            ThreadPool& pool) {
  const ContentHash hash = content_hash(file.checkpoint().files(), pool);
  std::string key = fmt::format("{}-{:016x}{:016x} {} text {:016x}", LOWBIT_VERSION, hash.high,
                                hash.low, name_of(options.estimator), hash_of(options.windows));
  for (const Scheme& scheme : options.candidates) key += fmt::format(" {}", to_string(scheme));
  return key;
}

std::optional<std::vector<GroupSensitivity>> cached_sensitivity(const ModelFile& file,
                                                                const std::string& key,
                                                                std::size_t n_candidates) {
  const Json cache = read_cache(sensitivity_cache_path(file));
  const auto entry = cache["entries"].find(key);
  if (entry == cache["entries"].end() || !entry->is_object()) return std::nullopt;
  std::vector<GroupSensitivity> sensitivities;
  for (TensorGroup& group : tensor_groups(file)) {
    const auto losses = entry->find(group.name);
    if (losses == entry->end() || !losses->is_array() || losses->size() != n_candidates)
      return std::nullopt;
    GroupSensitivity& kept = sensitivities.emplace_back();
    kept.group = std::move(group);
    for (const Json& loss : *losses) {
      if (!loss.is_null() && !loss.is_number()) return std::nullopt;
      kept.losses.push_back(loss.is_null() ? std::numeric_limits<double>::infinity()
                                           : loss.get<double>());
      if (!(kept.losses.back() >= 0)) return std::nullopt;
    }
  }
  return sensitivities;
}

Status keep_sensitivity(const ModelFile& file, const std::string& key,
                        const std::vector<GroupSensitivity>& sensitivities) {
  const std::string path = sensitivity_cache_path(file);
  const Json old = read_cache(path);
  Json cache = {{"format", format}, {"entries", Json::object()}};
  for (const auto& [old_key, entry] : old["entries"].items()) {
    if (model_part(old_key) == model_part(key)) cache["entries"][old_key] = entry;
  }
  Json groups = Json::object();
  for (const GroupSensitivity& each : sensitivities) {
    Json losses = Json::array();
    for (const double loss : each.losses)
      losses.push_back(std::isfinite(loss) ? Json(loss) : Json(nullptr));
    groups[each.group.name] = std::move(losses);
  }
  cache["entries"][key] = std::move(groups);
  return write_text(path, to_text(cache, /*indent=*/0) + "\n");
}

}  // namespace lowbit
