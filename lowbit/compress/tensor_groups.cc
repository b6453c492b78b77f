// SPDX-License-Identifier: Apache-2.0
#include "lowbit/compress/tensor_groups.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>
#include <string_view>

namespace lowbit {
namespace {

struct Fused {
  std::string_view word;
  std::array<std::string_view, 3> ends;  // of canonical names; empty: no more
};
constexpr std::array fused{
    Fused{"q k v",
          {".self_attn.q_proj.weight", ".self_attn.k_proj.weight", ".self_attn.v_proj.weight"}},
    Fused{"gate up", {".mlp.gate_proj.weight", ".mlp.up_proj.weight", ""}},
};

std::string without(std::string_view name, std::string_view prefix) {
  return std::string(name.starts_with(prefix) ? name.substr(prefix.size()) : name);
}

std::string group_of(std::string_view name) {
  for (const Fused& each : fused) {
    for (const std::string_view end : each.ends) {
      if (end.empty() || !name.ends_with(end)) continue;
      return fmt::format("{} {}", without(name.substr(0, name.size() - end.size()), "model."),
                         each.word);
    }
  }
  return std::string(name);
}

}  // namespace

std::int64_t TensorGroup::n_weights() const {
  std::int64_t total = 0;
  for (const ModelTensor* tensor : tensors) total += tensor->rows() * tensor->cols();
  return total;
}

std::vector<TensorGroup> tensor_groups(const ModelFile& model) {
  std::vector<TensorGroup> groups;
  std::map<std::string, std::size_t> places;
  for (const ModelTensor& tensor : model.tensors()) {
    if (!tensor.is_matrix()) continue;
    const std::string name = group_of(tensor.name);
    const auto [place, is_new] = places.try_emplace(name, groups.size());
    if (is_new) groups.push_back({name, {}});
    groups[place->second].tensors.push_back(&tensor);
  }
  return groups;
}

}  // namespace lowbit
