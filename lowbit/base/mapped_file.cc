// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "lowbit/base/assert.h"

namespace lowbit {
namespace {

constexpr mode_t file_mode = 0666;  // the umask takes away from it

std::string folder_of(const std::string& path) {
  const std::string folder = std::filesystem::path(path).parent_path().string();
  return folder.empty() ? "." : folder;
}

/// The entry of a file in its folder is on disk only after the folder is.
Status sync_folder(const std::string& folder) {
  const int descriptor = ::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (descriptor < 0) return system_error("open folder", folder, errno);
  const int failed = ::fsync(descriptor) == 0 ? 0 : errno;
  ::close(descriptor);
  // Some network file systems cannot sync a folder; the file itself is already on disk then.
  if (failed != 0 && failed != EINVAL) return system_error("sync folder", folder, failed);
  return ok();
}

}  // namespace

Error system_error(std::string_view action, const std::string& path, int error_number) {
  const bool is_full = error_number == ENOSPC || error_number == EDQUOT || error_number == EFBIG;
  return Error(fmt::format("cannot {} '{}': {}{}", action, path, std::strerror(error_number),
                           is_full ? "; free some space or write to another disk" : ""));
}

std::string temporary_name(const std::string& path) {
  static std::atomic<unsigned> n_names{0};  // differs within the process; the pid, between them
  for (;;) {
    std::string name = fmt::format("{}.tmp-{}-{}", path, ::getpid(), n_names.fetch_add(1));
    std::error_code ignored;
    if (!std::filesystem::exists(std::filesystem::symlink_status(name, ignored))) return name;
  }
}

Result<MappedFile> MappedFile::open(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (descriptor < 0) return system_error("read", path, errno);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0) {
    const int failed = errno;
    ::close(descriptor);
    return system_error("read", path, failed);
  }
  if (!S_ISREG(status.st_mode)) {
    ::close(descriptor);
    return Error(fmt::format("cannot read '{}': it is {}, not a file", path,
                             S_ISDIR(status.st_mode) ? "a folder" : "a device or pipe"));
  }
  MappedFile file;
  file.path_ = path;
  file.n_bytes_ = static_cast<std::size_t>(status.st_size);
  if (file.n_bytes_ != 0) {
    void* data = ::mmap(nullptr, file.n_bytes_, PROT_READ, MAP_SHARED, descriptor, 0);
    if (data == MAP_FAILED) {
      const int failed = errno;
      ::close(descriptor);
      file.n_bytes_ = 0;
      return system_error("map", path, failed);
    }
    file.data_ = static_cast<const std::byte*>(data);
  }
  ::close(descriptor);
  return file;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : path_(std::move(other.path_)),
      data_(std::exchange(other.data_, nullptr)),
      n_bytes_(std::exchange(other.n_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(data_, other.data_);
  std::swap(n_bytes_, other.n_bytes_);
  return *this;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), n_bytes_);
}

void MappedFile::drop_pages(std::span<const std::byte> range) const {
  LOWBIT_ASSERT(range.empty() ||
                (range.data() >= data_ && range.data() + range.size() <= data_ + n_bytes_));
  // Only whole pages inside the range: a page that holds a neighbour too stays.
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto first_byte = static_cast<std::size_t>(range.data() - data_);
  const std::size_t first = (first_byte + page - 1) / page * page;
  const std::size_t last = (first_byte + range.size()) / page * page;
  if (range.empty() || first >= last) return;
  ::madvise(const_cast<std::byte*>(data_) + first, last - first, MADV_DONTNEED);
}

void MappedFile::prefetch(std::span<const std::byte> range) const {
  LOWBIT_ASSERT(range.empty() ||
                (range.data() >= data_ && range.data() + range.size() <= data_ + n_bytes_));
  if (range.empty()) return;
  const auto page = static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
  const auto first_byte = static_cast<std::size_t>(range.data() - data_);
  const std::size_t first = first_byte / page * page, last = first_byte + range.size();
  ::madvise(const_cast<std::byte*>(data_) + first, last - first, MADV_WILLNEED);
}

