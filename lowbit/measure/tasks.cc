// SPDX-License-Identifier: Apache-2.0
// What the choices of an item have in common is read once, for many items in one step; then each
// choice's own tokens overwrite those of the choice before. Logits do not depend on the neighbours
// in a step (docs/design.md, idea C), so how items are put together changes nothing.
#include "lowbit/measure/tasks.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <utility>

#include "lowbit/measure/log_softmax.h"

namespace lowbit {
namespace {

using nlohmann::json;

constexpr std::string_view white_space = " \t\n\r\f\v";

Result<TaskItem> item_of(std::string_view line) {
  const json object = json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return Error("this is no JSON object");
  const auto field = [&](const char* name) {
    const auto at = object.find(name);
    return at == object.end() ? json() : *at;
  };
  const json context = field("context"), choices = field("choices"), answer = field("answer");
  if (!context.is_string()) return Error("\"context\" is not a text");
  if (!choices.is_array() || choices.size() < 2)
    return Error("\"choices\" is not a list of two texts or more");
  TaskItem item;
  item.context = context.get<std::string>();
  for (const json& choice : choices) {
    if (!choice.is_string() || choice.get_ref<const std::string&>().empty())
      return Error("a choice is not a text or is empty");
    item.choices.push_back(choice.get<std::string>());
  }
  const std::int64_t index = answer.is_number_integer() ? answer.get<std::int64_t>() : -1;
  if (index < 0 || index >= std::ssize(item.choices)) {
    return Error(fmt::format("\"answer\" is not one of 0 .. {}", item.choices.size() - 1));
  }
  item.answer = static_cast<std::size_t>(index);
  if (const json task = field("task"); task.is_string()) item.task = task.get<std::string>();
  return item;
}

/// The tokens of an item's choices, each behind the context.
struct Tokens {
  std::vector<std::vector<TokenId>> whole;  // of each choice
  std::int64_t n_context = 0;               // first token that is scored
  std::int64_t n_shared = 0;                // tokens that all begin with and that are read once

  std::span<const TokenId> shared() const {
    return std::span(whole.front()).first(static_cast<std::size_t>(n_shared));
  }
  /// What is read of a choice beyond the shared tokens: all but the last, which predicts nothing.
  std::span<const TokenId> own(std::size_t choice) const {
    return std::span(whole[choice])
        .subspan(static_cast<std::size_t>(n_shared),
                 whole[choice].size() - 1 - static_cast<std::size_t>(n_shared));
  }
  /// Logits are needed from the position before the first scored token on.
  std::int64_t first_row() const { return n_context - 1; }
  std::int64_t n_shared_rows() const { return std::max<std::int64_t>(0, n_shared - first_row()); }
  std::int64_t n_own_rows(std::size_t choice) const {
    return std::ssize(own(choice)) - std::max<std::int64_t>(0, first_row() - n_shared);
  }
  std::int64_t most_tokens() const {
    std::size_t most = 0;
    for (const auto& ids : whole) most = std::max(most, ids.size());
    return static_cast<std::int64_t>(most);
  }
};

Result<Tokens> tokens_of(const TaskItem& item, const Tokenizer& tokenizer,
                         const ModelConfig& config) {
  // Blanks at the end of the context belong to the words that follow, as they do for a tokenizer.
  const std::size_t last = item.context.find_last_not_of(white_space);
  const std::string context = item.context.substr(0, last == std::string::npos ? 0 : last + 1);
  const std::string blanks = item.context.substr(context.size());
  const auto encode = [&](const std::string& text) {
    return tokenizer.encode(text, /*add_bos=*/true, /*parse_special=*/false);
  };
  Tokens tokens;
  std::vector<TokenId> prefix;  // an empty context still needs a token to predict from
  if (context.empty() && !tokenizer.adds_bos()) {
    const auto first = tokenizer.bos() ? tokenizer.bos() : tokenizer.eos();
    if (!first) return Error("an empty context needs a model with a BOS or EOS token");
    prefix.push_back(*first);
  }
  const std::size_t n_context = context.empty() ? 1 : encode(context).size();
  tokens.n_context = static_cast<std::int64_t>(n_context);
  for (const std::string& choice : item.choices) {
    std::vector<TokenId>& ids = tokens.whole.emplace_back(prefix);
    std::ranges::copy(encode(context + blanks + choice), std::back_inserter(ids));
    if (ids.size() <= n_context)
      return Error(fmt::format("the choice \"{}\" has no tokens of its own", choice));
  }
  const auto& first = tokens.whole.front();
  std::size_t n_shared = first.size() - 1;
  for (const auto& ids : tokens.whole) {
    const auto different = std::ranges::mismatch(first, ids).in1;
    n_shared =
        std::min({n_shared, static_cast<std::size_t>(different - first.begin()), ids.size() - 1});
  }
  tokens.n_shared = static_cast<std::int64_t>(n_shared);
  if (tokens.most_tokens() > config.n_ctx_train) {
    return Error(fmt::format("{} tokens are beyond the model's context of {}", tokens.most_tokens(),
                             config.n_ctx_train));
  }
  return tokens;
}

/// Items that are read together.
class Batch {
 public:
  Batch(KvCache& cache, Forward& forward, ThreadPool& pool, std::span<const Tokens> items,
        std::span<TaskScore> scores)
      : cache_(cache),
        forward_(forward),
        pool_(pool),
        items_(items),
        scores_(scores),
        sequences_(items.size()) {}
  ~Batch() {
    for (KvSequence& sequence : sequences_) cache_.release(sequence);
  }

