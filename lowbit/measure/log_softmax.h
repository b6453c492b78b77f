// SPDX-License-Identifier: Apache-2.0
// What two models say about one position: log-probabilities from logits in double precision, and
// the numbers by which a student is compared with its teacher there.
#pragma once

#include <cstdint>
#include <span>

namespace lowbit {

/// log(sum exp(logits)), exact to double rounding.
double log_sum_exp(std::span<const float> logits);

/// -log p(token).
double negative_log_likelihood(std::span<const float> logits, std::int32_t token);

struct PositionDivergence {
  double kld = 0;  // KL(teacher || student) in nats, >= 0 up to rounding
  double teacher_nll = 0, student_nll = 0;
  double delta_p = 0;     // p_student(token) - p_teacher(token)
  bool same_top = false;  // the most likely token is the same (ties: the lower id)
};
PositionDivergence compare_logits(std::span<const float> teacher, std::span<const float> student,
                                  std::int32_t token);

}  // namespace lowbit
