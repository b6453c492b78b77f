// SPDX-License-Identifier: Apache-2.0
// What open_safetensors does with a folder whose config.json says compressed-tensors.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "lowbit/base/result.h"
#include "lowbit/io/checkpoint.h"
#include "lowbit/io/json.h"
#include "lowbit/io/safetensors_file.h"

namespace lowbit {

/// path: as it was asked for; quantization: the quantization_config of folder/config.json. Errors:
/// formats and schemes that lowbit does not have, tensors that do not fit what it says.
Result<std::unique_ptr<Checkpoint>> open_compressed_tensors(const std::string& path,
                                                            const std::string& folder,
                                                            std::vector<SafetensorsFile> files,
                                                            const Json& quantization);

}  // namespace lowbit