  Status run() {
    std::size_t most_choices = 0;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      if (!cache_.grow(sequences_[i], items_[i].most_tokens()))
        return Error("the KV cache has no room for these items");
      scores_[i].log_likelihood.assign(items_[i].whole.size(), 0);
      most_choices = std::max(most_choices, items_[i].whole.size());
    }
    read_shared();
    for (std::size_t choice = 0; choice < most_choices; ++choice) read_own(choice);
    return ok();
  }

 private:
  /// A piece of an item to be read, and the choices that its logits score.
  struct Piece {
    std::size_t item;
    std::span<const TokenId> tokens;
    std::int64_t position, n_rows;
    std::optional<std::size_t> choice;  // nothing: all of them
  };

  void read_shared() {
    std::vector<Piece> pieces;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      if (items_[i].n_shared > 0)
        pieces.push_back({i, items_[i].shared(), 0, items_[i].n_shared_rows(), std::nullopt});
    }
    read(pieces);
  }
  void read_own(std::size_t choice) {
    std::vector<Piece> pieces;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      const Tokens& item = items_[i];
      if (choice < item.whole.size() && !item.own(choice).empty())
        pieces.push_back({i, item.own(choice), item.n_shared, item.n_own_rows(choice), choice});
    }
    read(pieces);
  }

  /// In steps of at most max_tokens; a long piece is cut.
  void read(std::span<const Piece> pieces) {
    std::vector<Piece> step;
    std::int64_t n_tokens = 0;
    const auto flush = [&] {
      if (!step.empty()) run_step(step);
      step.clear();
      n_tokens = 0;
    };
    for (const Piece& piece : pieces) {
      const std::int64_t n_unscored = std::ssize(piece.tokens) - piece.n_rows;
      for (std::int64_t first = 0; first < std::ssize(piece.tokens);) {
        if (n_tokens == forward_.max_tokens()) flush();
        const std::int64_t n =
            std::min(forward_.max_tokens() - n_tokens, std::ssize(piece.tokens) - first);
        Piece part = piece;
        part.tokens =
            piece.tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n));
        part.position += first;
        part.n_rows = std::clamp<std::int64_t>(first + n - n_unscored, 0, n);
        step.push_back(part);
        n_tokens += n;
        first += n;
        // Two parts of one sequence are never in the same step.
        if (first < std::ssize(piece.tokens)) flush();
      }
    }
    flush();
  }

  void run_step(std::span<const Piece> step) {
    std::vector<StepSequence> sequences;
    std::vector<std::pair<std::size_t, std::int64_t>> rows;  // (piece, position) of each logit row
    for (std::size_t i = 0; i < step.size(); ++i) {
      const Piece& piece = step[i];
      sequences.push_back({piece.tokens, piece.position, &sequences_[piece.item], piece.n_rows});
      const std::int64_t end = piece.position + std::ssize(piece.tokens);
      for (std::int64_t at = end - piece.n_rows; at < end; ++at) rows.emplace_back(i, at);
    }
    const MatrixView logits = forward_.run(sequences, cache_);
    // Normalising is most of the work; the sums are then taken in order.
    std::vector<double> norms(rows.size());
    pool_.parallel_for(std::ssize(rows), /*chunk=*/1,
                       [&](std::int64_t first, std::int64_t last, int) {
                         for (std::int64_t row = first; row < last; ++row)
                           norms[static_cast<std::size_t>(row)] = log_sum_exp(logits.row_span(row));
                       });
    for (std::size_t row = 0; row < rows.size(); ++row) {
      const auto& [index, position] = rows[row];
      const Piece& piece = step[index];
      const auto next = static_cast<std::size_t>(position + 1);
      const std::span<const float> line = logits.row_span(static_cast<std::int64_t>(row));
      const Tokens& item = items_[piece.item];
      for (std::size_t choice = 0; choice < item.whole.size(); ++choice) {
        if (piece.choice && *piece.choice != choice) continue;
        const auto token = static_cast<std::size_t>(item.whole[choice][next]);
        scores_[piece.item].log_likelihood[choice] += static_cast<double>(line[token]) - norms[row];
      }
    }
  }

  KvCache& cache_;
  Forward& forward_;
  ThreadPool& pool_;
  std::span<const Tokens> items_;
  std::span<TaskScore> scores_;
  std::vector<KvSequence> sequences_;
};

