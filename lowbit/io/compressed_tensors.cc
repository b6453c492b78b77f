// SPDX-License-Identifier: Apache-2.0
#include "lowbit/io/compressed_tensors.h"

#include <fmt/format.h>

#include <array>
#include <cstring>

#include "lowbit/base/byte_reader.h"
#include "lowbit/formats/codes.h"
#include "lowbit/io/safetensors_file.h"

namespace lowbit::compressed_tensors {
namespace {

constexpr std::array<std::string_view, 3> format_names{"pack-quantized", "int-quantized",
                                                       "float-quantized"};
constexpr std::int64_t word_bits = 32;
constexpr int byte_bits = 8;

struct ScaleDtype {
  std::string_view dtype;
  const Code* code;
};
constexpr std::array scale_dtypes{ScaleDtype{"F16", &codes::named("f16")},
                                  ScaleDtype{"BF16", &codes::named("bf16")},
                                  ScaleDtype{"F32", &codes::named("f32")}};

std::string_view dtype_of(const Code& code) {
  for (const ScaleDtype& row : scale_dtypes) {
    if (row.code == &code) return row.dtype;
  }
  return {};
}

bool is_float_code(const Code& code) {
  return &code == &codes::named("e4m3");
}
bool is_packable(const Code& code) {
  return &code == &codes::named("int2") || &code == &codes::named("int4") ||
         &code == &codes::named("int8");
}

std::string_view strategy_of(const Group& group) {
  if (group == Group{0, 0}) return "tensor";
  if (group == Group{1, 0}) return "channel";
  return group.rows == 1 ? "group" : "block";
}

Error no_words_for(const Scheme& scheme, std::string_view why) {
  return Error(fmt::format(
      "the compressed-tensors convention has no {}: {}; it holds int2, int4 and int8 as gN or "
      "channel, with or without asym, and e4m3 as tensor, channel or blockN, with scales in f16, "
      "bf16 or f32; choose one of them or leave out --convention",
      to_string(scheme), why));
}

std::int64_t n_groups(std::int64_t extent, int group) {
  return group == 0 ? 1 : (extent + group - 1) / group;
}

std::int64_t words_of(std::int64_t n_codes, int width) {
  return (n_codes * width + word_bits - 1) / word_bits;
}

/// Rows of codes, each padded to whole words.
std::vector<std::byte> packed_rows(const CodeArray& array) {
  const auto row_bytes =
      static_cast<std::size_t>(words_of(array.n_per_row(), array.width())) * sizeof(std::uint32_t);
  std::vector<std::byte> bytes(static_cast<std::size_t>(array.n_rows()) * row_bytes);
  for (std::int64_t r = 0; r < array.n_rows(); ++r) {
    const auto row = array.row(r);
    std::memcpy(bytes.data() + static_cast<std::size_t>(r) * row_bytes, row.data(), row.size());
  }
  return bytes;
}
void read_packed_rows(std::span<const std::byte> bytes, CodeArray& array) {
  const auto row_bytes =
      static_cast<std::size_t>(words_of(array.n_per_row(), array.width())) * sizeof(std::uint32_t);
  for (std::int64_t r = 0; r < array.n_rows(); ++r) {
    const auto row = array.row(r);
    std::memcpy(row.data(), bytes.data() + static_cast<std::size_t>(r) * row_bytes, row.size());
    const std::int64_t n_used = array.n_per_row() * array.width() % byte_bits;
    if (n_used != 0) row.back() &= static_cast<std::byte>((1 << n_used) - 1);
  }
}

CodeArray transposed(const CodeArray& array) {
  CodeArray turned(array.width(), array.n_per_row(), array.n_rows());
  for (std::int64_t r = 0; r < array.n_rows(); ++r) {
    for (std::int64_t c = 0; c < array.n_per_row(); ++c) turned.set(c, r, array.get(r, c));
  }
  return turned;
}

/// One byte per code. Integers are two's complement there and offset binary here.
std::uint32_t flip_of(const Code& code) {
  return is_float_code(code) ? 0 : 1u << (code.step - 1);
}
std::vector<std::byte> bytewise(const CodeArray& array, const Code& code) {
  std::vector<std::byte> bytes;
  bytes.reserve(static_cast<std::size_t>(array.n_rows() * array.n_per_row()));
  // Narrower integers are sign-extended.
  const auto centre = static_cast<std::int32_t>(flip_of(code));
  for (std::int64_t r = 0; r < array.n_rows(); ++r) {
    for (std::int64_t c = 0; c < array.n_per_row(); ++c) {
      bytes.push_back(static_cast<std::byte>(static_cast<std::int32_t>(array.get(r, c)) - centre));
    }
  }
  return bytes;
}
void read_bytewise(std::span<const std::byte> bytes, const Code& code, CodeArray& array) {
  const std::uint32_t mask = (1u << array.width()) - 1;
  std::size_t i = 0;
  for (std::int64_t r = 0; r < array.n_rows(); ++r) {
    for (std::int64_t c = 0; c < array.n_per_row(); ++c) {
      array.set(r, c, (std::to_integer<std::uint32_t>(bytes[i++]) + flip_of(code)) & mask);
    }
  }
}

std::int64_t integer_or(const Json& json, const char* key, std::int64_t otherwise) {
  const auto found = json.find(key);
  return found != json.end() && found->is_number_integer() ? found->get<std::int64_t>() : otherwise;
}
std::string text_or(const Json& json, const char* key, std::string otherwise) {
  const auto found = json.find(key);
  return found != json.end() && found->is_string() ? found->get<std::string>() : otherwise;
}

}  // namespace

std::string_view name_of(Format format) {
  return format_names[static_cast<std::size_t>(format)];
}
std::optional<Format> format_named(std::string_view name) {
  for (std::size_t i = 0; i < format_names.size(); ++i) {
    if (format_names[i] == name) return static_cast<Format>(i);
  }
  return std::nullopt;
}

Result<Format> format_of(const Scheme& scheme, bool has_activations) {
  const Code& code = *scheme.code;
  if (!is_float_code(code) && !is_packable(code)) {
    return no_words_for(scheme, fmt::format("its numbers are {}", code.name));
  }
  if (scheme.scale == nullptr || scheme.scale->scale != nullptr ||
      dtype_of(*scheme.scale->code).empty()) {
    return no_words_for(scheme, "its scales are neither f16, bf16 nor f32");
  }
  const std::string_view strategy = strategy_of(scheme.group);
  if (is_float_code(code)) {
    if (scheme.zero != nullptr || strategy == "group") {
      return no_words_for(scheme, "e4m3 stands without zeros and not in groups of a row");
    }
    return Format::float_quantized;
  }
  if (scheme.zero != nullptr &&
      (scheme.zero_unit != ZeroUnit::code || scheme.zero->code != scheme.code)) {
    return no_words_for(scheme, "its zeros are not integers of the same code");
  }
  if (strategy != "group" && strategy != "channel") {
    return no_words_for(scheme, fmt::format("integers have no scale per {}", strategy));
  }
  if (!has_activations) return Format::pack_quantized;
  if (code.step != byte_bits || strategy != "channel" || scheme.zero != nullptr) {
    return no_words_for(scheme, "beside 8-bit activations weights are int8.channel");
  }
  return Format::int_quantized;
}

Json weights_of(const Scheme& scheme) {
  const std::string_view strategy = strategy_of(scheme.group);
  Json json{{"num_bits", scheme.code->step},
            {"type", is_float_code(*scheme.code) ? "float" : "int"},
            {"symmetric", scheme.zero == nullptr},
            {"strategy", strategy},
            {"dynamic", false}};
  if (strategy == "group") json["group_size"] = scheme.group.cols;
  if (strategy == "block") json["block_structure"] = {scheme.group.rows, scheme.group.cols};
  return json;
}

Result<Scheme> scheme_of(const Json& weights, std::string_view scale_dtype) {
  const auto n_bits = integer_or(weights, "num_bits", byte_bits);
  const std::string type = text_or(weights, "type", "int");
  const std::int64_t group = integer_or(weights, "group_size", 0);
  std::string strategy = text_or(weights, "strategy", "");
  if (strategy.empty()) strategy = group > 0 ? "group" : group == 0 ? "tensor" : "channel";
  const auto symmetric = weights.find("symmetric");
  const bool has_zero = symmetric != weights.end() && symmetric->is_boolean() && !*symmetric;
  std::string text =
      type == "float" ? fmt::format("e{}m3", n_bits / 2) : fmt::format("int{}", n_bits);
  if (strategy == "group") {
    text += fmt::format(".g{}", group);
  } else if (strategy == "block") {
    const auto block = weights.find("block_structure");
    const bool is_pair = block != weights.end() && block->is_array() && block->size() == 2 &&
                         (*block)[0].is_number_integer() && (*block)[0] == (*block)[1];
    if (!is_pair) return Error("its blocks are not square, which lowbit has no scheme for");
    text += fmt::format(".block{}", (*block)[0].get<std::int64_t>());
  } else {
    text += "." + strategy;
  }
  if (has_zero) text += ".asym";
  for (const ScaleDtype& row : scale_dtypes) {
    const bool is_default = row.code == &codes::named("f16");
    if (row.dtype == scale_dtype && !is_default) text += fmt::format(".{}", row.code->name);
  }
  auto scheme = parse_scheme(text);
  if (!scheme) {
    return Error(
        fmt::format("weights of {} {} bits per {} are nothing that lowbit reads from this "
                    "convention",
                    n_bits, shown(type), shown(strategy)));
  }
  return scheme;
}

std::optional<Json> activations_of(const Scheme& scheme) {
  const bool is_int = scheme.code == &codes::named("int8");
  if ((!is_int && !is_float_code(*scheme.code)) || scheme.zero != nullptr ||
      strategy_of(scheme.group) != "channel") {
    return std::nullopt;
  }
  return Json{{"num_bits", byte_bits},
              {"type", is_int ? "int" : "float"},
              {"symmetric", true},
              {"strategy", "token"},
              {"dynamic", true}};
}

std::vector<Plane> planes_of(const Scheme& scheme, Format format, std::int64_t rows,
                             std::int64_t cols) {
  const bool is_packed = format == Format::pack_quantized;
  const int width = scheme.code->step;
  const std::int64_t scale_rows = n_groups(rows, scheme.group.rows),
                     scale_cols = n_groups(cols, scheme.group.cols);
  std::vector<Plane> planes;
  if (is_packed) {
    planes.push_back({".weight_packed", "I32", {rows, words_of(cols, width)}});
  } else {
    planes.push_back(
        {std::string(weight_suffix), is_float_code(*scheme.code) ? "F8_E4M3" : "I8", {rows, cols}});
  }
  Plane scale{
      ".weight_scale", std::string(dtype_of(*scheme.scale->code)), {scale_rows, scale_cols}};
  if (strategy_of(scheme.group) == "tensor") scale.shape = {1};
  planes.push_back(std::move(scale));
  if (scheme.zero != nullptr) {
    if (is_packed) {
      planes.push_back({".weight_zero_point", "I32", {words_of(scale_rows, width), scale_cols}});
    } else {
      planes.push_back({".weight_zero_point", "I8", {scale_rows, scale_cols}});
    }
  }
  if (is_packed) planes.push_back({".weight_shape", "I64", {2}});
  return planes;
}

std::int64_t Plane::n_bytes() const {
  std::int64_t n = *safetensors_dtype_bytes(dtype);
  for (const std::int64_t extent : shape) n *= extent;
  return n;
}

std::int64_t stored_bytes(const Scheme& scheme, std::int64_t rows, std::int64_t cols) {
  const auto format = format_of(scheme, /*has_activations=*/false);
  std::int64_t n_bytes = 0;
  if (!format) return n_bytes;
  for (const Plane& plane : planes_of(scheme, *format, rows, cols)) n_bytes += plane.n_bytes();
  return n_bytes;
}

std::vector<std::byte> bytes_of(const QuantizedTensor& tensor, Format format, std::size_t index) {
  const bool is_packed = format == Format::pack_quantized;
  const std::size_t n_arrays = tensor.zero ? 3 : 2;
  if (index == 0) {
    return is_packed ? packed_rows(tensor.codes) : bytewise(tensor.codes, *tensor.scheme.code);
  }
  if (index == 1) {
    std::vector<std::byte> bytes;
    for (std::int64_t r = 0; r < tensor.scale->codes.n_rows(); ++r) {
      const auto row = tensor.scale->codes.row(r);
      bytes.insert(bytes.end(), row.begin(), row.end());
    }
    return bytes;
  }
  if (index < n_arrays) {
    if (!is_packed) return bytewise(tensor.zero->codes, *tensor.zero->scheme.code);
    // Packed along the rows: row g of the turned array holds group g of all rows, and a word of it
    // goes to row w, column g.
    const std::vector<std::byte> turned = packed_rows(transposed(tensor.zero->codes));
    const std::int64_t n_cols = tensor.zero->codes.n_per_row();
    const std::int64_t n_words = words_of(tensor.zero->codes.n_rows(), tensor.zero->codes.width());
    std::vector<std::byte> bytes(turned.size());
    for (std::int64_t g = 0; g < n_cols; ++g) {
      for (std::int64_t word = 0; word < n_words; ++word) {
        std::memcpy(
            bytes.data() + static_cast<std::size_t>(word * n_cols + g) * sizeof(std::uint32_t),
            turned.data() + static_cast<std::size_t>(g * n_words + word) * sizeof(std::uint32_t),
            sizeof(std::uint32_t));
      }
    }
    return bytes;
  }
  const std::array<std::int64_t, 2> shape{tensor.rows, tensor.cols};
  std::vector<std::byte> bytes(sizeof shape);
  std::memcpy(bytes.data(), shape.data(), sizeof shape);
  return bytes;
}

void read_bytes(std::span<const std::byte> bytes, Format format, std::size_t index,
                QuantizedTensor& tensor) {
  const bool is_packed = format == Format::pack_quantized;
  const std::size_t n_arrays = tensor.zero ? 3 : 2;
  if (index == 0) {
    if (is_packed) return read_packed_rows(bytes, tensor.codes);
    return read_bytewise(bytes, *tensor.scheme.code, tensor.codes);
  }
  if (index == 1) {
    CodeArray& scale = tensor.scale->codes;
    for (std::int64_t r = 0; r < scale.n_rows(); ++r) {
      const auto row = scale.row(r);
      std::memcpy(row.data(), bytes.data() + static_cast<std::size_t>(r) * row.size(), row.size());
    }
    return;
  }
  if (index >= n_arrays) return;
  CodeArray& zero = tensor.zero->codes;
  if (!is_packed) return read_bytewise(bytes, *tensor.zero->scheme.code, zero);
  const std::int64_t n_cols = zero.n_per_row();
  const std::int64_t per_word = word_bits / zero.width();
  for (std::int64_t r = 0; r < zero.n_rows(); ++r) {
    for (std::int64_t g = 0; g < n_cols; ++g) {
      std::uint32_t word = 0;
      std::memcpy(&word,
                  bytes.data() + static_cast<std::size_t>(r / per_word * n_cols + g) * sizeof word,
                  sizeof word);
      zero.set(r, g, word >> (r % per_word * zero.width()) & ((1u << zero.width()) - 1));
    }
  }
}

}  // namespace lowbit::compressed_tensors
