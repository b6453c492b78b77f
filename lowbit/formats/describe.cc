// SPDX-License-Identifier: Apache-2.0
#include "lowbit/formats/describe.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "lowbit/formats/codes.h"

namespace lowbit {
namespace {

constexpr std::int64_t described_extent = 4096;  // rows and columns of the matrix that is described

constexpr std::string_view page_head =
    R"(# Codes and schemes

Printed by `lowbit formats --markdown`. A **code** says how bits become numbers. A **scheme** says
which code, what shares a scale, and what scales and zeros are: `w = scale * (v - zero)`, or
`w = scale * v + zero` where the zero is an offset in weight units. Scales and zeros are matrices in
schemes of their own: `uint6 per 8 under f16` is a 6-bit number times an f16 that 8 of them share.

Other schemes are spelled
`code[.gN|.blockN|.channel|.token|.tensor][.asym|.offset|.zero][.f16|.bf16|.f32|.e8m0]`: the group
(N along the row, N x N, the row of a weight, the row of a token, the tensor; without a word the
row), the zero (`asym` an integer zero point of the same code, `offset` a real number in weight
units, `zero` a real number in code units; without a word none), the numbers that scales are stored
as (without a word f16). Names do not matter, structure does: `q4_0` is `int4.g32`. Along a row the
last group may be short, except in GGUF, mx formats, nvfp4 and formats with two levels of scales.

)";

constexpr std::string_view codes_head =
    R"(## Codes

A unit of u means that every number is u times an int8, so products are exact integers.

| code | bits | numbers per code | least | largest | unit |
|---|---|---|---|---|---|
)";

constexpr std::string_view schemes_head =
    R"(
## Schemes

Bits per weight are those of the first container named; a container that needs others says so. Where
the share of the scales depends on the shape, it is that of a 4096 x 4096 matrix.

| scheme | code | group | scale | zero | bits per weight | containers |
|---|---|---|---|---|---|---|
)";

double bits_of(const Code& code) {
  return static_cast<double>(code.step) / code.dim;
}

std::string group_text(Group group) {
  if (group == Group{1, 0}) return "row";
  if (group == Group{0, 0}) return "tensor";
  if (group.rows == 1) return fmt::format("{}", group.cols);
  return fmt::format("{} x {}", group.rows, group.cols);
}

/// A matrix of scales or zeros: its code, and what its own numbers are scaled by.
std::string plane_text(const Scheme* plane) {
  if (plane == nullptr) return "-";
  if (plane->scale == nullptr) return std::string(plane->code->name);
  return fmt::format("{} per {} under {}", plane->code->name, group_text(plane->group),
                     plane_text(plane->scale));
}

std::string zero_text(const Scheme& scheme) {
  if (scheme.zero == nullptr) return "-";
  return plane_text(scheme.zero) + (scheme.zero_unit == ZeroUnit::weight ? ", offset" : "");
}

CodeFacts describe(const Code& code) {
  CodeFacts facts{std::string(code.name), bits_of(code), code.dim, 0, 0, int8_unit(code)};
  if (code.formula != nullptr) {  // the largest finite number is the code before infinity
    const std::uint32_t infinity = code.encoder(std::numeric_limits<float>::infinity());
    code.look_up(infinity - 1, &facts.largest);
    facts.least = -facts.largest;
    return facts;
  }
  bool first = true;
  for (const float value : code.values) {
    if (!std::isfinite(value)) continue;
    facts.least = first ? value : std::min(facts.least, value);
    facts.largest = first ? value : std::max(facts.largest, value);
    first = false;
  }
  if (code.signs != 0) facts.least = -facts.largest;
  return facts;
}

SchemeFacts describe(const Scheme& scheme, std::span<const Container> containers) {
  SchemeFacts facts{std::string(scheme.name),
                    std::string(scheme.code->name),
                    scheme.scale != nullptr ? group_text(scheme.group) : "-",
                    plane_text(scheme.scale),
                    zero_text(scheme),
                    planar_bits_per_weight(scheme, described_extent, described_extent),
                    ""};
  for (const Container& container : containers) {
    const std::optional<double> bits = container.bits_per_weight(scheme);
    if (!bits) continue;
    if (facts.containers.empty()) {
      facts.bits_per_weight = *bits;
      facts.containers = container.name;
    } else {
      facts.containers += fmt::format(", {}", container.name);
      // As printed: equal to six digits is equal.
      const std::string text = fmt::format("{:.6g}", *bits);
      if (text != fmt::format("{:.6g}", facts.bits_per_weight)) facts.containers += " " + text;
    }
  }
  return facts;
}

}  // namespace

std::vector<CodeFacts> describe_codes() {
  std::vector<CodeFacts> facts;
  for (const Code& code : codes::list) facts.push_back(describe(code));
  return facts;
}

std::vector<SchemeFacts> describe_schemes(std::span<const Container> containers) {
  std::vector<SchemeFacts> facts;
  for (const Scheme& scheme : named_schemes()) facts.push_back(describe(scheme, containers));
  return facts;
}

std::string formats_markdown(std::span<const Container> containers) {
  std::string page(page_head);
  page += codes_head;
  for (const CodeFacts& code : describe_codes()) {
    page += fmt::format("| {} | {:g} | {} | {:g} | {:g} | {} |\n", code.name, code.bits, code.dim,
                        code.least, code.largest,
                        code.unit != 0 ? fmt::format("{:g}", code.unit) : "-");
  }
  page += schemes_head;
  for (const SchemeFacts& scheme : describe_schemes(containers)) {
    page += fmt::format("| {} | {} | {} | {} | {} | {:.6g} | {} |\n", scheme.name, scheme.code,
                        scheme.group, scheme.scale, scheme.zero, scheme.bits_per_weight,
                        scheme.containers);
  }
  return page;
}

}  // namespace lowbit