/// Code points of UTF-8.
double n_characters(std::string_view text) {
  const auto begins_one = [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; };
  return static_cast<double>(std::ranges::count_if(text, begins_one));
}

void choose(const TaskItem& item, TaskScore& score) {
  std::vector<double> per_letter;
  for (std::size_t i = 0; i < item.choices.size(); ++i)
    per_letter.push_back(score.log_likelihood[i] / n_characters(item.choices[i]));
  const auto best = [](const std::vector<double>& values) {
    return static_cast<std::size_t>(std::ranges::max_element(values) - values.begin());
  };
  score.chosen = best(score.log_likelihood);
  score.chosen_norm = best(per_letter);
  score.is_right = score.chosen == item.answer;
  score.is_right_norm = score.chosen_norm == item.answer;
}

Share share_of(std::span<const double> values) {
  const auto n = static_cast<double>(values.size());
  if (values.empty()) return {};
  double sum = 0, squares = 0;
  for (const double value : values) sum += value;
  const double mean = sum / n;
  for (const double value : values) squares += (value - mean) * (value - mean);
  return {mean, values.size() < 2 ? 0 : std::sqrt(squares / (n - 1) / n)};
}

}  // namespace

Result<std::vector<TaskItem>> parse_tasks(std::string_view json_lines) {
  std::vector<TaskItem> items;
  for (std::int64_t number = 1; !json_lines.empty(); ++number) {
    const std::size_t end = std::min(json_lines.find('\n'), json_lines.size());
    const std::string_view line = json_lines.substr(0, end);
    json_lines.remove_prefix(std::min(end + 1, json_lines.size()));
    if (line.find_first_not_of(white_space) == std::string_view::npos) continue;
    auto item = item_of(line);
    if (!item) return std::move(item).error().in(fmt::format("line {}", number));
    item->line = number;
    items.push_back(*std::move(item));
  }
  if (items.empty()) return Error("there is no item in it");
  return items;
}

