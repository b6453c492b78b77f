// SPDX-License-Identifier: Apache-2.0
// What quantization cost, in what the model says: perplexity of a text, and the divergence of its
// predictions from those of a reference that is streamed beside it (nothing is written to disk).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/runtime/loaded_model.h"

namespace lowbit {

/// llama: windows of n_ctx tokens, each begun with BOS where the model has one, predictions at
/// positions n_ctx/2 .. n_ctx-2 scored (llama-perplexity). hf: windows of n_ctx tokens, all their
/// predictions scored (the loop of GPTQ and its descendants). A last window that is not full is
/// left out.
enum class Protocol : std::uint8_t { llama, hf };
std::string_view name_of(Protocol protocol);
Result<Protocol> protocol_named(std::string_view name);

/// In windows; false stops.
using EvalProgress = std::function<bool(std::int64_t n_done, std::int64_t n_total)>;

struct EvalOptions {
  Protocol protocol = Protocol::llama;
  std::int64_t n_ctx = 512;
  std::int64_t max_windows = 0;  // 0: all
  EvalProgress progress = {};
};

/// Divergence of the model from the reference over all scored positions, in nats.
struct Divergence {
  double kld_mean = 0, kld_stderr = 0, kld_median = 0, kld_p99 = 0, kld_p999 = 0, kld_max = 0;
  double top1_agreement = 0, top1_stderr = 0;  // share of positions, 0..1
  double rms_delta_p = 0;                      // of the probability of the true token
  double reference_perplexity = 0;
};

struct EvalReport {
  std::int64_t n_windows = 0, n_scored = 0;
  double perplexity = 0, perplexity_stderr = 0;
  std::optional<Divergence> divergence;
};

/// A text as the models read it: windows of n_ctx ids, and which of their predictions count.
struct EvalWindows {
  std::int64_t n_ctx = 0, first_scored = 0;  // positions first_scored .. n_ctx-2 of each window
  std::vector<std::vector<TokenId>> ids = {};
  std::int64_t n_scored_each() const { return n_ctx - 1 - first_scored; }
  std::int64_t n_scored() const { return n_scored_each() * static_cast<std::int64_t>(ids.size()); }
};
/// Errors: a text of less than one window, a window beyond the context.
Result<EvalWindows> cut_windows(const Tokenizer& tokenizer, const ModelConfig& config,
                                std::string_view text, const EvalOptions& options);

/// The logits of a reference at every scored position, kept so that many models are compared with
/// it while it runs once.
struct KeptLogits {
  std::int64_t n_vocab = 0;
  std::vector<float> values;  // (scored positions, n_vocab) row-major
  static std::int64_t n_bytes(const EvalWindows& windows, const ModelConfig& config) {
    return windows.n_scored() * config.n_vocab * static_cast<std::int64_t>(sizeof(float));
  }
};
Result<KeptLogits> keep_logits(LoadedModel& reference, const EvalWindows& windows,
                               const EvalProgress& progress);

/// Errors: a text of less than one window, a window beyond the context, models whose tokenizers
/// differ.
Result<EvalReport> evaluate(LoadedModel& model, LoadedModel* reference, std::string_view text,
                            ThreadPool& pool, const EvalOptions& options);
/// The same of ids, for models without a tokenizer of their own; both give the same report. Errors:
/// an id or a window that a model does not take, vocabularies that differ.
Result<EvalReport> evaluate(LoadedModel& model, LoadedModel* reference, const EvalWindows& windows,
                            ThreadPool& pool, const EvalProgress& progress);
Result<EvalReport> evaluate(LoadedModel& model, const KeptLogits& reference,
                            const EvalWindows& windows, ThreadPool& pool,
                            const EvalProgress& progress);

/// Quantile of values by linear interpolation between order statistics; q in [0, 1].
double quantile(std::vector<double>& values, double q);

}  // namespace lowbit
