// SPDX-License-Identifier: Apache-2.0
#include "lowbit/measure/log_softmax.h"

#include <algorithm>
#include <cmath>

namespace lowbit {

double log_sum_exp(std::span<const float> logits) {
  const float most = *std::ranges::max_element(logits);
  double sum = 0;
  for (const float logit : logits)
    sum += std::exp(static_cast<double>(logit) - static_cast<double>(most));
  return static_cast<double>(most) + std::log(sum);
}

double negative_log_likelihood(std::span<const float> logits, std::int32_t token) {
  return log_sum_exp(logits) - static_cast<double>(logits[static_cast<std::size_t>(token)]);
}

PositionDivergence compare_logits(std::span<const float> teacher, std::span<const float> student,
                                  std::int32_t token) {
  const double teacher_norm = log_sum_exp(teacher), student_norm = log_sum_exp(student);
  PositionDivergence d;
  for (std::size_t i = 0; i < teacher.size(); ++i) {
    const double log_p = static_cast<double>(teacher[i]) - teacher_norm;
    const double log_q = static_cast<double>(student[i]) - student_norm;
    d.kld += std::exp(log_p) * (log_p - log_q);
  }
  const auto at = static_cast<std::size_t>(token);
  d.teacher_nll = teacher_norm - static_cast<double>(teacher[at]);
  d.student_nll = student_norm - static_cast<double>(student[at]);
  d.delta_p = std::exp(-d.student_nll) - std::exp(-d.teacher_nll);
  // max_element gives the first of equals: the lower id.
  d.same_top = std::ranges::max_element(teacher) - teacher.begin() ==
               std::ranges::max_element(student) - student.begin();
  return d;
}

}  // namespace lowbit
