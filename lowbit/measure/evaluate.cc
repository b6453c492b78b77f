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

Result<EvalReport> evaluate(LoadedModel& model, LoadedModel* reference, std::string_view text,
                            ThreadPool& pool, const EvalOptions& options) {
  const std::int64_t n_ctx = options.n_ctx;
  constexpr std::int64_t least_ctx = 4;
  if (n_ctx < least_ctx)
    return Error(
        fmt::format("a window of {} tokens is too short, use at least {}", n_ctx, least_ctx));
  for (const LoadedModel* each :
       {static_cast<const LoadedModel*>(&model), static_cast<const LoadedModel*>(reference)}) {
    if (each != nullptr && n_ctx > each->weights().config.n_ctx_train) {
      return Error(fmt::format(
          "a window of {} tokens is beyond the model's context of {}; use a smaller --ctx", n_ctx,
          each->weights().config.n_ctx_train));
    }
  }
  const std::vector<TokenId> tokens =
      model.tokenizer().encode(text, /*add_bos=*/true, /*parse_special=*/false);
  if (reference != nullptr &&
      (reference->weights().config.n_vocab != model.weights().config.n_vocab ||
       reference->tokenizer().encode(text, /*add_bos=*/true, /*parse_special=*/false) != tokens)) {
    return Error(
        "the model and its reference do not tokenize the text alike; compare models of one family");
  }
  std::int64_t n_windows = static_cast<std::int64_t>(tokens.size()) / n_ctx;
  if (options.max_windows > 0) n_windows = std::min(n_windows, options.max_windows);
  if (n_windows == 0) {
    return Error(fmt::format(
        "the text has {} tokens, less than one window of {}; use a longer text or a smaller --ctx",
        tokens.size(), n_ctx));
  }
  auto reader = Reader::create(model, n_ctx);
  if (!reader) return std::move(reader).error();
  std::unique_ptr<Reader> reference_reader;
  if (reference != nullptr) {
    auto created = Reader::create(*reference, n_ctx);
    if (!created) return std::move(created).error();
    reference_reader = std::move(*created);
  }

  const std::int64_t first_scored = options.protocol == Protocol::llama ? n_ctx / 2 : 0;
  const std::int64_t n_scored = n_ctx - 1 - first_scored;
  Scores scores;
  for (std::int64_t window = 0; window < n_windows; ++window) {
    if (options.progress && !options.progress(window, n_windows)) return Error("interrupted");
    std::vector<TokenId> ids(tokens.begin() + window * n_ctx,
                             tokens.begin() + (window + 1) * n_ctx);
    if (options.protocol == Protocol::llama && model.tokenizer().adds_bos() &&
        model.tokenizer().bos()) {
      ids[0] = *model.tokenizer().bos();
    }
    for (Reader* each : {reader->get(), reference_reader.get()}) {
      if (each == nullptr) continue;
      if (Status status = each->start(n_ctx); !status) return std::move(status).error();
    }
    const auto at = static_cast<std::size_t>(window * n_scored);
    const auto n_total = at + static_cast<std::size_t>(n_scored);
    scores.nll.resize(n_total);
    if (reference != nullptr) {
      for (auto* values : {&scores.kld, &scores.delta_p, &scores.reference_nll})
        values->resize(n_total);
    }
    std::vector<char> same_top(static_cast<std::size_t>(n_scored));
    // The last token of a window predicts nothing that is scored.
    for (std::int64_t first = 0; first < n_ctx - 1;) {
      const std::int64_t border = first < first_scored ? first_scored : n_ctx - 1;
      const std::int64_t n = std::min(tokens_per_step, border - first);
      const std::span<const TokenId> piece(ids.data() + first, static_cast<std::size_t>(n));
      const std::int64_t n_logits = first < first_scored ? 0 : n;
      const MatrixView logits = (*reader)->read(piece, first, n_logits);
      const MatrixView teacher =
          reference_reader ? reference_reader->read(piece, first, n_logits) : MatrixView();
      pool.parallel_for(n_logits, /*chunk=*/1, [&](std::int64_t begin, std::int64_t end, int) {
        for (std::int64_t i = begin; i < end; ++i) {
          const TokenId next = ids[static_cast<std::size_t>(first + i + 1)];
          const std::int64_t place = first + i - first_scored;
          const auto slot = at + static_cast<std::size_t>(place);
          if (!reference_reader) {
            scores.nll[slot] = negative_log_likelihood(logits.row_span(i), next);
            continue;
          }
          const PositionDivergence d =
              compare_logits(teacher.row_span(i), logits.row_span(i), next);
          scores.nll[slot] = d.student_nll;
          scores.reference_nll[slot] = d.teacher_nll;
          scores.kld[slot] = d.kld;
          scores.delta_p[slot] = d.delta_p;
          same_top[static_cast<std::size_t>(place)] = d.same_top ? 1 : 0;
        }
      });
      first += n;
    }
    for (const char same : same_top) scores.n_same_top += same;
  }
  if (options.progress) options.progress(n_windows, n_windows);

  EvalReport report;
  report.n_windows = n_windows;
  report.n_scored = static_cast<std::int64_t>(scores.nll.size());
  report.perplexity = std::exp(mean(scores.nll));
  report.perplexity_stderr = report.perplexity * stderr_of(scores.nll);
  if (!std::isfinite(report.perplexity)) {
    return Error(
        "the model's predictions are not finite numbers; the file is damaged or the recipe "
        "overflows");
  }
  if (reference != nullptr) report.divergence = divergence_of(scores);
  return report;
}

}  // namespace lowbit
