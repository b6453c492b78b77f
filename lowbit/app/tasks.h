// SPDX-License-Identifier: Apache-2.0
// lowbit eval --tasks: the share of multiple-choice items that a model gets right, and with a
// reference what became of it.
#pragma once

#include <string>

#include "lowbit/app/command.h"
#include "lowbit/app/model_options.h"

namespace lowbit::app {

struct TasksOptions {
  ModelOptions model;
  std::string items;      // a file, one JSON object a line (measure/tasks.h)
  std::string reference;  // empty: none
  std::string samples;    // file for what was chosen, item by item; empty: none
  bool json = false;
};

Exit run_tasks(const TasksOptions& options, const Recipe& recipe, const std::string& text);

}  // namespace lowbit::app
