// SPDX-License-Identifier: Apache-2.0
#include "lowbit/app/tasks.h"

#include <fmt/format.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "lowbit/app/interrupt.h"
#include "lowbit/app/terminal.h"
#include "lowbit/measure/model_work.h"
#include "lowbit/measure/tasks.h"

namespace lowbit::app {
namespace {

using nlohmann::ordered_json;

struct Scored {
  std::vector<TaskScore> scores;
  std::string recipe;  // by which the model ran
};

Result<Scored> score(const std::string& path, const Recipe& recipe,
                     const std::vector<TaskItem>& items, const TasksOptions& options,
                     ThreadPool& pool, const std::string& what) {
  auto model = load_model(path, recipe, pool, options.model.verbose, /*pack_cache=*/false);
  if (!model) return std::move(model).error();
  Progress progress(what);
  auto scores = score_tasks(**model, items, pool, [&](std::int64_t n_done, std::int64_t n_total) {
    return progress(n_done, n_total);
  });
  if (!scores) return std::move(scores).error().in(options.items);
  return Scored{*std::move(scores), recipe_in_use(**model)};
}

ordered_json json_of(const TaskResult& result) {
  return {{"task", result.task},
          {"items", result.n_items},
          {"acc", result.acc.mean},
          {"acc_stderr", result.acc.std_error},
          {"acc_norm", result.acc_norm.mean},
          {"acc_norm_stderr", result.acc_norm.std_error}};
}

ordered_json to_json(const std::vector<TaskItem>& items, const Scored& model,
                     const std::optional<Scored>& reference) {
  ordered_json object = {{"recipe", model.recipe}, {"tasks", ordered_json::array()}};
  for (const TaskResult& result : task_results(items, model.scores))
    object["tasks"].push_back(json_of(result));
  if (!reference) return object;
  object["reference"] = ordered_json::array();
  for (const TaskResult& result : task_results(items, reference->scores))
    object["reference"].push_back(json_of(result));
  const TaskChange change = task_change(model.scores, reference->scores);
  object["change"] = {{"acc", change.acc.mean},
                      {"acc_stderr", change.acc.std_error},
                      {"acc_norm", change.acc_norm.mean},
                      {"acc_norm_stderr", change.acc_norm.std_error},
                      {"same_choice", change.same_choice}};
  return object;
}

std::string line_of(const TaskResult& result) {
  const auto percent = [](const Share& share) {
    return fmt::format("{:6.2f} % +- {:.2f}", 100 * share.mean, 100 * share.std_error);
  };
  return fmt::format("{:16} {:6} items   acc {}   acc_norm {}\n",
                     result.task.empty() ? "tasks" : result.task, result.n_items,
                     percent(result.acc), percent(result.acc_norm));
}

std::string to_text(const std::vector<TaskItem>& items, const Scored& model,
                    const std::optional<Scored>& reference) {
  std::string text = fmt::format("recipe {}\n", model.recipe);
  for (const TaskResult& result : task_results(items, model.scores)) text += line_of(result);
  if (!reference) return text;
  text += fmt::format("reference, {}\n", reference->recipe);
  for (const TaskResult& result : task_results(items, reference->scores)) text += line_of(result);
  const TaskChange change = task_change(model.scores, reference->scores);
  return text +
         fmt::format(
             "change in points: acc {:+.2f} +- {:.2f}, acc_norm {:+.2f} +- {:.2f} (paired); same "
             "choice {:.2f} %\n",
             100 * change.acc.mean, 100 * change.acc.std_error, 100 * change.acc_norm.mean,
             100 * change.acc_norm.std_error, 100 * change.same_choice);
}

/// One JSON object an item, in the order of the file.
Status write_samples(const std::string& path, const std::vector<TaskItem>& items,
                     const std::vector<TaskScore>& scores) {
  std::ofstream file(path, std::ios::binary);
  for (std::size_t i = 0; i < items.size(); ++i) {
    const ordered_json sample = {{"line", items[i].line},
                                 {"answer", items[i].answer},
                                 {"chosen", scores[i].chosen},
                                 {"chosen_norm", scores[i].chosen_norm},
                                 {"log_likelihood", scores[i].log_likelihood}};
    file << sample.dump() << '\n';
  }
  file.close();
  if (!file) return Error(fmt::format("cannot write {}", path));
  return ok();
}

}  // namespace

Exit run_tasks(const TasksOptions& options, const Recipe& recipe, const std::string& text) {
  auto items = parse_tasks(text);
  if (!items) return fail(Error(items.error()).in(options.items));
  watch_interrupts();
  const auto pool = make_pool(options.model);
  auto model = score(options.model.model, recipe, *items, options, *pool, "answering");
  if (!model) return fail(model.error());
  std::optional<Scored> reference;
  if (!options.reference.empty()) {
    auto scored = score(options.reference, exact_recipe(), *items, options, *pool,
                        "answering as the reference");
    if (!scored) return fail(scored.error());
    reference = *std::move(scored);
  }
  if (!options.samples.empty()) {
    if (Status status = write_samples(options.samples, *items, model->scores); !status)
      return fail(status.error());
  }
  return print_result(options.json ? to_json(*items, *model, reference).dump() + "\n"
                                   : to_text(*items, *model, reference));
}

}  // namespace lowbit::app
