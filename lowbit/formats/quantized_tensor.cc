// SPDX-License-Identifier: Apache-2.0
// The planar form. Everything works on rows: a row of codes is unpacked at once (no call per
// number), looked up, and its groups are scaled; scales and zeros are decoded first, by the same
// function.
#include "lowbit/formats/quantized_tensor.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <optional>

#include "lowbit/base/assert.h"
#include "lowbit/base/spread.h"
#include "lowbit/formats/code_search.h"
#include "lowbit/formats/codes.h"

namespace lowbit {
namespace {

constexpr int byte_bits = 8;
constexpr int window_bytes = 8;  // one unaligned load; holds any code of 32 bits at any bit

std::uint64_t load_window(const std::byte* bytes) {
  static_assert(std::endian::native == std::endian::little);
  std::uint64_t window = 0;
  std::memcpy(&window, bytes, window_bytes);
  return window;
}

std::uint64_t mask_of(int width) {
  return (std::uint64_t{1} << width) - 1;
}

/// Codes of a width that divides 8, whole bytes only. out: (n_bytes * (8 / kWidth))
template <int kWidth, class T>
void unpack_bytes(const std::byte* bytes, std::size_t n_bytes, T* out) {
  constexpr int per_byte = byte_bits / kWidth;
  constexpr unsigned mask = (1u << kWidth) - 1;
  for (std::size_t i = 0; i < n_bytes; ++i) {
    const unsigned byte = std::to_integer<unsigned>(bytes[i]);
    for (int k = 0; k < per_byte; ++k) {
      out[i * per_byte + static_cast<unsigned>(k)] = static_cast<T>(byte >> (k * kWidth) & mask);
    }
  }
}

/// Codes of kWidth bits, 8 at a time: they start at byte borders and fill kWidth bytes.
template <int kWidth, class T>
void unpack_eights(const std::byte* bytes, std::size_t n_eights, T* out) {
  constexpr std::uint64_t mask = (1u << kWidth) - 1;
  for (std::size_t i = 0; i < n_eights; ++i, bytes += kWidth, out += byte_bits) {
    const std::uint64_t window = load_window(bytes);
    if constexpr (sizeof(T) == 1) {
      const std::uint64_t codes = spread<kWidth>(window);
      std::memcpy(out, &codes, sizeof codes);
      continue;
    }
    for (int k = 0; k < byte_bits; ++k) out[k] = static_cast<T>(window >> (k * kWidth) & mask);
  }
}

/// Whole elements of the width of the code: int8, f16, f32.
template <class Stored, class T>
void unpack_elements(const std::byte* bytes, std::size_t n, T* out) {
  for (std::size_t i = 0; i < n; ++i) {
    Stored element;
    std::memcpy(&element, bytes + i * sizeof(Stored), sizeof(Stored));
    out[i] = static_cast<T>(element);
  }
}

template <class Stored, class T>
void pack_elements(const T* codes, std::size_t n, std::byte* bytes) {
  for (std::size_t i = 0; i < n; ++i) {
    const auto element = static_cast<Stored>(codes[i]);
    std::memcpy(bytes + i * sizeof(Stored), &element, sizeof(Stored));
  }
}

/// Unpacks the middle of a row that starts and ends at byte borders; says how many codes it did.
template <class T>
std::size_t unpack_aligned(int width, const std::byte* bytes, std::size_t n, T* out) {
  const std::size_t n_eights = n / byte_bits;
  const std::size_t n_bytes = n_eights * static_cast<unsigned>(width);
  switch (width) {
    case 1:
      unpack_eights<1>(bytes, n_eights, out);
      break;
    case 2:
      unpack_eights<2>(bytes, n_eights, out);
      break;
    case 3:
      unpack_eights<3>(bytes, n_eights, out);
      break;
    case 4:
      unpack_bytes<4>(bytes, n_bytes, out);
      break;
    case 5:
      unpack_eights<5>(bytes, n_eights, out);
      break;
    case 6:
      unpack_eights<6>(bytes, n_eights, out);
      break;
    case 7:
      unpack_eights<7>(bytes, n_eights, out);
      break;
    case 8:
      unpack_elements<std::uint8_t>(bytes, n, out);
      return n;
    case 16:
      unpack_elements<std::uint16_t>(bytes, n, out);
      return n;
    case 32:
      unpack_elements<std::uint32_t>(bytes, n, out);
      return n;
    default:
      for (std::size_t i = 0; i < n; ++i) {
        const std::size_t bit = i * static_cast<unsigned>(width);
        const std::uint64_t window = load_window(bytes + bit / byte_bits);
        out[i] = static_cast<T>(window >> bit % byte_bits & mask_of(width));
      }
      return n;
  }
  return n_eights * byte_bits;
}

template <class T>
std::size_t pack_aligned(int width, const T* codes, std::size_t n, std::byte* bytes) {
  switch (width) {
    case 8:
      pack_elements<std::uint8_t>(codes, n, bytes);
      return n;
    case 16:
      pack_elements<std::uint16_t>(codes, n, bytes);
      return n;
    case 32:
      pack_elements<std::uint32_t>(codes, n, bytes);
      return n;
    default:
      break;
  }
  if (width > byte_bits) return 0;
  const std::size_t n_eights = n / byte_bits;
  const std::uint64_t mask = mask_of(width);
  for (std::size_t i = 0; i < n_eights; ++i) {
    std::uint64_t window = 0;
    for (int k = 0; k < byte_bits; ++k) {
      window |= (codes[i * byte_bits + static_cast<unsigned>(k)] & mask) << (k * width);
    }
    std::memcpy(bytes + i * static_cast<unsigned>(width), &window, static_cast<unsigned>(width));
  }
  return n_eights * byte_bits;
}

/// Codes before `first` up to the next byte border of the row.
std::size_t codes_to_border(int width, std::int64_t first, std::size_t n) {
  std::size_t head = 0;
  while (head < n && (first + static_cast<std::int64_t>(head)) * width % byte_bits != 0) ++head;
  return head;
}

/// The numbers of plain codes and tables of one number per code. out: (codes.size())
void look_up_codes(const Code& code, std::span<const std::uint32_t> codes, float* out) {
  if (code.formula == codes::f16_value) {
    for (std::size_t i = 0; i < codes.size(); ++i) {
      out[i] = half_to_float(static_cast<std::uint16_t>(codes[i]));
    }
  } else if (code.formula == codes::bf16_value) {
    for (std::size_t i = 0; i < codes.size(); ++i) out[i] = std::bit_cast<float>(codes[i] << 16);
  } else if (code.formula == codes::f32_value) {
    std::memcpy(out, codes.data(), codes.size_bytes());
  } else if (code.formula == nullptr && code.dim == 1) {
    for (std::size_t i = 0; i < codes.size(); ++i) out[i] = code.values[codes[i]];
  } else {
    for (std::size_t i = 0; i < codes.size(); ++i) {
      code.look_up(codes[i], out + i * static_cast<unsigned>(code.dim));
    }
  }
}

constexpr std::size_t chunk_codes = 512;  // unpacked at once: 2 KiB on the stack

/// The numbers of one row of codes alone. out: (cols)
void look_up_row(const QuantizedTensor& tensor, std::int64_t row, float* out) {
  const Code& code = *tensor.scheme.code;
  std::uint32_t chunk[chunk_codes];
  const std::int64_t n = tensor.codes.n_per_row();
  for (std::int64_t first = 0; first < n; first += chunk_codes) {
    const auto n_chunk = std::min(chunk_codes, static_cast<std::size_t>(n - first));
    const std::span codes(chunk, n_chunk);
    tensor.codes.unpack(row, first, codes);
    look_up_codes(code, codes, out + first * code.dim);
  }
}

std::int64_t groups(std::int64_t extent, std::int64_t group) {
  return (extent + group - 1) / group;
}

/// The scales (or zeros) that rows [first_row, first_row + n_rows) of `tensor` need; empty when
/// there is no such plane.
struct GroupNumbers {
  std::vector<float> numbers;
  std::int64_t first = 0, group_rows = 1, n_across = 1;

