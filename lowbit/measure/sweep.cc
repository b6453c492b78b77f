// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/sweep.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <numeric>
#include <set>
#include <utility>

namespace lowbit {
namespace {

constexpr std::string_view own_family = "lowbit";

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view blanks = " \t\r";
  const std::size_t first = text.find_first_not_of(blanks);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(blanks) - first + 1);
}

/// The text before the next border, which is taken off.
std::string_view take_line(std::string_view& text) {
  const std::size_t end = std::min(text.find('\n'), text.size());
  const std::string_view line = text.substr(0, end);
  text.remove_prefix(std::min(end + 1, text.size()));
  return line;
}

/// A comment begins a line or follows a blank: a file's name may hold a #.
std::string_view without_comment(std::string_view line) {
  for (std::size_t i = 0; i < line.size(); ++i) {
    if (line[i] == '#' && (i == 0 || std::isspace(static_cast<unsigned char>(line[i - 1])) != 0))
      return line.substr(0, i);
  }
  return line;
}

constexpr std::size_t n_words = 4;  // columns that hold words: three in front, the note at the end

/// THE list of the numbers of a point, in the order of the columns.
constexpr std::array<std::pair<std::string_view, double SweepPoint::*>, 10> number_columns{{
    {"bits_per_weight", &SweepPoint::bits_per_weight},
    {"kld_mean", &SweepPoint::kld_mean},
    {"kld_stderr", &SweepPoint::kld_stderr},
    {"kld_median", &SweepPoint::kld_median},
    {"kld_p99", &SweepPoint::kld_p99},
    {"kld_max", &SweepPoint::kld_max},
    {"top1_agreement", &SweepPoint::top1_agreement},
    {"top1_stderr", &SweepPoint::top1_stderr},
    {"perplexity", &SweepPoint::perplexity},
    {"seconds", &SweepPoint::seconds},
}};

std::string heading() {
  std::string line = "family,label,recipe";
  for (const auto& column : number_columns) line += fmt::format(",{}", column.first);
  return line + ",note";
}

std::string first_line(const SweepSetting& setting) {
  return fmt::format("# {}; {}; {}", setting.model, setting.text, setting.protocol);
}

std::string quoted(std::string_view word) {
  if (word.find_first_of(",\"\n") == std::string_view::npos) return std::string(word);
  std::string text = "\"";
  for (const char c : word) {
    if (c == '"') text += '"';
    text += c == '\n' ? ' ' : c;
  }
  return text + "\"";
}

std::vector<std::string> fields_of(std::string_view line) {
  std::vector<std::string> fields(1);
  bool is_quoted = false;
  for (std::size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (is_quoted && c == '"' && i + 1 < line.size() && line[i + 1] == '"') {
      fields.back() += line[++i];
    } else if (c == '"') {
      is_quoted = !is_quoted;
    } else if (c == ',' && !is_quoted) {
      fields.emplace_back();
    } else {
      fields.back() += c;
    }
  }
  return fields;
}

Result<SweepPoint> point_of(std::string_view line) {
  const auto fields = fields_of(line);
  if (fields.size() != number_columns.size() + n_words)
    return Error(
        fmt::format("has {} fields, expected {}", fields.size(), number_columns.size() + n_words));
  SweepPoint point;
  point.family = fields[0];
  point.label = fields[1];
  point.text = fields[2];
  point.note = fields.back();
  for (std::size_t i = 0; i < number_columns.size(); ++i) {
    const std::string& field = fields[i + n_words - 1];
    const char* end = field.data() + field.size();
    const auto read = std::from_chars(field.data(), end, point.*number_columns[i].second);
    if (read.ec != std::errc() || read.ptr != end)
      return Error(fmt::format("\"{}\" is no number", field));
  }
  return point;
}

std::string cell(std::string_view word) {
  std::string text;
  for (const char c : word) {
    if (c == '|') text += '\\';
    text += c;
  }
  return text;
}

}  // namespace

