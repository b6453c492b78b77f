// SPDX-License-Identifier: Apache-2.0
// What this build knows, as data and as the page docs/formats.md; all of it follows from the lists
// of codes and schemes. Containers are asked through a function, because they live in io, which
// this folder may not include.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/formats/scheme.h"

namespace lowbit {

/// A container and the bits per weight a scheme takes in it; nothing when it cannot hold the
/// scheme.
struct Container {
  std::string_view name;  // e.g. "gguf"
  std::function<std::optional<double>(const Scheme&)> bits_per_weight;
};

struct CodeFacts {
  std::string name;
  double bits = 0;  // per number
  int dim = 1;      // numbers of one code
  float least = 0, largest = 0;
  float unit = 0;  // int8_unit
};

struct SchemeFacts {
  std::string name, code, group, scale, zero;
  double bits_per_weight = 0;  // in the first container that holds it
  std::string containers;      // names; those whose bits per weight differ say theirs
};

std::vector<CodeFacts> describe_codes();
/// For matrices of 4096 x 4096 where the scales' share depends on the shape. A scheme that no
/// container holds is described in planar form.
std::vector<SchemeFacts> describe_schemes(std::span<const Container> containers);

/// docs/formats.md.
std::string formats_markdown(std::span<const Container> containers);

}  // namespace lowbit
