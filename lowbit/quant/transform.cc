// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/transform.h"

#include <algorithm>
#include <array>

namespace lowbit {
namespace {

constexpr std::array transforms{
    Transform{"hadamard", Needs::weights,
              "rotates what flows between matrices, so that no input sticks out"},
    Transform{"hadamard-folded", Needs::weights,
              "the rotations of hadamard that leave nothing to do at run time, for GGUF"},
    Transform{"smoothquant", Needs::activations,
              "moves the range of large inputs into the weights, for int8 activations"},
    Transform{"awq", Needs::activations,
              "searches scales of inputs that matter on the output they cause, then clips"},
};

}  // namespace

std::span<const Transform> transform_list() {
  return transforms;
}

const Transform* transform_named(std::string_view name) {
  const auto at = std::ranges::find(transforms, name, &Transform::name);
  return at == transforms.end() ? nullptr : &*at;
}

}  // namespace lowbit
