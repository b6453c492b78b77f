// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/sweep.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "lowbit/measure/evaluate.h"
#include "lowbit/runtime/random_model.h"

namespace lowbit {
namespace {

std::string error_of(std::string_view list) {
  const auto lines = parse_sweep(list);
  EXPECT_FALSE(lines) << list;
  return lines ? "" : lines.error().message();
}

TEST(SweepList, HasLabelsFamiliesAndComments) {
  const auto lines = parse_sweep(
      "# a comment\n\n  gptq:int4.g128   # another\r\nfour bits: q4_0 --rule *x*=q8_0\n"
      "[llama.cpp]\nQ4_K: /models/a#b.gguf\nq4_0");
  ASSERT_TRUE(lines) << lines.error().message();
  ASSERT_EQ(lines->size(), 4u);
  EXPECT_EQ((*lines)[0].family, "lowbit");
  EXPECT_EQ((*lines)[0].text, "gptq:int4.g128");
  EXPECT_EQ((*lines)[0].label, "gptq:int4.g128");
  EXPECT_EQ((*lines)[0].number, 3);
  EXPECT_EQ((*lines)[1].label, "four bits");
  EXPECT_EQ((*lines)[1].text, "q4_0 --rule *x*=q8_0");
  EXPECT_EQ((*lines)[2].family, "llama.cpp");
  EXPECT_EQ((*lines)[2].text, "/models/a#b.gguf");
  EXPECT_EQ((*lines)[3].number, 7);
}

TEST(SweepList, RefusesWithLineNumbers) {
  EXPECT_NE(error_of("# nothing\n").find("no recipe"), std::string::npos);
  EXPECT_NE(error_of("q4_0\nq8_0\nfour: q4_0\n").find("line 3"), std::string::npos);
  EXPECT_NE(error_of("q4_0\n[ ]\n").find("line 2"), std::string::npos);
  EXPECT_NE(error_of(std::string("q4_0\n\0\n", 7)).find("line 2"), std::string::npos);
}

TEST(SweepList, TheStandardOneIsGood) {
  EXPECT_TRUE(parse_sweep(standard_sweep()));
}

SweepPoint point(std::string family, std::string label, double bits, double kld) {
  SweepPoint p;
  p.family = std::move(family);
  p.label = label;
  p.text = std::move(label);
  p.bits_per_weight = bits;
  p.kld_mean = kld;
  p.kld_stderr = kld / 8;
  return p;
}

/// b is beaten by a of its own size, e by d, which is smaller and equally good; f is of another
/// family.
std::vector<SweepPoint> some_points() {
  return {point("ours", "a", 4, 0.1),   point("ours", "b", 4, 0.2),  point("ours", "c", 3, 0.5),
          point("ours", "d", 5, 0.05),  point("ours", "e", 6, 0.05), point("his", "f", 4, 0.3),
          point("his", "g", 3.5, 0.25), point("ours", "a2", 4, 0.1), point("ours", "h", 8, 0)};
}

TEST(Sweep, TheFrontHasWhatNothingBeats) {
  EXPECT_EQ(pareto_front(some_points()),
            (std::vector<bool>{true, false, true, true, false, false, true, true, true}));
}

const SweepSetting setting{"model.gguf", "book.txt, 60000 bytes", "llama, windows of 512"};

TEST(SweepCsv, GivesThePointsBack) {
  auto points = some_points();
  points[1].label = "with, a comma and \"quotes\"";
  points[1].note = "two\nlines";
  points[2].kld_p99 = 1.2345678;
  const auto back = read_sweep_csv(sweep_csv(setting, points), setting);
  ASSERT_TRUE(back) << back.error().message();
  ASSERT_EQ(back->size(), points.size());
  EXPECT_EQ((*back)[1].label, points[1].label);
  EXPECT_EQ((*back)[1].note, "two lines");
  EXPECT_EQ((*back)[2].kld_p99, 1.2345678);
  points[1].note = (*back)[1].note;
  EXPECT_EQ(sweep_csv(setting, *back), sweep_csv(setting, points));
}

TEST(SweepCsv, BelongsToItsSetting) {
  const std::string csv = sweep_csv(setting, some_points());
  SweepSetting other = setting;
  other.text = "another.txt, 1 bytes";
  const auto wrong = read_sweep_csv(csv, other);
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().message().find("another.txt"), std::string::npos);
  EXPECT_NE(wrong.error().message().find("book.txt"), std::string::npos);
  EXPECT_FALSE(read_sweep_csv("", setting));
  EXPECT_FALSE(read_sweep_csv("a,b,c\n", setting));
  const auto cut = read_sweep_csv(csv.substr(0, csv.size() - 5), setting);
  ASSERT_FALSE(cut);
  EXPECT_NE(cut.error().message().find("line 11"), std::string::npos) << cut.error().message();
  const auto word = read_sweep_csv(csv + "f,l,r,4,x,0,0,0,0,0,0,0,0,\n", setting);
  ASSERT_FALSE(word);
  EXPECT_NE(word.error().message().find("\"x\""), std::string::npos);
}

TEST(SweepMarkdown, MarksTheFrontAndEscapes) {
  auto points = some_points();
  points[0].note = "a|b";
  const std::string text = sweep_markdown(setting, points);
  EXPECT_NE(text.find("| ours | a * | 4.000 |"), std::string::npos) << text;
  EXPECT_NE(text.find("| ours | b | 4.000 |"), std::string::npos);
  EXPECT_NE(text.find("a\\|b"), std::string::npos);
  EXPECT_LT(text.find("| ours | c *"), text.find("| ours | a *"));  // by size
  EXPECT_LT(text.find("| ours | h *"), text.find("| his | g *"));   // family by family
}

std::size_t count(std::string_view text, std::string_view what) {
  std::size_t n = 0;
  for (std::size_t at = text.find(what); at != text.npos; at = text.find(what, at + 1)) ++n;
  return n;
}

/// Every number of every attribute named so.
void expect_inside(std::string_view svg, std::string_view attribute, double most) {
  const std::string opening = " " + std::string(attribute) + "=\"";
  for (std::size_t at = svg.find(opening); at != svg.npos; at = svg.find(opening, at + 1)) {
    const double value = std::stod(std::string(svg.substr(at + opening.size(), 20)));
    EXPECT_TRUE(value >= 0 && value <= most) << attribute << " " << value;
  }
}

TEST(SweepChart, DrawsEveryPointInsideThePage) {
  auto points = some_points();
  points[0].label = "<a & \"b\">";
  const std::string svg = sweep_svg(setting, points);
  EXPECT_EQ(count(svg, "<title>"), points.size());
  EXPECT_EQ(count(svg, "<polyline"), 2u);
  EXPECT_NE(svg.find("&lt;a &amp; &quot;b&quot;&gt;"), std::string::npos);
  EXPECT_EQ(svg.find("<a &"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  EXPECT_EQ(svg.find("inf"), std::string::npos);
  for (const char* attribute : {"cx", "x", "x1", "x2"}) expect_inside(svg, attribute, 960);
  for (const char* attribute : {"cy", "y", "y1", "y2"}) expect_inside(svg, attribute, 620);
  EXPECT_EQ(svg.find("textLength"), std::string::npos);
  SweepSetting wordy = setting;
  wordy.protocol.assign(200, 'w');
  EXPECT_NE(sweep_svg(wordy, points).find("textLength=\"928\""), std::string::npos);
  EXPECT_TRUE(svg.ends_with("</svg>\n"));
  EXPECT_EQ(count(svg, "<text"), count(svg, "</text>"));
  EXPECT_EQ(count(svg, "<circle"), count(svg, "</circle>") + 2);  // two without a tooltip: families
}

TEST(SweepChart, TakesOnePointAndNone) {
  EXPECT_EQ(sweep_svg(setting, {}).find("nan"), std::string::npos);
  EXPECT_EQ(sweep_svg(setting, std::vector{point("ours", "a", 4, 0)}).find("nan"),
            std::string::npos);
}

/// A tiny model and a coarser one of the same weights, judged beside the source and by its kept
/// logits: the same report to the last bit, and the coarser one is the worse.
TEST(Evaluate, KeptLogitsGiveTheSameReport) {
  ThreadPool pool(2);
  const auto load = [&](const RandomModel& tensors) {
    auto model = LoadedModel::load(tensors, exact_recipe(), pool, LoadOptions());
    EXPECT_TRUE(model) << model.error().message();
    return *std::move(model);
  };
  RandomModel source({.seed = 5});
  RandomModel coarse({.seed = 5});
  for (auto& [name, tensor] : coarse.tensors()) {
    if (tensor.rows == 1) continue;
    auto values = decode(tensor);
    for (float& value : values) value = std::round(value * 40) / 40;
    tensor = encode_plain(values, *parse_scheme("f32"), tensor.rows, tensor.cols);
  }
  const auto teacher = load(source), student = load(coarse);
  EvalWindows windows{.n_ctx = 300, .first_scored = 150};
  for (int i = 0; i < 2; ++i) {
    auto& ids = windows.ids.emplace_back();
    for (int t = 0; t < 300; ++t) ids.push_back((t * t + 31 * i) % 83);
  }
  const auto kept = keep_logits(*teacher, windows, {});
  ASSERT_TRUE(kept) << kept.error().message();
  EXPECT_EQ(static_cast<std::int64_t>(kept->values.size() * sizeof(float)),
            KeptLogits::n_bytes(windows, teacher->weights().config));
  const auto beside = evaluate(*student, teacher.get(), windows, pool, {});
  const auto by_kept = evaluate(*student, *kept, windows, pool, {});
  ASSERT_TRUE(beside && by_kept);
  EXPECT_EQ(beside->n_scored, 2 * 149);
  EXPECT_GT(beside->divergence->kld_mean, 1e-4);
  EXPECT_EQ(beside->divergence->kld_mean, by_kept->divergence->kld_mean);
  EXPECT_EQ(beside->divergence->kld_max, by_kept->divergence->kld_max);
  EXPECT_EQ(beside->divergence->reference_perplexity, by_kept->divergence->reference_perplexity);
  EXPECT_EQ(beside->perplexity, by_kept->perplexity);
  const auto itself = evaluate(*teacher, *kept, windows, pool, {});
  ASSERT_TRUE(itself);
  EXPECT_LT(std::abs(itself->divergence->kld_mean), 1e-12);
  windows.ids[1][7] = 83;
  const auto unknown_id = evaluate(*student, *kept, windows, pool, {});
  ASSERT_FALSE(unknown_id);
  EXPECT_NE(unknown_id.error().message().find("83"), std::string::npos);
  windows.ids.pop_back();
  EXPECT_FALSE(evaluate(*student, *kept, windows, pool, {}));
}

}  // namespace
}  // namespace lowbit
