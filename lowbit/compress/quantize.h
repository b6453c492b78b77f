// SPDX-License-Identifier: Apache-2.0
// A recipe applied to a whole model. Without calibration text tensor by tensor, memory holding one
// at a time (or slices of it); with it block by block (pipeline.h). The output appears whole or not
// at all, and what was written is loaded again and compared with its source.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/calibration_text.h"
#include "lowbit/compress/pipeline.h"
#include "lowbit/compress/plan_tensors.h"
#include "lowbit/compress/statistics.h"
#include "lowbit/measure/evaluate.h"
#include "lowbit/model/model_writer.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

struct QuantizeOptions {
  std::optional<TensorRecipe> recipe;  // nothing: only the container changes (convert)
  std::vector<Rule> rules;
  FallbackChoice fallback;
  std::string output;
  FolderConvention convention = {};  // of an output that is a folder
  /// What is known of the inputs of matrices by other means than calibration: an imatrix. It is
  /// enough for methods that ask for activations.
  ModelStats statistics = {};
  /// Text for methods that need it, and for those that are better with it. Finished blocks then
  /// stand in OUTPUT.work/ until the output does: the same request goes on from there.
  std::optional<CalibrationText> calibration = {};
  std::int64_t memory_bytes = std::int64_t{2} << 30;  // the mapped source aside
  /// False stops; nothing is left behind but finished blocks of a calibrated run. what: the tensor
  /// or layer at work.
  std::function<bool(std::string_view what, std::int64_t n_done, std::int64_t n_total)> progress =
      {};
};

struct QuantizeReport {
  std::string output;
  std::int64_t n_bytes = 0;    // of the output file or folder
  double bits_per_weight = 0;  // of all matrices, embeddings and head included
  double seconds = 0;
  std::int64_t peak_bytes = 0;  // most resident memory of this process so far
  std::vector<Fallback> fallbacks;
  std::vector<PipelineReport::Note> notes = {};  // of rounders: what became of a tensor
  std::optional<PipelineReport> calibration = {};
  std::int64_t n_calibration_windows = 0;
};

/// Errors name the tensor. Nothing is left behind when one occurs.
Result<QuantizeReport> quantize_model(const ModelFile& source, const QuantizeOptions& options,
                                      ThreadPool& pool);

struct SelfTest {
  double kld_mean = 0, top1_agreement = 0;
  std::int64_t n_scored = 0;
};
/// Loads `output` again and compares its predictions with the source's on a text that is part of
/// the binary, both with f32 activations. Nothing, with the reason in `skipped`, when both models
/// do not fit into memory side by side or have no tokenizer.
Result<std::optional<SelfTest>> self_test(const ModelFile& source, const std::string& output,
                                          ThreadPool& pool, std::string& skipped,
                                          const EvalProgress& progress);

/// The public-domain text of the self-test, 16 kB: the opening of Jane Austen's "Persuasion"
/// (1817).
std::string_view self_test_text();

/// The w= of a recipe as a transform at load: every matrix is decoded and rounded. Errors: unknown
/// method or scheme.
Result<TensorTransform> requantizing(std::string_view weight_recipe, ThreadPool& pool);

/// Most resident memory of this process so far, in bytes.
std::int64_t peak_resident_bytes();

}  // namespace lowbit
