// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/evaluate.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "lowbit/measure/log_softmax.h"

namespace lowbit {
namespace {

/// Logits are asked for in pieces of this many positions: a whole window of a large vocabulary
/// would take more memory than the model. Cutting a window changes no bits (docs/design.md, idea
/// C).
constexpr std::int64_t tokens_per_step = 128;

/// One model reading one window after another.
class Reader {
 public:
  static Result<std::unique_ptr<Reader>> create(LoadedModel& model, std::int64_t n_ctx) {
    auto cache = KvCache::create(model.backend(), model.kv_shape(), n_ctx);
    if (!cache) return std::move(cache).error();
    return std::unique_ptr<Reader>(new Reader(model, std::move(*cache)));
  }
  ~Reader() { cache_.release(sequence_); }

  Status start(std::int64_t n_ctx) {
    cache_.release(sequence_);
    sequence_ = KvSequence();
    if (!cache_.grow(sequence_, n_ctx)) return Error("the KV cache has no room for one window");
    return ok();
  }
  /// Reads tokens at the given position; logits of the last n_logits of them.
  MatrixView read(std::span<const TokenId> tokens, std::int64_t position, std::int64_t n_logits) {
    const StepSequence step{tokens, position, &sequence_, n_logits};
    return forward_.run({&step, 1}, cache_);
  }

 private:
  Reader(LoadedModel& model, KvCache cache)
      : cache_(std::move(cache)), forward_(model.backend(), model.weights(), tokens_per_step) {}

  KvCache cache_;
  KvSequence sequence_;
  Forward forward_;
};

/// Where the logits of the reference come from: it runs beside the model, or ran before.
class Teacher {
 public:
  explicit Teacher(std::unique_ptr<Reader> reader) : reader_(std::move(reader)) {}
  explicit Teacher(const KeptLogits& kept) : kept_(&kept) {}

  Status start(std::int64_t n_ctx) { return reader_ ? reader_->start(n_ctx) : ok(); }
  /// first_row: of the first logits asked for, counted over all scored positions.
  MatrixView read(std::span<const TokenId> tokens, std::int64_t position, std::int64_t n_logits,
                  std::int64_t first_row) {
    if (reader_) return reader_->read(tokens, position, n_logits);
    return {kept_->values.data() + first_row * kept_->n_vocab, n_logits, kept_->n_vocab};
  }

