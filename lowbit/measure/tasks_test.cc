// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/tasks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>

#include "lowbit/measure/log_softmax.h"

namespace lowbit {
namespace {

std::string error_of(std::string_view lines) {
  const auto items = parse_tasks(lines);
  EXPECT_FALSE(items) << lines;
  return items ? "" : items.error().message();
}

TEST(TaskFile, IsReadLineByLine) {
  const auto items = parse_tasks(
      "{\"context\": \"Caf\\u00e9\", \"choices\": [\" a\", \" b\", \" c\"], \"answer\": 2}\n\n"
      "{\"context\": \"\", \"choices\": [\"x\", \"y\"], \"answer\": 0, \"task\": \"t\", \"more\": "
      "1}\r\n");
  ASSERT_TRUE(items) << items.error().message();
  ASSERT_EQ(items->size(), 2u);
  EXPECT_EQ((*items)[0].context, "Café");
  EXPECT_EQ((*items)[0].choices[2], " c");
  EXPECT_EQ((*items)[0].answer, 2u);
  EXPECT_EQ((*items)[1].task, "t");
  EXPECT_EQ((*items)[1].line, 3);
}

TEST(TaskFile, RefusesWithLineNumbers) {
  const std::string good = "{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 1}\n";
  const std::pair<const char*, const char*> bad[] = {
      {"no json", "no JSON object"},
      {"[1, 2]", "no JSON object"},
      {"{\"choices\": [\"b\", \"c\"], \"answer\": 1}", "context"},
      {"{\"context\": 3, \"choices\": [\"b\", \"c\"], \"answer\": 1}", "context"},
      {"{\"context\": \"a\", \"answer\": 1}", "choices"},
      {"{\"context\": \"a\", \"choices\": [\"b\"], \"answer\": 0}", "choices"},
      {"{\"context\": \"a\", \"choices\": [\"b\", 3], \"answer\": 0}", "choice is not a text"},
      {"{\"context\": \"a\", \"choices\": [\"b\", \"\"], \"answer\": 0}", "empty"},
      {"{\"context\": \"a\", \"choices\": [\"b\", \"c\"]}", "answer"},
      {"{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 2}", "0 .. 1"},
      {"{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": -1}", "0 .. 1"},
      {"{\"context\": \"a\", \"choices\": [\"b\", \"c\"], \"answer\": 0.5}", "answer"},
      {"{\"context\": \"\xff\", \"choices\": [\"b\", \"c\"], \"answer\": 0}", "JSON"},
  };
  for (const auto& [line, word] : bad) {
    const std::string message = error_of(good + "\n" + line + "\n" + good);
    EXPECT_NE(message.find("line 3"), std::string::npos) << message;
    EXPECT_NE(message.find(word), std::string::npos) << message;
  }
  EXPECT_NE(error_of("\n\n").find("no item"), std::string::npos);
}

class TinyModel : public testing::Test {
 protected:
  static std::unique_ptr<LoadedModel> load(const char* name, ThreadPool& pool) {
    const std::string path = std::string(LOWBIT_SOURCE_DIR "/tests/golden/models/") + name;
    const auto file = ModelFile::open(path);
    EXPECT_TRUE(file) << file.error().message();
    auto model = LoadedModel::load(*file, exact_recipe(), pool, LoadOptions());
    EXPECT_TRUE(model) << model.error().message();
    return *std::move(model);
  }

