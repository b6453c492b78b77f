// SPDX-License-Identifier: Apache-2.0
// The transform `smoothquant` (Xiao et al. 2022, arXiv 2211.10438): where inputs x_j of some
// matrices are large, the producer is divided by s_j and the matrices' columns are multiplied by
// it, s_j = max|x_j|^a / max_i|W_ij|^(1 - a): the range that int8 activations must span moves into
// weights that have room for it. Nothing is left to do at run time.
#pragma once

#include <map>
#include <span>
#include <vector>

#include "lowbit/compress/graph.h"
#include "lowbit/compress/pipeline.h"

namespace lowbit {

/// Scales tensors of a block against each other. factors: (fold.n_channels), none 0. Every tensor
/// of the fold becomes f32. Errors: a tensor that cannot be loaded.
Status scale_block(const Fold& fold, std::span<const float> factors, QuantizedModel& block);

/// A fold of a layer and the stage that its consumers are.
struct LayerFold {
  const Fold* fold = nullptr;
  LayerStage stage = LayerStage::qkv;
};
/// Those whose consumers all are matrices of one stage of the layer, in the order of the graph.
std::vector<LayerFold> folds_of_layer(const ModelGraph& graph, std::int64_t layer);

/// Whether no consumer reads its inputs in a basis: scales of channels do not pass a rotation.
bool is_straight(const Fold& fold, const TensorSource& source);

/// Numbers of the columns of the consumers -> numbers of the channels: the largest or the mean of
/// the columns that read a channel.
std::vector<float> largest_by_channel(const Fold& fold, std::span<const float> by_column);
std::vector<float> mean_by_channel(const Fold& fold, std::span<const float> by_column);

/// The factors of smoothquant. max_x, max_w: (n_channels). Channels without inputs keep 1.
std::vector<float> smooth_factors(std::span<const float> max_x, std::span<const float> max_w,
                                  double alpha);

inline constexpr double smoothquant_alpha = 0.5;
/// `graph` is copied.
BlockTransform smoothquant(const ModelGraph& graph, double alpha = smoothquant_alpha);

}  // namespace lowbit