 private:
  std::unique_ptr<Reader> reader_;
  const KeptLogits* kept_ = nullptr;
};

/// Calls visit(tokens, position, n_logits, first_row) for each step of a window: none where nothing
/// is scored yet, then tokens_per_step at a time. The last token of a window predicts nothing that
/// is scored.
template <class Visit>
void for_each_step(const EvalWindows& windows, std::size_t window, const Visit& visit) {
  const std::span<const TokenId> ids = windows.ids[window];
  const auto row_of_window = static_cast<std::int64_t>(window) * windows.n_scored_each();
  for (std::int64_t first = 0; first < windows.n_ctx - 1;) {
    const bool is_scored = first >= windows.first_scored;
    const std::int64_t border = is_scored ? windows.n_ctx - 1 : windows.first_scored;
    const std::int64_t n = std::min(tokens_per_step, border - first);
    visit(ids.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(n)), first,
          is_scored ? n : 0, is_scored ? row_of_window + first - windows.first_scored : 0);
    first += n;
  }
}

Status check_fits(const EvalWindows& windows, const ModelConfig& config) {
  if (windows.n_ctx > config.n_ctx_train) {
    return Error(fmt::format(
        "a window of {} tokens is beyond the model's context of {}; use a smaller --ctx",
        windows.n_ctx, config.n_ctx_train));
  }
  for (const auto& ids : windows.ids) {
    const auto at =
        std::ranges::find_if(ids, [&](TokenId id) { return id < 0 || id >= config.n_vocab; });
    if (at != ids.end())
      return Error(fmt::format("the text has token {}, the model only {}", *at, config.n_vocab));
  }
  return ok();
}

struct Scores {
  std::vector<double> nll, reference_nll, kld, delta_p;
  std::int64_t n_same_top = 0;
};

double mean(std::span<const double> values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

/// Standard error of the mean.
double stderr_of(std::span<const double> values) {
  if (values.size() < 2) return 0;
  const double m = mean(values);
  double sum = 0;
  for (const double value : values) sum += (value - m) * (value - m);
  const auto n = static_cast<double>(values.size());
  return std::sqrt(sum / (n - 1) / n);
}

Divergence divergence_of(Scores& scores) {
  Divergence d;
  const auto n = static_cast<double>(scores.kld.size());
  d.kld_mean = mean(scores.kld);
  d.kld_stderr = stderr_of(scores.kld);
  d.kld_median = quantile(scores.kld, 0.5);
  d.kld_p99 = quantile(scores.kld, 0.99);
  d.kld_p999 = quantile(scores.kld, 0.999);
  d.kld_max = quantile(scores.kld, 1);
  d.top1_agreement = static_cast<double>(scores.n_same_top) / n;
  d.top1_stderr = n > 1 ? std::sqrt(d.top1_agreement * (1 - d.top1_agreement) / (n - 1)) : 0;
  double squares = 0;
  for (const double delta : scores.delta_p) squares += delta * delta;
  d.rms_delta_p = std::sqrt(squares / n);
  d.reference_perplexity = std::exp(mean(scores.reference_nll));
  return d;
}

}  // namespace

std::string_view name_of(Protocol protocol) {
  return protocol == Protocol::llama ? "llama" : "hf";
}

Result<Protocol> protocol_named(std::string_view name) {
  for (const Protocol protocol : {Protocol::llama, Protocol::hf}) {
    if (name_of(protocol) == name) return protocol;
  }
  return Error(fmt::format("unknown protocol \"{}\"; known are llama and hf", name));
}

double quantile(std::vector<double>& values, double q) {
  if (values.empty()) return 0;
  std::ranges::sort(values);
  const double place = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<std::size_t>(place);
  const std::size_t high = std::min(low + 1, values.size() - 1);
  const double fraction = place - static_cast<double>(low);
  return values[low] + (values[high] - values[low]) * fraction;
}

Result<EvalWindows> cut_windows(const Tokenizer& tokenizer, const ModelConfig& config,
                                std::string_view text, const EvalOptions& options) {
  EvalWindows windows{.n_ctx = options.n_ctx};
  constexpr std::int64_t least_ctx = 4;
  if (windows.n_ctx < least_ctx) {
    return Error(fmt::format("a window of {} tokens is too short, use at least {}", windows.n_ctx,
                             least_ctx));
  }
  if (Status status = check_fits(windows, config); !status) return std::move(status).error();
  const std::vector<TokenId> tokens =
      tokenizer.encode(text, /*add_bos=*/true, /*parse_special=*/false);
  std::int64_t n_windows = static_cast<std::int64_t>(tokens.size()) / windows.n_ctx;
  if (options.max_windows > 0) n_windows = std::min(n_windows, options.max_windows);
  if (n_windows == 0) {
    return Error(fmt::format(
        "the text has {} tokens, less than one window of {}; use a longer text or a smaller --ctx",
        tokens.size(), windows.n_ctx));
  }
  const bool is_llama = options.protocol == Protocol::llama;
  windows.first_scored = is_llama ? windows.n_ctx / 2 : 0;
  for (std::int64_t i = 0; i < n_windows; ++i) {
    auto& ids = windows.ids.emplace_back(tokens.begin() + i * windows.n_ctx,
                                         tokens.begin() + (i + 1) * windows.n_ctx);
    if (is_llama && tokenizer.adds_bos() && tokenizer.bos()) ids[0] = *tokenizer.bos();
  }
  return windows;
}

Result<KeptLogits> keep_logits(LoadedModel& reference, const EvalWindows& windows,
                               const EvalProgress& progress) {
  const ModelConfig& config = reference.weights().config;
  if (Status status = check_fits(windows, config); !status) return std::move(status).error();
  auto reader = Reader::create(reference, windows.n_ctx);
  if (!reader) return std::move(reader).error();
  KeptLogits kept{.n_vocab = config.n_vocab, .values = {}};
  kept.values.resize(static_cast<std::size_t>(windows.n_scored() * config.n_vocab));
  const auto n_windows = static_cast<std::int64_t>(windows.ids.size());
  for (std::size_t window = 0; window < windows.ids.size(); ++window) {
    if (progress && !progress(static_cast<std::int64_t>(window), n_windows))
      return Error("interrupted");
    if (Status status = (*reader)->start(windows.n_ctx); !status) return std::move(status).error();
    for_each_step(windows, window,
                  [&](std::span<const TokenId> piece, std::int64_t first, std::int64_t n_logits,
                      std::int64_t first_row) {
                    const MatrixView logits = (*reader)->read(piece, first, n_logits);
                    for (std::int64_t i = 0; i < n_logits; ++i) {
                      std::ranges::copy(logits.row_span(i),
                                        kept.values.begin() + (first_row + i) * config.n_vocab);
                    }
                  });
  }
  if (progress) progress(n_windows, n_windows);
  return kept;
}

namespace {

Result<EvalReport> evaluate(LoadedModel& model, std::optional<Teacher> teacher,
                            const EvalWindows& windows, ThreadPool& pool,
                            const EvalProgress& progress) {
  if (Status status = check_fits(windows, model.weights().config); !status)
    return std::move(status).error();
  auto reader = Reader::create(model, windows.n_ctx);
  if (!reader) return std::move(reader).error();
  const auto n_scored = static_cast<std::size_t>(windows.n_scored());
  Scores scores;
  scores.nll.resize(n_scored);
  if (teacher) {
    for (auto* values : {&scores.kld, &scores.delta_p, &scores.reference_nll})
      values->resize(n_scored);
  }
  std::vector<char> same_top(n_scored);
  const auto n_windows = static_cast<std::int64_t>(windows.ids.size());
  for (std::size_t window = 0; window < windows.ids.size(); ++window) {
    if (progress && !progress(static_cast<std::int64_t>(window), n_windows))
      return Error("interrupted");
    if (Status status = (*reader)->start(windows.n_ctx); !status) return std::move(status).error();
    if (teacher) {
      if (Status status = teacher->start(windows.n_ctx); !status) return std::move(status).error();
    }
    const std::span<const TokenId> ids = windows.ids[window];
    for_each_step(windows, window,
                  [&](std::span<const TokenId> piece, std::int64_t first, std::int64_t n_logits,
                      std::int64_t first_row) {
                    const MatrixView logits = (*reader)->read(piece, first, n_logits);
                    const MatrixView expected =
                        teacher ? teacher->read(piece, first, n_logits, first_row) : MatrixView();
                    pool.parallel_for(
                        n_logits, /*chunk=*/1, [&](std::int64_t begin, std::int64_t end, int) {
                          for (std::int64_t i = begin; i < end; ++i) {
                            const TokenId next = ids[static_cast<std::size_t>(first + i + 1)];
                            const auto slot = static_cast<std::size_t>(first_row + i);
                            if (!teacher) {
                              scores.nll[slot] = negative_log_likelihood(logits.row_span(i), next);
                              continue;
                            }
                            const PositionDivergence d =
                                compare_logits(expected.row_span(i), logits.row_span(i), next);
                            scores.nll[slot] = d.student_nll;
                            scores.reference_nll[slot] = d.teacher_nll;
                            scores.kld[slot] = d.kld;
                            scores.delta_p[slot] = d.delta_p;
                            same_top[slot] = d.same_top ? 1 : 0;
                          }
                        });
                  });
  }
  if (progress) progress(n_windows, n_windows);
  for (const char same : same_top) scores.n_same_top += same;

  EvalReport report;
  report.n_windows = n_windows;
  report.n_scored = windows.n_scored();
  report.perplexity = std::exp(mean(scores.nll));
  report.perplexity_stderr = report.perplexity * stderr_of(scores.nll);
  if (!std::isfinite(report.perplexity)) {
    return Error(
        "the model's predictions are not finite numbers; the file is damaged or the recipe "
        "overflows");
  }
  if (teacher) report.divergence = divergence_of(scores);
  return report;
}

Status check_same_vocabulary(const LoadedModel& model, std::int64_t n_vocab) {
  if (model.weights().config.n_vocab == n_vocab) return ok();
  return Error(
      "the model and its reference do not have the same tokens; compare models of one family");
}

}  // namespace

Result<EvalReport> evaluate(LoadedModel& model, LoadedModel* reference, const EvalWindows& windows,
                            ThreadPool& pool, const EvalProgress& progress) {
  if (reference == nullptr) return evaluate(model, std::nullopt, windows, pool, progress);
  const ModelConfig& config = reference->weights().config;
  if (Status status = check_same_vocabulary(model, config.n_vocab); !status)
    return std::move(status).error();
  if (Status status = check_fits(windows, config); !status) return std::move(status).error();
  auto reader = Reader::create(*reference, windows.n_ctx);
  if (!reader) return std::move(reader).error();
  return evaluate(model, Teacher(*std::move(reader)), windows, pool, progress);
}

Result<EvalReport> evaluate(LoadedModel& model, const KeptLogits& reference,
                            const EvalWindows& windows, ThreadPool& pool,
                            const EvalProgress& progress) {
  if (Status status = check_same_vocabulary(model, reference.n_vocab); !status)
    return std::move(status).error();
  if (reference.values.size() != static_cast<std::size_t>(windows.n_scored() * reference.n_vocab))
    return Error("the logits that were kept belong to another text");
  return evaluate(model, Teacher(reference), windows, pool, progress);
}

Result<EvalReport> evaluate(LoadedModel& model, LoadedModel* reference, std::string_view text,
                            ThreadPool& pool, const EvalOptions& options) {
  auto windows = cut_windows(model.tokenizer(), model.weights().config, text, options);
  if (!windows) return std::move(windows).error();
  if (reference != nullptr) {
    const auto ids_of = [&](const LoadedModel& each) {
      return each.tokenizer().encode(text, /*add_bos=*/true, /*parse_special=*/false);
    };
    if (reference->weights().config.n_vocab != model.weights().config.n_vocab ||
        ids_of(*reference) != ids_of(model)) {
      return Error(
          "the model and its reference do not tokenize the text alike; compare models of one "
          "family");
    }
  }
  return evaluate(model, reference, *windows, pool, options.progress);
}

}  // namespace lowbit
