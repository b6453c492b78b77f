// SPDX-License-Identifier: Apache-2.0
// Sensitivities kept beside the model (MODEL.sensitivity.json), so that a second target takes no
// measuring. An entry is tied to the model's bytes, the text, the candidates, the estimator and the
// version of lowbit; a file that cannot be read counts as empty.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/base/thread_pool.h"
#include "lowbit/compress/sensitivity.h"

namespace lowbit {

std::string sensitivity_cache_path(const ModelFile& file);

/// What an entry is found by. Reads all bytes of the model, at memory speed.
std::string sensitivity_key(const ModelFile& file, const SensitivityOptions& options,
                            ThreadPool& pool);

/// Nothing where there is no such entry, or it is not of this model's groups.
std::optional<std::vector<GroupSensitivity>> cached_sensitivity(const ModelFile& file,
                                                                const std::string& key,
                                                                std::size_t n_candidates);

/// Adds the entry; entries of another content of the model or another version go. Error: the file
/// cannot be written.
Status keep_sensitivity(const ModelFile& file, const std::string& key,
                        const std::vector<GroupSensitivity>& sensitivities);

}  // namespace lowbit
