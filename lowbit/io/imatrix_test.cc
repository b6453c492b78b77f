// SPDX-License-Identifier: Apache-2.0
// Importance matrices: files that the `gguf` package and `struct` wrote (tests/golden/
// make_imatrix.py), what we write ourselves, and damaged ones.
#include "lowbit/io/imatrix.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>

#include "lowbit/base/test_files.h"
#include "lowbit/io/checkpoint.h"
#include "lowbit/io/gguf_format.h"

namespace lowbit {
namespace {

namespace fs = std::filesystem;
const fs::path golden = LOWBIT_SOURCE_DIR "/tests/golden/imatrix";

/// The mean squares of golden entry k.
std::vector<float> golden_means(int k) {
  std::vector<float> means(static_cast<std::size_t>(8 * (k + 1)));
  for (std::size_t i = 0; i < means.size(); ++i) {
    means[i] = static_cast<float>((i + 1) << k) / 4;
  }
  return means;
}

class ImatrixFile : public InFolder<::testing::Test> {
 protected:
  std::string error_of(std::string_view bytes) const {
    const std::string path = (folder / "bad").string();
    std::ofstream(path, std::ios::binary) << bytes;
    auto read = read_imatrix(path);
    if (read) return "no error";
    EXPECT_TRUE(read.error().message().starts_with(path)) << read.error().message();
    return read.error().message().substr(path.size());
  }
};

void expect_golden(const Imatrix& imatrix) {
  ASSERT_EQ(imatrix.entries.size(), 3u);
  EXPECT_EQ(imatrix.n_chunks, 2);
  EXPECT_EQ(imatrix.chunk_size, 512);
  ASSERT_FALSE(imatrix.datasets.empty());
  EXPECT_EQ(imatrix.datasets.back(), "second.txt");
  EXPECT_EQ(imatrix.entries.at("blk.0.attn_q.weight").mean_square(), golden_means(0));
  EXPECT_EQ(imatrix.entries.at("blk.0.attn_q.weight").counts, (std::vector<std::int64_t>{1024}));
  EXPECT_EQ(imatrix.entries.at("blk.0.ffn_down.weight").mean_square(), golden_means(1));
  std::vector<float> experts = golden_means(0);
  experts.resize(16, 1.0f);  // the second saw no token
  EXPECT_EQ(imatrix.entries.at("experts").mean_square(), experts);
}

TEST_F(ImatrixFile, ReadsBothForms) {
  for (const char* name : {"three.gguf", "three.dat"}) {
    SCOPED_TRACE(name);
    auto imatrix = read_imatrix((golden / name).string());
    ASSERT_TRUE(imatrix) << imatrix.error().message();
    expect_golden(*imatrix);
  }
  const auto imatrix = read_imatrix((golden / "three.gguf").string());
  EXPECT_EQ(imatrix->datasets, (std::vector<std::string>{"first.txt", "second.txt"}));
  EXPECT_EQ(imatrix->entries.at("experts").counts, (std::vector<std::int64_t>{100, 0}));
  EXPECT_EQ(imatrix->entries.at("experts").n_inputs(), 8);
}

TEST_F(ImatrixFile, WritesBothForms) {
  const auto imatrix = read_imatrix((golden / "three.gguf").string());
  ASSERT_TRUE(imatrix);
  for (const char* name : {"copy.gguf", "copy.dat"}) {
    SCOPED_TRACE(name);
    const std::string path = (folder / name).string();
    ASSERT_TRUE(write_imatrix(path, *imatrix));
    const auto again = read_imatrix(path);
    ASSERT_TRUE(again) << again.error().message();
    expect_golden(*again);
  }
  // The legacy form holds nothing that could be laid out in another way.
  EXPECT_EQ(read_bytes(folder / "copy.dat"), read_bytes(golden / "three.dat"));
  const auto file = open_gguf((folder / "copy.gguf").string());
  ASSERT_TRUE(file);
  EXPECT_EQ(*(*file)->metadata().string("general.type"), "imatrix");
  EXPECT_NE((*file)->find("blk.0.ffn_down.weight.in_sum2"), nullptr);
  EXPECT_NE((*file)->find("blk.0.ffn_down.weight.counts"), nullptr);

  EXPECT_NE(write_imatrix((folder / "copy.txt").string(), *imatrix).error().message().find(".gguf"),
            std::string::npos);
  EXPECT_FALSE(write_imatrix((folder / "empty.gguf").string(), Imatrix()));
}

TEST_F(ImatrixFile, RefusesDamagedLegacyFiles) {
  const std::string whole = read_bytes(golden / "three.dat");
  // Every cut: the trailer with chunk count and dataset is all that may be missing.
  const std::size_t trailer = whole.size() - 4 - 4 - std::strlen("second.txt");
  for (std::size_t n_bytes = 0; n_bytes < whole.size(); ++n_bytes) {
    const std::string message = error_of(std::string_view(whole).substr(0, n_bytes));
    EXPECT_EQ(message == "no error", n_bytes == trailer) << n_bytes << message;
  }
  const auto with = [&](std::size_t at, auto value) {
    std::string bytes = whole;
    std::memcpy(bytes.data() + at, &value, sizeof value);
    return error_of(bytes);
  };
  EXPECT_NE(with(0, -1).find("no entries"), std::string::npos);
  EXPECT_NE(with(4, std::numeric_limits<std::int32_t>::max()).find("entry 1 of 3"),
            std::string::npos);
  const std::size_t numbers = 4 + 4 + std::strlen("blk.0.attn_q.weight");
  EXPECT_NE(with(numbers + 4, 1 << 30).find("says 1073741824 values"), std::string::npos);
  EXPECT_NE(with(numbers, -2).find("-2 chunks"), std::string::npos);
  const std::string nan = with(numbers + 8 + 12, std::numeric_limits<float>::quiet_NaN());
  EXPECT_NE(nan.find("'blk.0.attn_q.weight': the sum of squares 3 is nan"), std::string::npos)
      << nan;
  EXPECT_NE(with(numbers + 8, -1.0f).find("the sum of squares 0 is -"), std::string::npos);
  EXPECT_NE(error_of("not an importance matrix at all").find("no importance matrix"),
            std::string::npos);
}

TEST_F(ImatrixFile, RefusesDamagedGgufFiles) {
  const std::string whole = read_bytes(golden / "three.gguf");
  const std::size_t padding = gguf::default_alignment - 2 * sizeof(float);  // after the last counts
  for (std::size_t n_bytes = 0; n_bytes + padding < whole.size(); n_bytes += 7) {
    EXPECT_NE(error_of(std::string_view(whole).substr(0, n_bytes)), "no error") << n_bytes;
  }
  const auto replaced = [&](std::string_view from, std::string_view to) {
    std::string bytes = whole;
    for (std::size_t at = 0; (at = bytes.find(from, at)) != std::string::npos; at += to.size()) {
      bytes.replace(at, from.size(), to);
    }
    return error_of(bytes);
  };
  EXPECT_NE(replaced("imatrix", "inmatix").find("general.type"), std::string::npos);
  EXPECT_NE(replaced("blk.0.attn_q.weight.counts", "blk.9.attn_q.weight.counts").find("0 counts"),
            std::string::npos);
  EXPECT_NE(replaced("experts.counts", "experts.caunts").find("neither"), std::string::npos);
  EXPECT_NE(error_of(read_bytes(fs::path(LOWBIT_SOURCE_DIR) / "tests/golden/gguf/aligned.gguf"))
                .find("no importance matrix"),
            std::string::npos);
}

}  // namespace
}  // namespace lowbit