  GroupNumbers(const QuantizedTensor& tensor, const QuantizedTensor* plane, std::int64_t first_row,
               std::int64_t n_rows) {
    if (plane == nullptr || n_rows == 0) return;
    group_rows = tensor.group_rows();
    n_across = plane->cols;
    first = first_row / group_rows;
    const std::int64_t n = (first_row + n_rows - 1) / group_rows + 1 - first;
    numbers.resize(static_cast<std::size_t>(n * n_across));
    decode_rows(*plane, first, n, numbers);
  }
  /// The numbers of one row of the tensor: (n_across), or null.
  const float* row(std::int64_t row) const {
    if (numbers.empty()) return nullptr;
    return numbers.data() + (row / group_rows - first) * n_across;
  }
};

/// w = scale * (v - zero) or scale * v + zero over one group, in place; every operation rounds.
void scale_group(std::span<float> w, float scale, const float* zero, ZeroUnit unit) {
  if (zero == nullptr) {
    for (float& number : w) number = scale * number;
  } else if (unit == ZeroUnit::code) {
    for (float& number : w) number = scale * (number - *zero);
  } else {
    for (float& number : w) number = scale * number + *zero;
  }
}

/// The inverse: what a code should mean, before rounding. out: (w.size())
void unscale_group(std::span<const float> w, float scale, const float* zero, ZeroUnit unit,
                   float* out) {
  const float offset = zero != nullptr && unit == ZeroUnit::weight ? *zero : 0.0f;
  const float center = zero != nullptr && unit == ZeroUnit::code ? *zero : 0.0f;
  if (scale == 0) {
    std::fill_n(out, w.size(), center);
    return;
  }
  if (zero == nullptr) {  // keeps the sign of -0
    for (std::size_t i = 0; i < w.size(); ++i) out[i] = w[i] / scale;
  } else {
    for (std::size_t i = 0; i < w.size(); ++i) out[i] = (w[i] - offset) / scale + center;
  }
}

}  // namespace

CodeArray::CodeArray(int width, std::int64_t n_rows, std::int64_t n_per_row)
    : width_(width),
      n_rows_(n_rows),
      n_per_row_(n_per_row),
      row_bytes_((n_per_row * width + byte_bits - 1) / byte_bits),
      bytes_(static_cast<std::size_t>(n_rows * row_bytes_ + window_bytes)) {
  LOWBIT_ASSERT(width >= 1 && width <= 32 && n_rows >= 0 && n_per_row >= 0);
}

std::uint32_t CodeArray::get(std::int64_t row, std::int64_t i) const {
  LOWBIT_ASSERT(row >= 0 && row < n_rows_ && i >= 0 && i < n_per_row_);
  const std::int64_t bit = i * width_;
  const std::byte* at = bytes_.data() + row * row_bytes_ + bit / byte_bits;
  return static_cast<std::uint32_t>(load_window(at) >> (bit % byte_bits) & mask_of(width_));
}

void CodeArray::set(std::int64_t row, std::int64_t i, std::uint32_t code) {
  LOWBIT_ASSERT(row >= 0 && row < n_rows_ && i >= 0 && i < n_per_row_);
  const std::int64_t bit = i * width_;
  const int shift = static_cast<int>(bit % byte_bits);
  const std::uint64_t mask = mask_of(width_) << shift;
  const std::uint64_t bits = static_cast<std::uint64_t>(code) << shift & mask;
  // Only the bytes of this code: another thread may be writing the next row.
  std::byte* at = bytes_.data() + row * row_bytes_ + bit / byte_bits;
  for (int k = 0; k * byte_bits < shift + width_; ++k) {
    at[k] = (at[k] & ~static_cast<std::byte>(mask >> (k * byte_bits))) |
            static_cast<std::byte>(bits >> (k * byte_bits));
  }
}

template <class T>
void CodeArray::unpack_any(std::int64_t row, std::int64_t first, std::span<T> out) const {
  LOWBIT_ASSERT(first >= 0 && first + static_cast<std::int64_t>(out.size()) <= n_per_row_);
  const std::size_t head = codes_to_border(width_, first, out.size());
  for (std::size_t i = 0; i < head; ++i) {
    out[i] = static_cast<T>(get(row, first + static_cast<std::int64_t>(i)));
  }
  const std::int64_t border = first + static_cast<std::int64_t>(head);
  const std::byte* bytes = bytes_.data() + row * row_bytes_ + border * width_ / byte_bits;
  const std::size_t done =
      head + unpack_aligned(width_, bytes, out.size() - head, out.data() + head);
  for (std::size_t i = done; i < out.size(); ++i) {
    out[i] = static_cast<T>(get(row, first + static_cast<std::int64_t>(i)));
  }
}

template <class T>
void CodeArray::pack_any(std::int64_t row, std::int64_t first, std::span<const T> codes) {
  LOWBIT_ASSERT(first >= 0 && first + static_cast<std::int64_t>(codes.size()) <= n_per_row_);
  const std::size_t head = codes_to_border(width_, first, codes.size());
  for (std::size_t i = 0; i < head; ++i) {
    set(row, first + static_cast<std::int64_t>(i), codes[i]);
  }
  const std::int64_t border = first + static_cast<std::int64_t>(head);
  std::byte* bytes = bytes_.data() + row * row_bytes_ + border * width_ / byte_bits;
  const std::size_t done =
      head + pack_aligned(width_, codes.data() + head, codes.size() - head, bytes);
  for (std::size_t i = done; i < codes.size(); ++i) {
    set(row, first + static_cast<std::int64_t>(i), codes[i]);
  }
}

void CodeArray::unpack(std::int64_t row, std::int64_t first, std::span<std::uint32_t> out) const {
  unpack_any(row, first, out);
}

void CodeArray::unpack(std::int64_t row, std::int64_t first, std::span<std::uint8_t> out) const {
  LOWBIT_ASSERT(width_ <= byte_bits);
  unpack_any(row, first, out);
}

void CodeArray::pack(std::int64_t row, std::int64_t first, std::span<const std::uint32_t> codes) {
  pack_any(row, first, codes);
}

void CodeArray::pack(std::int64_t row, std::int64_t first, std::span<const std::uint8_t> codes) {
  LOWBIT_ASSERT(width_ <= byte_bits);
  pack_any(row, first, codes);
}

std::span<const std::byte> CodeArray::row(std::int64_t row) const {
  return {bytes_.data() + row * row_bytes_, static_cast<std::size_t>(row_bytes_)};
}

std::span<std::byte> CodeArray::row(std::int64_t row) {
  return {bytes_.data() + row * row_bytes_, static_cast<std::size_t>(row_bytes_)};
}

QuantizedTensor::QuantizedTensor(const Scheme& scheme_, std::int64_t rows_, std::int64_t cols_)
    : scheme(scheme_),
      rows(rows_),
      cols(cols_),
      codes(scheme_.code->step, rows_, cols_ / scheme_.code->dim) {
  LOWBIT_ASSERT(cols % scheme.code->dim == 0 && scheme.code->step == scheme.code->window);
  if (rows == 0 || cols == 0) return;
  const std::int64_t down = groups(rows, group_rows()), across = groups(cols, group_cols());
  if (scheme.scale != nullptr) {
    scale = std::make_unique<QuantizedTensor>(*scheme.scale, down, across);
  }
  if (scheme.zero != nullptr) zero = std::make_unique<QuantizedTensor>(*scheme.zero, down, across);
}

std::int64_t QuantizedTensor::group_rows() const {
  return scheme.group.rows != 0 ? scheme.group.rows : rows;
}

std::int64_t QuantizedTensor::group_cols() const {
  return scheme.group.cols != 0 ? scheme.group.cols : cols;
}

QuantizedTensor QuantizedTensor::clone() const {
  QuantizedTensor copy;
  copy.scheme = scheme;
  copy.rows = rows;
  copy.cols = cols;
  copy.codes = codes;
  copy.input = input;
  if (scale != nullptr) copy.scale = std::make_unique<QuantizedTensor>(scale->clone());
  if (zero != nullptr) copy.zero = std::make_unique<QuantizedTensor>(zero->clone());
  return copy;
}

void decode_rows(const QuantizedTensor& tensor, std::int64_t first_row, std::int64_t n_rows,
                 std::span<float> out) {
  LOWBIT_ASSERT(first_row >= 0 && first_row + n_rows <= tensor.rows);
  LOWBIT_ASSERT(static_cast<std::int64_t>(out.size()) == n_rows * tensor.cols);
  const GroupNumbers scales(tensor, tensor.scale.get(), first_row, n_rows);
  const GroupNumbers zeros(tensor, tensor.zero.get(), first_row, n_rows);
  const std::int64_t group = tensor.group_cols();
  for (std::int64_t r = 0; r < n_rows; ++r) {
    float* w = out.data() + r * tensor.cols;
    look_up_row(tensor, first_row + r, w);
    const float* scale = scales.row(first_row + r);
    const float* zero = zeros.row(first_row + r);
    if (scale == nullptr && zero == nullptr) continue;
    for (std::int64_t first = 0; first < tensor.cols; first += group) {
      const std::int64_t g = first / group, n = std::min(group, tensor.cols - first);
      scale_group({w + first, static_cast<std::size_t>(n)}, scale != nullptr ? scale[g] : 1.0f,
                  zero != nullptr ? zero + g : nullptr, tensor.scheme.zero_unit);
    }
  }
}

std::vector<float> decode(const QuantizedTensor& tensor) {
  std::vector<float> w(static_cast<std::size_t>(tensor.rows * tensor.cols));
  decode_rows(tensor, 0, tensor.rows, w);
  return w;
}

void encode_rows_with_scales(std::span<const float> w, QuantizedTensor& tensor,
                             std::int64_t first_row, std::int64_t n_rows) {
  LOWBIT_ASSERT(static_cast<std::int64_t>(w.size()) == n_rows * tensor.cols);
  const Code& code = *tensor.scheme.code;
  const GroupNumbers scales(tensor, tensor.scale.get(), first_row, n_rows);
  const GroupNumbers zeros(tensor, tensor.zero.get(), first_row, n_rows);
  const std::int64_t group = tensor.group_cols();
  std::vector<float> targets(static_cast<std::size_t>(tensor.cols));
  std::vector<std::uint32_t> codes(static_cast<std::size_t>(tensor.codes.n_per_row()));
  const std::optional<CodeSearch> search =
      code.dim == 1 ? std::optional<CodeSearch>(code) : std::nullopt;
  for (std::int64_t r = 0; r < n_rows; ++r) {
    const float* numbers = w.data() + r * tensor.cols;
    const float* scale = scales.row(first_row + r);
    const float* zero = zeros.row(first_row + r);
    for (std::int64_t first = 0; first < tensor.cols; first += group) {
      const std::int64_t g = first / group, n = std::min(group, tensor.cols - first);
      unscale_group({numbers + first, static_cast<std::size_t>(n)},
                    scale != nullptr ? scale[g] : 1.0f, zero != nullptr ? zero + g : nullptr,
                    tensor.scheme.zero_unit, targets.data() + first);
    }
    if (search) {
      search->nearest(targets, codes.data());
    } else {
      for (std::size_t i = 0; i < codes.size(); ++i) {
        codes[i] = nearest_vector(code, targets.data() + i * static_cast<unsigned>(code.dim));
      }
    }
    tensor.codes.pack(first_row + r, 0, codes);
  }
}

void encode_with_scales(std::span<const float> w, QuantizedTensor& tensor) {
  encode_rows_with_scales(w, tensor, 0, tensor.rows);
}

QuantizedTensor encode_plain(std::span<const float> w, const Scheme& scheme, std::int64_t rows,
                             std::int64_t cols) {
  LOWBIT_ASSERT(is_plain_float(scheme));
  QuantizedTensor tensor(scheme, rows, cols);
  encode_with_scales(w, tensor);
  return tensor;
}

bool has_finite_scales(const QuantizedTensor& tensor) {
  const auto is_finite = [](const QuantizedTensor& plane) {
    std::vector<float> row(static_cast<std::size_t>(plane.cols));
    for (std::int64_t r = 0; r < plane.rows; ++r) {
      decode_rows(plane, r, 1, row);
      if (!std::ranges::all_of(row, [](float number) { return std::isfinite(number); })) {
        return false;
      }
    }
    return true;
  };
  return (tensor.scale == nullptr || is_finite(*tensor.scale)) &&
         (tensor.zero == nullptr || is_finite(*tensor.zero));
}

}  // namespace lowbit
