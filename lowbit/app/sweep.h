// SPDX-License-Identifier: Apache-2.0
// lowbit eval --sweep: recipe after recipe quantized in memory and compared with the source.
#pragma once

#include <string>

#include "lowbit/app/command.h"
#include "lowbit/app/model_options.h"
#include "lowbit/compress/calibration_text.h"
#include "lowbit/measure/evaluate.h"

namespace lowbit::app {

struct SweepOptions {
  ModelOptions model;     // the source; of its recipe a= and kv= hold for every point
  std::string list;       // a file, or "standard"
  std::string output;     // PREFIX of .csv, .md and .svg
  std::string reference;  // the teacher; empty: the source itself
  std::string text_path, text;
  CalibrationText calibration = {};  // no path: none
  EvalOptions eval = {};
  bool json = false;
};

Exit run_sweep(const SweepOptions& options);

}  // namespace lowbit::app
