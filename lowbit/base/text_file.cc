// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/text_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <span>

#include "lowbit/base/mapped_file.h"

namespace lowbit {

Result<std::string> read_text(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return system_error("read", path, errno);
  constexpr std::size_t n_per_read = 1 << 20;
  std::string text;
  for (;;) {
    const std::size_t n_before = text.size();
    text.resize(n_before + n_per_read);
    const ssize_t n_read = ::read(descriptor, text.data() + n_before, n_per_read);
    const int failed = n_read < 0 ? errno : 0;
    text.resize(n_before + (n_read < 0 ? 0 : static_cast<std::size_t>(n_read)));
    if (n_read > 0 || failed == EINTR) continue;
    ::close(descriptor);
    if (failed != 0) return system_error("read", path, failed);
    return text;
  }
}

Status write_text(const std::string& path, std::string_view text) {
  auto file = AtomicFile::create(path);
  if (!file) return std::move(file).error();
  if (Status status = file->write(std::as_bytes(std::span(text))); !status) return status;
  return file->commit();
}

}  // namespace lowbit
