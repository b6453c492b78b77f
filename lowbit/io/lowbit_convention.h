// SPDX-License-Identifier: Apache-2.0
// Our own safetensors convention, as docs/lowbit-safetensors.md describes it: what its reader and
// its writer share. A tensor in a plain float is an ordinary safetensors tensor; any other is one
// tensor per plane, NAME.codes, NAME.scale, NAME.zero, NAME.scale.scale, ..., and the scheme as
// JSON.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/formats/quantized_tensor.h"
#include "lowbit/io/json.h"

namespace lowbit::convention {

inline constexpr std::string_view quant_method = "lowbit";
/// The oldest that says all: 2 where a tensor has a basis, else 1. Both are read.
inline constexpr int first_version = 1, basis_version = 2;
/// Of the header's __metadata__: holds the text of description().
inline constexpr std::string_view metadata_key = "lowbit";
inline constexpr std::string_view model_file = "model.safetensors", config_file = "config.json";

/// One plane of a tensor as a safetensors tensor.
struct PlaneInfo {
  std::string suffix;  // ".codes", ".scale", ...; "" for a plain float
  std::string dtype;   // F32, F16, BF16 where the code is one, else U8 with rows of packed codes
  std::vector<std::int64_t> shape;
  std::int64_t n_bytes = 0, n_rows = 0, n_per_row = 0;
  int width = 0;
};
/// In the order of planes_of(). shape is that of the whole tensor.
std::vector<PlaneInfo> plane_infos(const Scheme& scheme, const std::vector<std::int64_t>& shape);

/// The table of a learned code as a plane of its own, NAME.table: int8, a row per code. Empty
/// (width 0) for other codes.
CodeArray table_plane(const Scheme& scheme);
/// The same back. Error: a number that no table holds.
Status set_table(const CodeArray& plane, Scheme& scheme);

/// The code arrays of a tensor: codes, scale and its planes, zero and its planes.
std::vector<CodeArray*> planes_of(QuantizedTensor& tensor);
std::vector<const CodeArray*> planes_of(const QuantizedTensor& tensor);

/// {"code": "int4", "group": [1, 128], "scale": {"code": "f16"}}
Json structure_of(const Scheme& scheme);

struct NamedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  Scheme scheme;
  Basis input = {};
};
/// {"quant_method", "version", "schemes": {SCHEME: structure}, "tensors": {NAME: {"scheme",
/// "shape", "input"}}}: all tensors that are not plain floats or have a basis.
Json description(const std::vector<NamedTensor>& tensors);
/// The same back. Errors: another version, an unknown scheme, a scheme whose structure is not what
/// its name means here, a basis that does not fit the shape.
Result<std::vector<NamedTensor>> read_description(const Json& json);

/// rows, cols of a shape: all but the innermost dimension together, and the innermost.
std::int64_t rows_of(const std::vector<std::int64_t>& shape);
std::int64_t cols_of(const std::vector<std::int64_t>& shape);

}  // namespace lowbit::convention
