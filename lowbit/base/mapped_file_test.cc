// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/mapped_file.h"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <vector>

#include "lowbit/base/test_files.h"

namespace lowbit {
namespace {

namespace fs = std::filesystem;

std::span<const std::byte> bytes_of(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

class Files : public InFolder<::testing::Test> {};

TEST_F(Files, MapsWhatIsThere) {
  std::ofstream(at("a")) << "hello";
  auto file = MappedFile::open(at("a"));
  ASSERT_TRUE(file) << file.error().message();
  EXPECT_EQ(std::memcmp(file->bytes().data(), "hello", 5), 0);
  EXPECT_EQ(file->bytes().size(), 5u);
  const std::byte* address = file->bytes().data();
  MappedFile moved = std::move(*file);
  EXPECT_EQ(moved.bytes().data(), address);
}

TEST_F(Files, AnEmptyFileIsAnEmptySpan) {
  std::ofstream(at("a"));
  auto file = MappedFile::open(at("a"));
  ASSERT_TRUE(file);
  EXPECT_TRUE(file->bytes().empty());
  file->drop_pages(file->bytes());
}

TEST_F(Files, UnreadablePathsAreOneSentence) {
  auto missing = MappedFile::open(at("missing"));
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message(),
            "cannot read '" + at("missing") + "': No such file or directory");
  auto is_folder = MappedFile::open(folder.string());
  ASSERT_FALSE(is_folder);
  EXPECT_NE(is_folder.error().message().find("a folder, not a file"), std::string::npos);
}

TEST_F(Files, DroppedPagesReadTheSameAgain) {
  const std::string text(100000, 'x');
  std::ofstream(at("a")) << text;
  auto file = MappedFile::open(at("a"));
  ASSERT_TRUE(file);
  for (std::size_t first : {std::size_t{0}, std::size_t{1}, std::size_t{4097}}) {
    file->drop_pages(file->bytes().subspan(first, 50000));
    EXPECT_EQ(std::memcmp(file->bytes().data(), text.data(), text.size()), 0);
  }
}

TEST_F(Files, AppearsOnlyAtCommit) {
  {
    auto file = AtomicFile::create(at("out"));
    ASSERT_TRUE(file) << file.error().message();
    ASSERT_TRUE(file->write(bytes_of("0123456789")));
    ASSERT_TRUE(file->write_at(2, bytes_of("ab")));
    EXPECT_FALSE(fs::exists(at("out")));
    EXPECT_EQ(file->n_written(), 10u);
    auto done = file->commit();
    ASSERT_TRUE(done) << done.error().message();
  }
  EXPECT_EQ(read_bytes(at("out")), "01ab456789");
  EXPECT_EQ(own.n_files(), 1u);
}

TEST_F(Files, GrowsAndMovesToAnotherFolder) {
  auto file = AtomicFile::create_in(folder.string(), at("later/out"));
  ASSERT_TRUE(file) << file.error().message();
  ASSERT_TRUE(file->write_at(3, bytes_of("cd")));
  EXPECT_EQ(file->n_written(), 5u);
  ASSERT_TRUE(file->write_at(0, bytes_of("ab")));
  EXPECT_EQ(file->n_written(), 5u);
  fs::create_directory(at("later"));
  auto done = file->commit_as(at("later/out"));
  ASSERT_TRUE(done) << done.error().message();
  EXPECT_EQ(read_bytes(at("later/out")), std::string("ab\0cd", 5));
}

TEST_F(Files, WithoutCommitTheOldFileStays) {
  std::ofstream(at("out")) << "old";
  {
    auto file = AtomicFile::create(at("out"));
    ASSERT_TRUE(file);
    ASSERT_TRUE(file->write(bytes_of("new")));
  }
  EXPECT_EQ(read_bytes(at("out")), "old");
  EXPECT_EQ(own.n_files(), 1u);
  auto file = AtomicFile::create(at("out"));
  ASSERT_TRUE(file);
  ASSERT_TRUE(file->write(bytes_of("newer")));
  ASSERT_TRUE(file->commit());
  EXPECT_EQ(read_bytes(at("out")), "newer");
  EXPECT_EQ(own.n_files(), 1u);
}

// A limit on file size stands for the full disk: the write fails half way.
TEST_F(Files, AFailedWriteLeavesNothing) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 1000;
  auto* old_action = ::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  std::string message;
  {
    auto file = AtomicFile::create(at("out"));
    ASSERT_TRUE(file);
    auto written = file->write(bytes_of(std::string(5000, 'x')));
    if (!written) message = written.error().message();
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &before), 0);
  ::signal(SIGXFSZ, old_action);
  EXPECT_EQ(message, "cannot write '" + at("out") +
                         "': File too large; free some space or write to another disk");
  EXPECT_EQ(own.n_files(), 0u);
}

TEST_F(Files, AKilledWriterLeavesTheOldFile) {
  std::ofstream(at("out")) << "old";
  const pid_t child = ::fork();
  ASSERT_GE(child, 0);
  if (child == 0) {
    auto file = AtomicFile::create(at("out"));
    if (file && file->write(bytes_of("half"))) ::raise(SIGKILL);
    ::_exit(1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFSIGNALED(status));
  EXPECT_EQ(read_bytes(at("out")), "old");
}

TEST_F(Files, PathsThatCannotBeWritten) {
  auto is_folder = AtomicFile::create(folder.string());
  ASSERT_FALSE(is_folder);
  EXPECT_NE(is_folder.error().message().find("in the way"), std::string::npos);
  auto no_folder = AtomicFile::create(at("missing/out"));
  ASSERT_FALSE(no_folder);
  EXPECT_NE(no_folder.error().message().find("No such file or directory"), std::string::npos);
  EXPECT_FALSE(AtomicFile::create(at("name/")));
}

}  // namespace
}  // namespace lowbit
