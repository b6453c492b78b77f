// SPDX-License-Identifier: Apache-2.0
#include "lowbit/base/text_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <thread>

#include "lowbit/base/test_files.h"

namespace lowbit {
namespace {

namespace fs = std::filesystem;

class TextFile : public InFolder<::testing::Test> {};

TEST_F(TextFile, ReadsWhatWasWritten) {
  constexpr std::size_t n_bytes = (3 << 20) + 7;  // several reads, the last one short
  std::string large(n_bytes, '\0');
  for (std::size_t i = 0; i < large.size(); ++i) large[i] = static_cast<char>(i * i >> 7);
  for (const std::string& text : {std::string(), std::string("a\0b\r\n", 5), large}) {
    const Status written = write_text(at("file"), text);
    ASSERT_TRUE(written) << written.error().message();
    const auto read = read_text(at("file"));
    ASSERT_TRUE(read) << read.error().message();
    EXPECT_TRUE(*read == text) << text.size() << " bytes";
  }
}

TEST_F(TextFile, ReadsAPipeToItsEnd) {
  ASSERT_EQ(::mkfifo(at("pipe").c_str(), 0600), 0);
  const std::string text(1 << 20, 'x');  // more than a pipe holds, so one read cannot give it all
  std::thread writer([&] { std::ofstream(at("pipe")) << text; });
  const auto read = read_text(at("pipe"));
  writer.join();
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_TRUE(*read == text) << read->size() << " bytes";
}

TEST_F(TextFile, WhatCannotBeReadOrWrittenIsOneSentence) {
  EXPECT_EQ(read_text(at("missing")).error().message(),
            "cannot read '" + at("missing") + "': No such file or directory");
  EXPECT_EQ(read_text(folder.string()).error().message(),
            "cannot read '" + folder.string() + "': Is a directory");
  const Status written = write_text(at("missing/file"), "text");
  ASSERT_FALSE(written);
  EXPECT_NE(written.error().message().find(at("missing/file")), std::string::npos);
}

}  // namespace
}  // namespace lowbit
