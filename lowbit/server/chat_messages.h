// SPDX-License-Identifier: Apache-2.0
// The messages of a request in the one form that chat templates read: content parts become text,
// arguments of tool calls become objects, and fields that no template reads are dropped.
#pragma once

#include "lowbit/server/api_error.h"

namespace lowbit {

/// Refuses what cannot be meant; `param` names the message and the field.
Refusal parse_messages(const Json& given, Json& messages);

}  // namespace lowbit
