// SPDX-License-Identifier: Apache-2.0
// What quantize_model would write, as a model in memory: for judging many recipes without files.
// The same tensors, and the sizes they would have in a container.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/fold.h"
#include "lowbit/compress/pipeline.h"
#include "lowbit/compress/quantize.h"

namespace lowbit {

struct ModelInMemory {
  std::unique_ptr<TensorSource> source;  // of whatever was not quantized; the file must outlive it
  std::unique_ptr<FoldedModel> folded;   // the source behind transforms that need no data, or null
  std::unique_ptr<QuantizedModel> tensors;
  /// Of all matrices, embeddings and head included: as GGUF stores those that it can hold, as a
  /// folder stores the others.
  double bits_per_weight = 0;
  double seconds = 0;
  std::vector<std::string> notes;  // fallbacks, methods that gave up
};

/// request: recipe, rules, fallback, memory and progress count. windows: of calibration, or null
/// where no method needs any; the text is used by all methods that are better with it. Errors: as
/// quantize_model.
Result<ModelInMemory> quantize_in_memory(const ModelFile& source, const QuantizeOptions& request,
                                         const CalibrationWindows* windows, ThreadPool& pool);

}  // namespace lowbit
