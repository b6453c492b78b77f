// SPDX-License-Identifier: Apache-2.0
#include "lowbit/quant/stored_number.h"

#include <algorithm>
#include <limits>

#include "lowbit/quant/levels.h"

namespace lowbit {

StoredCode::StoredCode(const Code& code) : search_(code), values_(writable_values(code)) {
  if (values_.empty()) {
    is_signed_ = true;
    largest_ = far_end_ = nearest(std::numeric_limits<float>::max());
    for (smallest_ = 1; nearest(smallest_ / 2) > 0;) smallest_ /= 2;
    return;
  }
  is_signed_ = values_.front() < 0;
  largest_ = values_.back();
  const auto positive = std::ranges::upper_bound(values_, 0.0f);
  smallest_ = positive == values_.end() ? 0 : *positive;
  far_end_ = -values_.front() > largest_ ? values_.front() : largest_;
  is_power_of_two_ = std::ranges::all_of(values_, lowbit::is_power_of_two);
}

}  // namespace lowbit