Result<std::vector<SweepLine>> parse_sweep(std::string_view text) {
  std::vector<SweepLine> lines;
  std::set<std::pair<std::string, std::string>> seen;
  std::string family(own_family);
  for (std::int64_t number = 1; !text.empty(); ++number) {
    const std::string_view line = trimmed(without_comment(take_line(text)));
    if (line.empty()) continue;
    if (line.find('\0') != std::string_view::npos)
      return Error(fmt::format("line {}: this is no text", number));
    if (line.front() == '[' && line.back() == ']') {
      family = trimmed(line.substr(1, line.size() - 2));
      if (family.empty()) return Error(fmt::format("line {}: a family without a name", number));
      continue;
    }
    SweepLine entry{.family = family, .label = {}, .text = std::string(line), .number = number};
    if (const std::size_t colon = line.find(": "); colon != std::string_view::npos) {
      entry.label = trimmed(line.substr(0, colon));
      entry.text = trimmed(line.substr(colon + 1));
    }
    if (entry.label.empty()) entry.label = entry.text;
    if (!seen.emplace(entry.family, entry.text).second)
      return Error(fmt::format("line {}: \"{}\" stands there twice", number, entry.text));
    lines.push_back(std::move(entry));
  }
  if (lines.empty()) return Error("there is no recipe in the list");
  return lines;
}

std::string_view standard_sweep() {
  return R"(# From 8 to 2 bits, one of each kind
int8.channel
q8_0
mxfp8
q5_0
int4.g32
int4.g128
int4.g64.zero
nf4.g64
mxfp4
nvfp4
int3.g64
int2.g64
)";
}

std::vector<bool> pareto_front(std::span<const SweepPoint> points) {
  std::vector<bool> front(points.size());
  for (std::size_t i = 0; i < points.size(); ++i) {
    front[i] = std::ranges::none_of(points, [&](const SweepPoint& other) {
      const SweepPoint& point = points[i];
      return other.family == point.family && other.bits_per_weight <= point.bits_per_weight &&
             other.kld_mean <= point.kld_mean &&
             (other.bits_per_weight < point.bits_per_weight || other.kld_mean < point.kld_mean);
    });
  }
  return front;
}

std::string sweep_csv(const SweepSetting& setting, std::span<const SweepPoint> points) {
  std::string csv = fmt::format("{}\n{}\n", first_line(setting), heading());
  for (const SweepPoint& point : points) {
    csv += fmt::format("{},{},{}", quoted(point.family), quoted(point.label), quoted(point.text));
    for (const auto& column : number_columns) csv += fmt::format(",{}", point.*column.second);
    csv += fmt::format(",{}\n", quoted(point.note));
  }
  return csv;
}

Result<std::vector<SweepPoint>> read_sweep_csv(std::string_view csv, const SweepSetting& setting) {
  const std::string_view found = take_line(csv);
  if (!found.starts_with("# ") || take_line(csv) != heading())
    return Error("this is not the table of a sweep; move it away or name another output");
  if (found != first_line(setting)) {
    return Error(fmt::format(
        "this is the table of another sweep ({}), not of {}; move it away or name another output",
        found.substr(2), first_line(setting).substr(2)));
  }
  std::vector<SweepPoint> points;
  for (std::int64_t number = 3; !csv.empty(); ++number) {
    auto point = point_of(take_line(csv));
    if (!point) return std::move(point).error().in(fmt::format("line {}", number));
    points.push_back(*std::move(point));
  }
  return points;
}

std::string sweep_markdown(const SweepSetting& setting, std::span<const SweepPoint> points) {
  const auto front = pareto_front(points);
  std::vector<std::size_t> order(points.size());
  std::iota(order.begin(), order.end(), 0);
  // Families in the order in which they come first.
  const auto rank = [&](std::size_t i) {
    return std::ranges::find(points, points[i].family, &SweepPoint::family) - points.begin();
  };
  std::ranges::stable_sort(order, {}, [&](std::size_t i) {
    return std::tuple(rank(i), points[i].bits_per_weight, points[i].kld_mean);
  });
  std::string text = fmt::format(
      "{}; {}; {}. Bits per weight of all matrices, embeddings and head included; a star: no other "
      "of its family is as small and diverges less.\n\n"
      "| family | recipe | bits per weight | KL divergence | 99 % | same top token | perplexity | "
      "s | |\n|---|---|---:|---:|---:|---:|---:|---:|---|\n",
      setting.model, setting.text, setting.protocol);
  for (const std::size_t i : order) {
    const SweepPoint& point = points[i];
    text += fmt::format(
        "| {} | {}{} | {:.3f} | {:.5f} ± {:.5f} | {:.4f} | {:.2f} % | {:.3f} | {:.1f} | {} |\n",
        cell(point.family), cell(point.label), front[i] ? " *" : "", point.bits_per_weight,
        point.kld_mean, point.kld_stderr, point.kld_p99, 100 * point.top1_agreement,
        point.perplexity, point.seconds, cell(point.note));
  }
  return text;
}

}  // namespace lowbit