Result<AtomicFile> AtomicFile::create(const std::string& path) {
  if (std::filesystem::path(path).filename().empty()) {
    return Error(fmt::format("cannot write '{}': it names a folder, not a file", path));
  }
  std::error_code ignored;
  if (std::filesystem::is_directory(path, ignored)) {
    return Error(fmt::format("cannot write '{}': a folder of that name is in the way", path));
  }
  return create_in(folder_of(path), path);
}

Result<AtomicFile> AtomicFile::create_in(const std::string& folder, const std::string& path) {
  AtomicFile file;
  file.path_ = path;
  file.descriptor_ = ::open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, file_mode);
  if (file.descriptor_ < 0) {
    const std::filesystem::path name = std::filesystem::path(path).filename();
    file.temporary_ = temporary_name((std::filesystem::path(folder) / name).string());
    file.descriptor_ =
        ::open(file.temporary_.c_str(), O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, file_mode);
    if (file.descriptor_ < 0) {
      const int failed = errno;
      file.temporary_.clear();
      return system_error("write", path, failed);
    }
  }
  return file;
}

AtomicFile::AtomicFile(AtomicFile&& other) noexcept
    : path_(std::move(other.path_)),
      temporary_(std::exchange(other.temporary_, {})),
      descriptor_(std::exchange(other.descriptor_, -1)),
      n_written_(std::exchange(other.n_written_, 0)) {}

AtomicFile& AtomicFile::operator=(AtomicFile&& other) noexcept {
  std::swap(path_, other.path_);
  std::swap(temporary_, other.temporary_);
  std::swap(descriptor_, other.descriptor_);
  std::swap(n_written_, other.n_written_);
  return *this;
}

AtomicFile::~AtomicFile() {
  discard();
}

void AtomicFile::discard() {
  if (descriptor_ >= 0) ::close(descriptor_);
  if (!temporary_.empty()) ::unlink(temporary_.c_str());
  descriptor_ = -1;
  temporary_.clear();
}

Status AtomicFile::write_all(std::size_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t n_done =
        ::pwrite(descriptor_, bytes.data(), bytes.size(), static_cast<off_t>(offset));
    if (n_done < 0) {
      if (errno == EINTR) continue;
      return system_error("write", path_, errno);
    }
    offset += static_cast<std::size_t>(n_done);
    bytes = bytes.subspan(static_cast<std::size_t>(n_done));
  }
  return ok();
}

Status AtomicFile::write(std::span<const std::byte> bytes) {
  Status written = write_all(n_written_, bytes);
  if (written) n_written_ += bytes.size();
  return written;
}

Status AtomicFile::write_at(std::size_t offset, std::span<const std::byte> bytes) {
  if (bytes.empty()) return ok();  // and does not count as written up to there
  Status written = write_all(offset, bytes);
  if (written) n_written_ = std::max(n_written_, offset + bytes.size());
  return written;
}

Status AtomicFile::commit() {
  return commit_as(path_);
}

Status AtomicFile::commit_as(const std::string& path) {
  if (::fsync(descriptor_) != 0) return system_error("write", path, errno);
  if (temporary_.empty()) {
    // A nameless file gets a temporary name first: linking cannot replace, renaming can.
    const std::string nameless = fmt::format("/proc/self/fd/{}", descriptor_);
    const std::string name = temporary_name(path);
    if (::linkat(AT_FDCWD, nameless.c_str(), AT_FDCWD, name.c_str(), AT_SYMLINK_FOLLOW) != 0) {
      return system_error("write", path, errno);
    }
    temporary_ = name;
  }
  if (::rename(temporary_.c_str(), path.c_str()) != 0) return system_error("write", path, errno);
  temporary_.clear();
  discard();
  return sync_folder(folder_of(path));
}

}  // namespace lowbit
