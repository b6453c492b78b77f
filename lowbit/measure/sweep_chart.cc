// SPDX-License-Identifier: Apache-2.0
// The picture of a sweep. Each family has a colour and a line along its front; a point off the
// front is hollow. A label takes the first place beside its point where it covers nothing, or at
// least no point and no label; one that finds none is left to the point's tooltip. Points of a
// front choose first.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <string>

#include "lowbit/measure/sweep.h"

namespace lowbit {
namespace {

constexpr double width = 960, height = 620;
constexpr double left = 74, right = 24, top = 78, bottom = 56;  // margins of the plot
constexpr double radius = 4, letter_width = 6.3, letter_height = 12;

constexpr std::string_view style = R"(
  .page { fill: #ffffff } .text { fill: #1f2328; font: 13px sans-serif }
  .title { font-size: 15px; font-weight: 600 } .quiet { fill: #59636e } .label { font-size: 11px }
  .grid { stroke: #d1d9e0 } .minor { stroke: #eef1f4 } .front { fill: none; stroke-width: 1.8 }
  .spread { stroke-width: 1 } .off { fill: #ffffff }
  .c0 { stroke: #0a6ebd } .c1 { stroke: #bc4c00 } .c2 { stroke: #1a7f37 } .c3 { stroke: #8250df }
  .f0 { fill: #0a6ebd } .f1 { fill: #bc4c00 } .f2 { fill: #1a7f37 } .f3 { fill: #8250df }
  @media (prefers-color-scheme: dark) {
    .page { fill: #0d1117 } .text { fill: #e6edf3 } .quiet { fill: #9198a1 }
    .grid { stroke: #30363d } .minor { stroke: #1c2128 } .off { fill: #0d1117 }
    .c0 { stroke: #58a6ff } .c1 { stroke: #f0883e } .c2 { stroke: #3fb950 } .c3 { stroke: #bc8cff }
    .f0 { fill: #58a6ff } .f1 { fill: #f0883e } .f2 { fill: #3fb950 } .f3 { fill: #bc8cff }
  }
)";
constexpr std::size_t n_colours = 4;

std::string escaped(std::string_view text) {
  std::string safe;
  for (const char c : text) {
    switch (c) {
      case '&':
        safe += "&amp;";
        break;
      case '<':
        safe += "&lt;";
        break;
      case '>':
        safe += "&gt;";
        break;
      case '"':
        safe += "&quot;";
        break;
      default:
        safe += static_cast<unsigned char>(c) < ' ' ? ' ' : c;
    }
  }
  return safe;
}

struct Box {
  double x0 = 0, y0 = 0, x1 = 0, y1 = 0;
  bool meets(const Box& other) const {
    return x0 < other.x1 && other.x0 < x1 && y0 < other.y1 && other.y0 < y1;
  }
};

/// Bits on x, powers of ten on y.
struct Axes {
  double least_x = 0, most_x = 1, least_y = 0, most_y = 1;  // y: log10 of the divergence

  double x(double bits) const {
    return left + (bits - least_x) / (most_x - least_x) * (width - left - right);
  }
  double y(double kld) const {
    const double place = (std::log10(std::max(kld, std::pow(10, least_y))) - least_y);
    return height - bottom - place / (most_y - least_y) * (height - top - bottom);
  }
};

Axes axes_of(std::span<const SweepPoint> points) {
  constexpr double smallest = 1e-7;  // a divergence of nothing has no logarithm
  Axes axes;
  double least_x = 1e9, most_x = 0, least_y = 1e9, most_y = -1e9;
  for (const SweepPoint& point : points) {
    const double y = std::log10(std::max(point.kld_mean, smallest));
    least_x = std::min(least_x, point.bits_per_weight);
    most_x = std::max(most_x, point.bits_per_weight);
    least_y = std::min(least_y, y);
    most_y = std::max(most_y, y);
  }
  if (points.empty()) return axes;
  constexpr double margin_x = 0.15, margin_y = 0.08;
  axes.least_x = std::floor((least_x - margin_x) * 2) / 2;
  axes.most_x = std::ceil((most_x + margin_x) * 2) / 2;
  axes.least_y = least_y - margin_y;
  axes.most_y = most_y + margin_y;
  return axes;
}

std::string grid(const Axes& axes) {
  std::string svg;
  const double floor = height - bottom;
  const double step = axes.most_x - axes.least_x > 6 ? 1 : 0.5;
  for (double bits = axes.least_x; bits <= axes.most_x + 1e-9; bits += step) {
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0:.1f}\" x2=\"{0:.1f}\" y1=\"{1}\" y2=\"{2}\"/>"
        "<text class=\"text quiet\" x=\"{0:.1f}\" y=\"{3}\" text-anchor=\"middle\">{4:g}</text>\n",
        axes.x(bits), top, floor, floor + 18, bits);
  }
  for (auto power = static_cast<int>(std::floor(axes.least_y)); power <= axes.most_y; ++power) {
    for (int digit = 1; digit <= 9; ++digit) {
      const double kld = digit * std::pow(10.0, power);
      const double place = std::log10(kld);
      if (place < axes.least_y || place > axes.most_y) continue;
      const bool is_named = digit == 1 || digit == 2 || digit == 5;
      svg +=
          fmt::format("<line class=\"{}\" x1=\"{}\" x2=\"{}\" y1=\"{:.1f}\" y2=\"{:.1f}\"/>\n",
                      is_named ? "grid" : "minor", left, width - right, axes.y(kld), axes.y(kld));
      if (!is_named) continue;
      svg += fmt::format(
          "<text class=\"text quiet\" x=\"{}\" y=\"{:.1f}\" text-anchor=\"end\">{:g}</text>\n",
          left - 8, axes.y(kld) + 4.5, kld);
    }
  }
  svg += fmt::format(
      "<text class=\"text quiet\" x=\"{:.0f}\" y=\"{:.0f}\" text-anchor=\"middle\">bits per "
      "weight, "
      "embeddings and head included</text>\n"
      "<text class=\"text quiet\" transform=\"translate(18 {:.0f}) rotate(-90)\" "
      "text-anchor=\"middle\">KL divergence from the source, nats</text>\n",
      (left + width - right) / 2, floor + 42, (top + floor) / 2);
  return svg;
}

/// Where the text of a label begins relative to its point (x, baseline), nearest places first.
struct Place {
  double dx, dy;
  std::string_view anchor;
};
constexpr std::array<Place, 14> places{{{8, 4, "start"},
                                        {-8, 4, "end"},
                                        {6, -7, "start"},
                                        {6, 15, "start"},
                                        {-6, -7, "end"},
                                        {-6, 15, "end"},
                                        {0, -10, "middle"},
                                        {0, 18, "middle"},
                                        {12, -16, "start"},
                                        {12, 24, "start"},
                                        {-12, -16, "end"},
                                        {-12, 24, "end"},
                                        {0, -22, "middle"},
                                        {0, 30, "middle"}}};

Box box_of(const Place& place, double x, double y, std::string_view label) {
  const double n = letter_width * static_cast<double>(label.size());
  const double from =
      x + place.dx - (place.anchor == "start" ? 0 : (place.anchor == "end" ? n : n / 2));
  return {from, y + place.dy - letter_height + 2, from + n, y + place.dy + 2};
}

/// Points of a family's front from left to right.
std::vector<std::size_t> front_line(std::span<const SweepPoint> points,
                                    const std::vector<bool>& front, std::string_view family) {
  std::vector<std::size_t> line;
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (front[i] && points[i].family == family) line.push_back(i);
  }
  std::ranges::sort(line, {}, [&](std::size_t i) { return points[i].bits_per_weight; });
  return line;
}

/// Small boxes along the lines of all fronts.
std::vector<Box> line_boxes(const Axes& axes, std::span<const SweepPoint> points,
                            const std::vector<bool>& front,
                            const std::vector<std::string>& families) {
  constexpr double step = 4;
  std::vector<Box> boxes;
  for (const std::string& family : families) {
    const auto line = front_line(points, front, family);
    for (std::size_t i = 0; i + 1 < line.size(); ++i) {
      const SweepPoint &from = points[line[i]], &to = points[line[i + 1]];
      const double x = axes.x(from.bits_per_weight), y = axes.y(from.kld_mean);
      const double dx = axes.x(to.bits_per_weight) - x, dy = axes.y(to.kld_mean) - y;
      const int n = 1 + static_cast<int>(std::hypot(dx, dy) / step);
      for (int k = 0; k < n; ++k) {
        const double at = static_cast<double>(k) / n;
        boxes.push_back({x + at * dx - 1, y + at * dy - 1, x + at * dx + 1, y + at * dy + 1});
      }
    }
  }
  return boxes;
}

std::size_t colour_of(const std::vector<std::string>& families, std::string_view family) {
  return static_cast<std::size_t>(std::ranges::find(families, family) - families.begin()) %
         n_colours;
}

std::string labels(const Axes& axes, std::span<const SweepPoint> points,
                   const std::vector<bool>& front, const std::vector<std::string>& families) {
  const auto lines = line_boxes(axes, points, front, families);
  std::vector<Box> taken;
  for (const SweepPoint& point : points) {
    const double x = axes.x(point.bits_per_weight), y = axes.y(point.kld_mean);
    taken.push_back({x - radius, y - radius, x + radius, y + radius});
  }
  std::vector<std::size_t> order(points.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_partition(order, [&](std::size_t i) { return front[i]; });
  std::string svg;
  for (const std::size_t i : order) {
    const SweepPoint& point = points[i];
    const double x = axes.x(point.bits_per_weight), y = axes.y(point.kld_mean);
    std::optional<Place> chosen;
    for (const Place& place : places) {
      const Box box = box_of(place, x, y, point.label);
      const auto meets = [&](const Box& other) { return box.meets(other); };
      const bool is_inside =
          box.x0 > left && box.x1 < width - 4 && box.y0 > top && box.y1 < height - bottom;
      if (!is_inside || std::ranges::any_of(taken, meets)) continue;
      const bool is_free = std::ranges::none_of(lines, meets);
      if (is_free || !chosen) chosen = place;
      if (is_free) break;
    }
    if (!chosen) continue;
    taken.push_back(box_of(*chosen, x, y, point.label));
    svg += fmt::format(
        "<text class=\"text label f{}\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n",
        colour_of(families, point.family), x + chosen->dx, y + chosen->dy, chosen->anchor,
        escaped(point.label));
  }
  return svg;
}

std::string dots(const Axes& axes, std::span<const SweepPoint> points,
                 const std::vector<bool>& front, const std::vector<std::string>& families) {
  std::string svg;
  for (std::size_t colour = 0; colour < families.size(); ++colour) {
    const auto line = front_line(points, front, families[colour]);
    std::string corners;
    for (const std::size_t i : line) {
      corners += fmt::format("{:.1f},{:.1f} ", axes.x(points[i].bits_per_weight),
                             axes.y(points[i].kld_mean));
    }
    svg +=
        fmt::format("<polyline class=\"front c{}\" points=\"{}\"/>\n", colour % n_colours, corners);
  }
  for (std::size_t i = 0; i < points.size(); ++i) {
    const SweepPoint& point = points[i];
    const std::size_t colour = colour_of(families, point.family);
    const double x = axes.x(point.bits_per_weight);
    svg += fmt::format(
        "<line class=\"spread c{0}\" x1=\"{1:.1f}\" x2=\"{1:.1f}\" y1=\"{2:.1f}\" "
        "y2=\"{3:.1f}\"/>"
        "<circle class=\"c{0} {4}\" cx=\"{1:.1f}\" cy=\"{5:.1f}\" r=\"{6}\" stroke-width=\"1.5\">"
        "<title>{7}: {8:.3f} bits, {9:.5f} ± {10:.5f}</title></circle>\n",
        colour, x, axes.y(point.kld_mean + point.kld_stderr),
        axes.y(point.kld_mean - point.kld_stderr),
        front[i] ? fmt::format("f{}", colour) : std::string("off"), axes.y(point.kld_mean),
        front[i] ? radius : radius - 1, escaped(point.family + ", " + point.label),
        point.bits_per_weight, point.kld_mean, point.kld_stderr);
  }
  return svg;
}

}  // namespace

std::string sweep_svg(const SweepSetting& setting, std::span<const SweepPoint> points) {
  std::vector<std::string> families;
  for (const SweepPoint& point : points) {
    if (std::ranges::find(families, point.family) == families.end())
      families.push_back(point.family);
  }
  const Axes axes = axes_of(points);
  const auto front = pareto_front(points);
  const std::string title = fmt::format("Quality against size: {}", setting.model);
  const std::string setting_words = fmt::format("{}; {}", setting.text, setting.protocol);
  constexpr double glyph = 6.6, margin = 16;  // about, and squeezed where that is too wide
  const bool is_squeezed = glyph * static_cast<double>(setting_words.size()) > width - 2 * margin;
  const std::string squeezed =
      is_squeezed
          ? fmt::format(" textLength=\"{}\" lengthAdjust=\"spacingAndGlyphs\"", width - 2 * margin)
          : "";
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {0} {1}\" role=\"img\" "
      "aria-label=\"{2}\">\n<style>{3}</style>\n"
      "<rect class=\"page\" width=\"{0}\" height=\"{1}\"/>\n"
      "<text class=\"text title\" x=\"16\" y=\"26\">{2}</text>\n"
      "<text class=\"text quiet\" x=\"16\" y=\"46\"{4}>{5}</text>\n",
      width, height, escaped(title), style, squeezed, escaped(setting_words));
  double x = 22;
  for (std::size_t i = 0; i < families.size(); ++i) {
    svg += fmt::format(
        "<circle class=\"c{0} f{0}\" cx=\"{1:.0f}\" cy=\"62\" r=\"{2}\"/>"
        "<text class=\"text\" x=\"{3:.0f}\" y=\"66\">{4}</text>\n",
        i % n_colours, x, radius, x + 10, escaped(families[i]));
    x += 40 + 7.5 * static_cast<double>(families[i].size());
  }
  svg += fmt::format(
      "<text class=\"text quiet\" x=\"{:.0f}\" y=\"66\">filled, with a line: Pareto front of a "
      "family</text>\n",
      x);
  return svg + grid(axes) + dots(axes, points, front, families) +
         labels(axes, points, front, families) + "</svg>\n";
}

}  // namespace lowbit