Result<std::vector<TaskScore>> score_tasks(LoadedModel& model, std::span<const TaskItem> items,
                                           ThreadPool& pool, const EvalProgress& progress) {
  constexpr std::int64_t step_tokens = 512, most_sequences = 64;
  std::vector<Tokens> tokens;
  std::int64_t most_tokens = 0;
  for (const TaskItem& item : items) {
    auto ids = tokens_of(item, model.tokenizer(), model.weights().config);
    if (!ids) return std::move(ids).error().in(fmt::format("line {}", item.line));
    most_tokens = std::max(most_tokens, ids->most_tokens());
    tokens.push_back(*std::move(ids));
  }
  // Whole blocks of positions for each sequence of a batch, whichever items those are.
  const std::int64_t n_positions =
      std::max(most_tokens, step_tokens) + most_sequences * kv_block_positions;
  auto cache = KvCache::create(model.backend(), model.kv_shape(), n_positions);
  if (!cache) return std::move(cache).error();
  Forward forward(model.backend(), model.weights(), step_tokens);
  std::vector<TaskScore> scores(items.size());
  for (std::size_t first = 0; first < items.size();) {
    if (progress &&
        !progress(static_cast<std::int64_t>(first), static_cast<std::int64_t>(items.size())))
      return Error("interrupted");
    std::size_t last = first;
    std::int64_t n_tokens = 0;
    while (last < items.size() && last - first < most_sequences &&
           (last == first || n_tokens + tokens[last].most_tokens() <= step_tokens)) {
      n_tokens += tokens[last++].most_tokens();
    }
    Batch batch(*cache, forward, pool, std::span(tokens).subspan(first, last - first),
                std::span(scores).subspan(first, last - first));
    if (Status status = batch.run(); !status) return std::move(status).error();
    first = last;
  }
  for (std::size_t i = 0; i < items.size(); ++i) {
    for (const double value : scores[i].log_likelihood) {
      if (!std::isfinite(value)) {
        return Error(
            "the model's predictions are not finite numbers; the file is damaged or the recipe "
            "overflows");
      }
    }
    choose(items[i], scores[i]);
  }
  return scores;
}

std::vector<TaskResult> task_results(std::span<const TaskItem> items,
                                     std::span<const TaskScore> scores) {
  std::vector<std::string> names;
  for (const TaskItem& item : items) {
    if (std::ranges::find(names, item.task) == names.end()) names.push_back(item.task);
  }
  const auto result = [&](const std::string& name, bool is_all) {
    std::vector<double> right, right_norm;
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (!is_all && items[i].task != name) continue;
      right.push_back(scores[i].is_right ? 1 : 0);
      right_norm.push_back(scores[i].is_right_norm ? 1 : 0);
    }
    return TaskResult{name, std::ssize(right), share_of(right), share_of(right_norm)};
  };
  std::vector<TaskResult> results;
  for (const std::string& name : names) results.push_back(result(name, /*is_all=*/false));
  if (names.size() > 1) results.push_back(result("all", /*is_all=*/true));
  return results;
}

TaskChange task_change(std::span<const TaskScore> scores, std::span<const TaskScore> reference) {
  std::vector<double> change, change_norm;
  std::int64_t n_same = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    change.push_back(static_cast<double>(scores[i].is_right) -
                     static_cast<double>(reference[i].is_right));
    change_norm.push_back(static_cast<double>(scores[i].is_right_norm) -
                          static_cast<double>(reference[i].is_right_norm));
    if (scores[i].chosen == reference[i].chosen) ++n_same;
  }
  const auto n = static_cast<double>(std::max<std::size_t>(1, scores.size()));
  return {share_of(change), share_of(change_norm), static_cast<double>(n_same) / n};
}

}  // namespace lowbit
