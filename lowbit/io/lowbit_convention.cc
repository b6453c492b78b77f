// SPDX-License-Identifier: Apache-2.0
#include "lowbit/io/lowbit_convention.h"

#include <fmt/format.h>

#include <limits>
#include <utility>

#include "lowbit/base/byte_reader.h"
#include "lowbit/base/checked.h"
#include "lowbit/formats/codes.h"
#include "lowbit/formats/learned_code.h"
#include "lowbit/io/checkpoint_writer.h"

namespace lowbit::convention {
namespace {

constexpr int table_width = 8;

/// The dtype of codes that are floats of safetensors; empty for all others.
std::string_view dtype_of(const Code& code) {
  constexpr std::pair<const Code*, std::string_view> floats[] = {{&codes::named("f32"), "F32"},
                                                                 {&codes::named("f16"), "F16"},
                                                                 {&codes::named("bf16"), "BF16"}};
  for (const auto& [same, dtype] : floats) {
    if (&code == same) return dtype;
  }
  return {};
}

std::int64_t groups(std::int64_t extent, int group) {
  return group == 0 ? 1 : (extent + group - 1) / group;
}

void append_planes(const Scheme& scheme, std::int64_t rows, std::int64_t cols,
                   const std::string& path, std::vector<PlaneInfo>& out) {
  PlaneInfo info;
  info.suffix = path;
  info.dtype = dtype_of(*scheme.code);
  info.width = scheme.code->step;
  info.n_rows = rows;
  info.n_per_row = cols / scheme.code->dim;
  const std::int64_t row_bytes = (info.n_per_row * info.width + 7) / 8;
  info.n_bytes = rows * row_bytes;
  info.shape = {rows, info.dtype.empty() ? row_bytes : cols};
  if (info.dtype.empty()) info.dtype = "U8";
  out.push_back(std::move(info));
  const std::int64_t group_rows = groups(rows, scheme.group.rows);
  const std::int64_t group_cols = groups(cols, scheme.group.cols);
  const std::string parent = path == ".codes" ? "" : path;
  if (scheme.scale) append_planes(*scheme.scale, group_rows, group_cols, parent + ".scale", out);
  if (scheme.zero) append_planes(*scheme.zero, group_rows, group_cols, parent + ".zero", out);
}

template <class Tensor, class Array>
void append_arrays(Tensor& tensor, std::vector<Array*>& out) {
  out.push_back(&tensor.codes);
  if (tensor.scale) append_arrays<Tensor>(*tensor.scale, out);
  if (tensor.zero) append_arrays<Tensor>(*tensor.zero, out);
}

constexpr std::string_view hadamard_key = "hadamard";

Error broken(std::string_view where);

/// Whatever else stands in a basis would change the numbers, so it is refused.
Result<Basis> read_basis(const Json& json, std::int64_t n_inputs) {
  Basis basis;
  if (!json.is_object() || json.size() != 1 || !json.contains(hadamard_key) ||
      !json[hadamard_key].is_number_integer()) {
    return broken("input");
  }
  basis.hadamard = json[hadamard_key].get<std::int64_t>();
  if (basis.hadamard < 1) return broken("hadamard");
  if (Status status = check_basis(basis, n_inputs); !status) return std::move(status).error();
  return basis;
}

Error broken(std::string_view where) {
  return Error(
      fmt::format("the description of the lowbit convention is broken at {}; the file is "
                  "damaged, get it again",
                  shown(where)));
}

}  // namespace

std::int64_t rows_of(const std::vector<std::int64_t>& shape) {
  std::int64_t rows = 1;
  for (std::size_t d = 0; d + 1 < shape.size(); ++d) rows *= shape[d];
  return rows;
}
std::int64_t cols_of(const std::vector<std::int64_t>& shape) {
  return shape.empty() ? 1 : shape.back();
}

std::vector<PlaneInfo> plane_infos(const Scheme& scheme, const std::vector<std::int64_t>& shape) {
  std::vector<PlaneInfo> infos;
  const bool plain = is_plain_float(scheme);
  append_planes(scheme, rows_of(shape), cols_of(shape), plain ? "" : ".codes", infos);
  if (plain) infos[0].shape = shape;
  if (scheme.code->is_learned) {
    PlaneInfo table{.suffix = ".table", .dtype = "I8", .shape = {}, .width = table_width};
    table.n_per_row = scheme.code->dim;
    table.n_rows = static_cast<std::int64_t>(scheme.code->values.size()) / table.n_per_row;
    table.n_bytes = table.n_rows * table.n_per_row;
    table.shape = {table.n_rows, table.n_per_row};
    infos.push_back(std::move(table));
  }
  return infos;
}

CodeArray table_plane(const Scheme& scheme) {
  const Code& code = *scheme.code;
  if (!code.is_learned) return {};
  const auto n_rows = static_cast<std::int64_t>(code.values.size()) / code.dim;
  CodeArray plane(table_width, n_rows, code.dim);
  for (std::int64_t i = 0; i < n_rows * code.dim; ++i) {
    const auto value = static_cast<std::int8_t>(code.values[static_cast<std::size_t>(i)]);
    plane.set(i / code.dim, i % code.dim, static_cast<std::uint8_t>(value));
  }
  return plane;
}

Status set_table(const CodeArray& plane, Scheme& scheme) {
  std::vector<float> values;
  for (std::int64_t r = 0; r < plane.n_rows(); ++r) {
    for (std::int64_t i = 0; i < plane.n_per_row(); ++i) {
      const auto value = static_cast<std::int8_t>(plane.get(r, i));
      if (value == std::numeric_limits<std::int8_t>::min()) {
        return Error("holds -128 in its table, which goes from -127 to 127");
      }
      values.push_back(static_cast<float>(value));
    }
  }
  scheme.code = LearnedCode::make(*scheme.code, values);
  return ok();
}

std::vector<CodeArray*> planes_of(QuantizedTensor& tensor) {
  std::vector<CodeArray*> arrays;
  append_arrays(tensor, arrays);
  return arrays;
}
std::vector<const CodeArray*> planes_of(const QuantizedTensor& tensor) {
  std::vector<const CodeArray*> arrays;
  append_arrays(tensor, arrays);
  return arrays;
}

Json structure_of(const Scheme& scheme) {
  Json json{{"code", scheme.code->name}};
  if (scheme.scale != nullptr || scheme.zero != nullptr) {
    json["group"] = {scheme.group.rows, scheme.group.cols};
  }
  if (scheme.scale != nullptr) json["scale"] = structure_of(*scheme.scale);
  if (scheme.zero != nullptr) {
    json["zero"] = structure_of(*scheme.zero);
    json["zero_unit"] = scheme.zero_unit == ZeroUnit::weight ? "weight" : "code";
  }
  return json;
}

Json description(const std::vector<NamedTensor>& tensors) {
  Json json{{"quant_method", quant_method},
            {"version", first_version},
            {"schemes", Json::object()},
            {"tensors", Json::object()}};
  for (const NamedTensor& tensor : tensors) {
    if (is_plain_float(tensor.scheme) && tensor.input.is_plain()) continue;
    const std::string scheme = to_string(tensor.scheme);
    json["schemes"][scheme] = structure_of(tensor.scheme);
    json["tensors"][tensor.name] = {{"scheme", scheme}, {"shape", tensor.shape}};
    if (tensor.input.is_plain()) continue;
    json["version"] = basis_version;
    json["tensors"][tensor.name]["input"] = {{hadamard_key, tensor.input.hadamard}};
  }
  return json;
}

Result<std::vector<NamedTensor>> read_description(const Json& json) {
  if (!json.is_object()) return broken("its start");
  const auto stated = json.find("version");
  if (stated == json.end() || !stated->is_number_integer()) return broken("version");
  const auto stated_version = stated->get<std::int64_t>();
  if (stated_version < first_version || stated_version > basis_version) {
    return Error(
        fmt::format("it is in version {} of the lowbit convention, this lowbit reads {} and {}; "
                    "use the lowbit that wrote it, or a newer one",
                    stated_version, first_version, basis_version));
  }
  const auto schemes = json.find("schemes"), listed = json.find("tensors");
  if (schemes == json.end() || !schemes->is_object()) return broken("schemes");
  if (listed == json.end() || !listed->is_object()) return broken("tensors");
  for (const auto& [text, structure] : schemes->items()) {
    auto scheme = parse_scheme(text);
    if (!scheme) return std::move(scheme).error();
    // Order of the keys does not matter: compared as unordered objects.
    if (nlohmann::json(structure) != nlohmann::json(structure_of(*scheme))) {
      return Error(
          fmt::format("the scheme {} has another structure in this file than in this "
                      "lowbit; use the lowbit that wrote it, or a newer one",
                      shown(text)));
    }
  }
  std::vector<NamedTensor> tensors;
  for (const auto& [name, entry] : listed->items()) {
    if (!entry.is_object() || !entry.contains("scheme") || !entry["scheme"].is_string() ||
        !entry.contains("shape") || !entry["shape"].is_array() || entry["shape"].empty()) {
      return broken(name);
    }
    const auto text = entry["scheme"].get<std::string>();
    if (!schemes->contains(text)) return broken(name);
    auto scheme = parse_scheme(text);
    if (!scheme) return std::move(scheme).error().in(shown(name));
    NamedTensor tensor{name, {}, *scheme};
    std::optional<std::int64_t> n_numbers = 1;
    for (const Json& extent : entry["shape"]) {
      const std::int64_t value = extent.is_number_integer() ? extent.get<std::int64_t>() : 0;
      n_numbers = n_numbers && value > 0 ? checked_mul(*n_numbers, value) : std::nullopt;
      tensor.shape.push_back(value);
    }
    // The widest code is 32 bits: what is small in bits is small in bytes of every plane.
    constexpr std::int64_t max_bits = 32;
    if (!n_numbers || !checked_mul(*n_numbers, max_bits)) return broken(name);
    if (const auto input = entry.find("input"); input != entry.end()) {
      auto basis = read_basis(*input, cols_of(tensor.shape));
      if (!basis) return std::move(basis).error().in("tensor " + shown(name));
      tensor.input = *basis;
    }
    auto fits = fits_lowbit(tensor.scheme, tensor.shape);
    if (!fits) return std::move(fits).error().in("tensor " + shown(name));
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

}  // namespace lowbit::convention
