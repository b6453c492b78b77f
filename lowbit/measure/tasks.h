// SPDX-License-Identifier: Apache-2.0
// Multiple choice and cloze by log-likelihood, after the protocol of lm-eval: every choice is
// appended to its context, its tokens are scored, and the model chooses the choice with the highest
// sum of log-probabilities (acc) or the highest per character of the choice (acc_norm).
//
// A file of items has one JSON object a line:
//   {"context": "The capital of France is", "choices": [" Paris", " Rome"], "answer": 0}
// context: text, perhaps empty; choices: at least two texts, appended as they are (with the blank
// that belongs before a word); answer: index of the right one; "task" (optional): the name under
// which its results are counted. Other fields are ignored, empty lines too.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/measure/evaluate.h"
#include "lowbit/runtime/loaded_model.h"

namespace lowbit {

struct TaskItem {
  std::string task, context;
  std::vector<std::string> choices;
  std::size_t answer = 0;
  std::int64_t line = 0;
};
/// Errors name the line.
Result<std::vector<TaskItem>> parse_tasks(std::string_view json_lines);

/// What a model makes of one item.
struct TaskScore {
  std::vector<double> log_likelihood;       // of each choice, in nats
  std::size_t chosen = 0, chosen_norm = 0;  // by sum, and by sum per character
  bool is_right = false, is_right_norm = false;
};

/// Errors name the line: a context beyond the model's, a choice without tokens of its own.
Result<std::vector<TaskScore>> score_tasks(LoadedModel& model, std::span<const TaskItem> items,
                                           ThreadPool& pool, const EvalProgress& progress);

/// A share of items with the standard error of its mean.
struct Share {
  double mean = 0, std_error = 0;
};
struct TaskResult {
  std::string task;
  std::int64_t n_items = 0;
  Share acc, acc_norm;
};
/// By task, in the order of their first items; of several tasks a last line "all" counts all items.
std::vector<TaskResult> task_results(std::span<const TaskItem> items,
                                     std::span<const TaskScore> scores);

/// Mean over items of (right by the model) - (right by the reference): its standard error is the
/// paired one, smaller than that of two independent shares.
struct TaskChange {
  Share acc, acc_norm;
  double same_choice = 0;  // share of the items
};
TaskChange task_change(std::span<const TaskScore> scores, std::span<const TaskScore> reference);

}  // namespace lowbit
