// SPDX-License-Identifier: Apache-2.0
// How far a model's predictions move when some of its matrices are replaced: the KL divergence of
// the logits at a few positions of calibration text. Made to be asked hundreds of times: the
// teacher's predictions are kept, and so is its residual stream before every layer, so that a
// question costs the layers from the first replaced one on.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/statistics.h"
#include "lowbit/runtime/weights.h"

namespace lowbit {

struct ProbeOptions {
  /// Of every window, this many positions predict, evenly spread over its second half.
  std::int64_t n_positions = 32;
};

class LogitProbe {
 public:
  struct Replacement {
    std::string_view name;  // canonical, of a matrix
    const QuantizedTensor* tensor = nullptr;
  };

  /// Loads the whole model with f32 activations and reads the windows, all equally long. Errors: as
  /// load_weights, and windows that are empty or beyond the context.
  static Result<std::unique_ptr<LogitProbe>> create(const TensorSource& source,
                                                    const CalibrationWindows& windows,
                                                    ThreadPool& pool,
                                                    const ProbeOptions& options = {});
  ~LogitProbe();

  /// Mean KL(teacher || model with these matrices), in nats; the model is the teacher again
  /// afterwards. Errors: a name that is no matrix, logits that are not finite.
  Result<double> divergence(std::span<const Replacement> replaced);

  /// Bytes of the residual streams and predictions that are kept.
  std::int64_t n_bytes() const;

 private:
  LogitProbe();
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lowbit