  /// Sum of log-probabilities of what follows the first n_context tokens, read in one piece.
  static double plain_sum(LoadedModel& model, const std::vector<TokenId>& ids,
                          std::size_t n_context) {
    auto cache = KvCache::create(model.backend(), model.kv_shape(), std::ssize(ids));
    EXPECT_TRUE(cache);
    KvSequence sequence;
    EXPECT_TRUE(cache->grow(sequence, std::ssize(ids)));
    Forward forward(model.backend(), model.weights(), std::ssize(ids));
    const StepSequence step{ids, 0, &sequence, std::ssize(ids)};
    const MatrixView logits = forward.run({&step, 1}, *cache);
    double sum = 0;
    for (std::size_t i = n_context; i < ids.size(); ++i) {
      sum -= negative_log_likelihood(logits.row_span(static_cast<std::int64_t>(i) - 1), ids[i]);
    }
    cache->release(sequence);
    return sum;
  }
};

/// Items of every kind: long ones beside short ones, choices that begin alike, one that begins
/// another, blanks at the end of the context, no context, merges across the border.
std::vector<TaskItem> some_items() {
  const std::string book =
      "No one who had ever seen Catherine Morland in her infancy would have supposed her born to "
      "be an heroine. ";
  std::vector<TaskItem> items;
  const auto add = [&](std::string context, std::vector<std::string> choices) {
    items.push_back({.task = items.size() % 2 == 0 ? "even" : "odd",
                     .context = std::move(context),
                     .choices = std::move(choices),
                     .answer = items.size() % 2,
                     .line = static_cast<std::int64_t>(items.size()) + 1});
  };
  add("The whole of the", {" house", " family", " time"});
  add(book, {"Her situation in life", "Her situation in the world", "Her"});
  add("one two ", {"three", "four"});
  add("", {"No one", "Nobody"});
  add("th", {"e house", "ere"});
  add("a\n", {"b", "bb", "bbb", "bbbb", "bbbbb"});
  for (int i = 0; i < 70; ++i) add(book.substr(static_cast<std::size_t>(i), 40), {" he", " she"});
  return items;
}

TEST_F(TinyModel, ScoresAreThoseOfOneChoiceAtATime) {
  ThreadPool pool(2);
  for (const char* name : {"qwen2", "llama-llama3", "qwen3"}) {
    SCOPED_TRACE(name);
    const auto model = load(name, pool);
    const auto items = some_items();
    const auto scores = score_tasks(*model, items, pool, {});
    ASSERT_TRUE(scores) << scores.error().message();
    const auto encode = [&](const std::string& text) {
      return model->tokenizer().encode(text, /*add_bos=*/true, /*parse_special=*/false);
    };
    for (std::size_t i = 0; i < items.size(); ++i) {
      SCOPED_TRACE(items[i].context);
      const std::size_t last = items[i].context.find_last_not_of(" \n");
      const std::string context = items[i].context.substr(0, last + 1);
      for (std::size_t c = 0; c < items[i].choices.size(); ++c) {
        std::vector<TokenId> ids = encode(items[i].context + items[i].choices[c]);
        std::size_t n_context = encode(context).size();
        if (context.empty()) {
          n_context = 1;
          if (!model->tokenizer().adds_bos()) {
            const auto first =
                model->tokenizer().bos() ? model->tokenizer().bos() : model->tokenizer().eos();
            ids.insert(ids.begin(), *first);
          }
        }
        // Sums run over the same numbers in the same order.
        EXPECT_EQ((*scores)[i].log_likelihood[c], plain_sum(*model, ids, n_context)) << c;
      }
      const auto& sums = (*scores)[i].log_likelihood;
      EXPECT_EQ((*scores)[i].chosen,
                static_cast<std::size_t>(std::ranges::max_element(sums) - sums.begin()));
    }
  }
}

TEST_F(TinyModel, WhatCannotBeScoredNamesItsLine) {
  ThreadPool pool(1);
  const auto model = load("llama-linear", pool);  // 32 positions
  std::vector<TaskItem> items = some_items();
  const auto too_long = score_tasks(*model, items, pool, {});
  ASSERT_FALSE(too_long);
  EXPECT_NE(too_long.error().message().find("line 2"), std::string::npos);
  EXPECT_NE(too_long.error().message().find("context of 32"), std::string::npos);
  items.resize(1);
  const auto stopped =
      score_tasks(*model, items, pool, [](std::int64_t, std::int64_t) { return false; });
  EXPECT_FALSE(stopped);
}

TaskScore scored(bool is_right, bool is_right_norm, std::size_t chosen) {
  TaskScore score;
  score.is_right = is_right;
  score.is_right_norm = is_right_norm;
  score.chosen = chosen;
  return score;
}

/// By hand: 3 of 4 right is .75 with a standard error of sqrt(.75 * .25 / 3) = .25.
TEST(TaskResults, CountSharesWithTheirErrors) {
  std::vector<TaskItem> items(4);
  items[3].task = "other";
  const std::vector<TaskScore> scores = {scored(true, true, 0), scored(true, false, 0),
                                         scored(false, false, 1), scored(true, true, 0)};
  const auto results = task_results(items, scores);
  ASSERT_EQ(results.size(), 3u);
  EXPECT_EQ(results[0].n_items, 3);
  EXPECT_DOUBLE_EQ(results[0].acc.mean, 2.0 / 3);
  EXPECT_EQ(results[1].task, "other");
  EXPECT_EQ(results[1].acc.std_error, 0);
  EXPECT_EQ(results[2].task, "all");
  EXPECT_DOUBLE_EQ(results[2].acc.mean, 0.75);
  EXPECT_DOUBLE_EQ(results[2].acc.std_error, 0.25);
  EXPECT_DOUBLE_EQ(results[2].acc_norm.mean, 0.5);

  const std::vector<TaskScore> reference = {scored(true, true, 0), scored(true, true, 0),
                                            scored(true, true, 0), scored(true, true, 0)};
  const TaskChange change = task_change(scores, reference);
  EXPECT_DOUBLE_EQ(change.acc.mean, -0.25);
  EXPECT_DOUBLE_EQ(change.acc.std_error, 0.25);
  EXPECT_DOUBLE_EQ(change.acc_norm.mean, -0.5);
  EXPECT_DOUBLE_EQ(change.same_choice, 0.75);
  EXPECT_EQ(task_change(reference, reference).acc.std_error, 0);
}

}  // namespace
}  // namespace lowbit
