// SPDX-License-Identifier: Apache-2.0
// A pack cache gives back the same panels, and one that is damaged or of something else is refused.
#include "lowbit/backend/pack_cache.h"
#include "lowbit/formats/learned_code.h"

#include <bit>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include <gtest/gtest.h>
#include <xxhash.h>

#include "lowbit/formats/learned_code.h"
#include "lowbit/kernels/random_codes.h"

namespace lowbit {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t header_bytes = 104, version_at = 8, entries_at = 12, table_hash_at = 48,
                      table_bytes_at = 80, own_hash_at = 96;
constexpr std::int64_t rows = 37, cols = 512;

/// A learned code with another table than the one its family starts from.
Scheme with_own_table(Scheme scheme) {
  if (!scheme.code->is_learned) return scheme;
  std::vector<float> values(scheme.code->values.begin(), scheme.code->values.end());
  for (std::size_t i = 0; i < values.size(); ++i)
    values[i] = std::trunc(values[i] / static_cast<float>(1 + i % 3));
  scheme.code = LearnedCode::make(*scheme.code, values);
  return scheme;
}

class PackCacheTest : public testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "lowbit-pack-XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    path_ = folder_ + "/m.pack";
    model_path_ = folder_ + "/m.gguf";
    write(model_path_, std::vector<char>(3'000'000, 'w'));
    key_ = key_now();
  }
  void TearDown() override { fs::remove_all(folder_); }

  static void write(const std::string& path, const std::vector<char>& bytes) {
    std::ofstream(path, std::ios::binary).write(bytes.data(), std::ssize(bytes));
  }
  std::vector<char> read() const {
    std::ifstream file(path_, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  PackCacheKey key_now() {
    auto file = MappedFile::open(model_path_);
    EXPECT_TRUE(file);
    const MappedFile* files[] = {&*file};
    return {content_hash(files, pool_), "rtn:q8_0"};
  }
  PackedMatrix packed(std::string_view scheme, unsigned seed = 5) {
    std::mt19937 random(seed);
    QuantizedTensor tensor(with_own_table(*parse_scheme(scheme)), rows, cols);
    fill(tensor, random);
    auto matrix = pack(tensor, pool_);
    EXPECT_TRUE(matrix) << scheme << ": " << matrix.error().message();
    return *std::move(matrix);
  }
  void write_some() {
    const PackedMatrix a = packed("q4_1"), b = packed("nvfp4"), c = packed("int8.channel");
    const NamedMatrix matrices[] = {{"a", &a}, {"b", &b}, {"c", &c}};
    const auto written = write_pack_cache(path_, key_, matrices, pool_);
    ASSERT_TRUE(written) << written.error().message();
    EXPECT_EQ(*written, static_cast<std::int64_t>(fs::file_size(path_)));
  }
  std::string complaint(const PackCacheKey& key) {
    auto cache = PackCache::open(path_, key, pool_);
    return !cache ? cache.error().message() : cache->has_value() ? "opened" : "nothing there";
  }

  ThreadPool pool_{2};
  std::string folder_, path_, model_path_;
  PackCacheKey key_;
};

std::vector<std::byte> bytes_of(std::span<const float> numbers) {
  const auto bytes = std::as_bytes(numbers);
  return {bytes.begin(), bytes.end()};
}

TEST_F(PackCacheTest, MapsEveryScheme) {
  std::vector<std::string> names;
  for (const Scheme& scheme : named_schemes()) names.emplace_back(scheme.name);
  for (const char* name : {"int4.g128.asym", "int3.g64.zero", "int8.channel.asym", "e4m3.block128",
                           "int4.channel.zero", "nf4.g64"}) {
    names.emplace_back(name);
  }
  std::vector<PackedMatrix> matrices;
  std::vector<NamedMatrix> named;
  matrices.reserve(names.size());
  for (const std::string& name : names) {
    matrices.push_back(packed(name));
    named.push_back({name, &matrices.back()});
  }
  ASSERT_TRUE(write_pack_cache(path_, key_, named, pool_));
  auto cache = PackCache::open(path_, key_, pool_);
  ASSERT_TRUE(cache) << cache.error().message();
  ASSERT_TRUE(cache->has_value());
  std::vector<PackedMatrix> found;
  for (const std::string& name : names) {
    found.push_back((*cache)->find(name).value());
  }
  EXPECT_FALSE((*cache)->find("another"));
  cache->reset();  // the matrices keep the mapping
  std::vector<float> expected(cols), number(cols);
  for (std::size_t i = 0; i < names.size(); ++i) {
    SCOPED_TRACE(names[i]);
    const PackedParts a = matrices[i].parts(), b = found[i].parts();
    EXPECT_NE(a.panels.data(), b.panels.data());
    EXPECT_TRUE(std::ranges::equal(a.panels, b.panels));
    EXPECT_EQ(bytes_of(a.row_scale), bytes_of(b.row_scale));
    EXPECT_EQ(bytes_of(a.row_zero), bytes_of(b.row_zero));
    EXPECT_EQ(bytes_of(a.scale_values), bytes_of(b.scale_values));
    EXPECT_EQ(bytes_of(a.zero_values), bytes_of(b.zero_values));
    EXPECT_EQ(found[i].scheme(), matrices[i].scheme());
    EXPECT_EQ(found[i].n_bytes(), matrices[i].n_bytes());
    for (const std::int64_t row : {std::int64_t{0}, rows - 1}) {
      unpack_row(matrices[i], row, expected.data());
      unpack_row(found[i], row, number.data());
      EXPECT_EQ(bytes_of(expected), bytes_of(number));
    }
  }
}

TEST_F(PackCacheTest, KeepsTheBasisOfInputs) {
  PackedMatrix a = packed("q4_0"), b = packed("q4_0");
  a.set_input({128});
  const NamedMatrix matrices[] = {{"a", &a}, {"b", &b}};
  ASSERT_TRUE(write_pack_cache(path_, key_, matrices, pool_));
  const auto cache = PackCache::open(path_, key_, pool_);
  ASSERT_TRUE(cache && *cache);
  EXPECT_EQ((*cache)->find("a")->input(), Basis{128});
  EXPECT_EQ((*cache)->find("b")->input(), Basis{});
  // 512 inputs are not blocks of 3 or of 1024.
  for (const std::int64_t block : {3, 1024}) {
    a.set_input({block});
    ASSERT_TRUE(write_pack_cache(path_, key_, matrices, pool_));
    EXPECT_NE(complaint(key_).find("a basis that cannot be"), std::string::npos);
  }
}

TEST_F(PackCacheTest, IsOnlyForItsModelAndOptions) {
  EXPECT_EQ(complaint(key_), "nothing there");
  write_some();
  EXPECT_EQ(complaint(key_), "opened");
  PackCacheKey other = key_;
  other.options = "rtn:q4_0";
  EXPECT_NE(complaint(other).find("another recipe"), std::string::npos);

  // One byte of the model, with its size and time as they were.
  const auto time = fs::last_write_time(model_path_);
  std::vector<char> model(3'000'000, 'w');
  for (const std::size_t at : {std::size_t{0}, std::size_t{1} << 20, model.size() - 1}) {
    model[at] = 'x';
    write(model_path_, model);
    fs::last_write_time(model_path_, time);
    const PackCacheKey now = key_now();
    EXPECT_NE(complaint(now).find("other weights"), std::string::npos) << at;
    model[at] = 'w';
  }
  write(model_path_, model);
  EXPECT_EQ(complaint(key_now()), "opened");
}

TEST_F(PackCacheTest, NoDamageGoesUnnoticed) {
  write_some();
  const std::vector<char> whole = read();
  std::mt19937 random(3);
  for (std::size_t at = 0; at < whole.size(); at += at < 1000 ? 1 : 1 + random() % 97) {
    std::vector<char> bytes = whole;
    bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
    write(path_, bytes);
    const std::string message = complaint(key_);
    if (message == "opened") {
      // Only the padding between parts is nobody's.
      EXPECT_EQ(whole[at], 0) << at;
    } else {
      EXPECT_NE(message.find(path_), std::string::npos) << message;
    }
  }
  for (const std::size_t n : {std::size_t{0}, std::size_t{50}, header_bytes, header_bytes + 9,
                              whole.size() / 2, whole.size() - 64, whole.size() - 1}) {
    write(path_, {whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(n)});
    EXPECT_NE(complaint(key_), "opened") << n;
  }
  std::vector<char> longer = whole;
  longer.resize(whole.size() + 64);
  write(path_, longer);
  EXPECT_NE(complaint(key_), "opened");
}

/// A table that lies under hashes that are right: every number in it is checked by itself.
TEST_F(PackCacheTest, LiesInTheTableAreFound) {
  write_some();
  const std::vector<char> whole = read();
  std::uint64_t table_bytes = 0;
  std::memcpy(&table_bytes, whole.data() + table_bytes_at, sizeof table_bytes);
  const auto seal = [&](std::vector<char>& bytes) {
    const XXH128_hash_t hash = XXH3_128bits(bytes.data() + header_bytes, table_bytes);
    std::memcpy(bytes.data() + table_hash_at, &hash.low64, sizeof hash.low64);
    std::memcpy(bytes.data() + table_hash_at + 8, &hash.high64, sizeof hash.high64);
    const std::uint64_t own = XXH3_64bits(bytes.data(), own_hash_at);
    std::memcpy(bytes.data() + own_hash_at, &own, sizeof own);
  };
  {
    std::vector<char> same = whole;
    seal(same);
    ASSERT_EQ(same, whole);
  }
  std::size_t n_refused = 0;
  std::mt19937_64 random(9);
  for (std::size_t at = header_bytes; at < header_bytes + table_bytes; ++at) {
    for (const std::uint64_t lie : {random(), random() % 4096, std::uint64_t{0}, ~std::uint64_t{0},
                                    std::uint64_t{1} << 62, std::uint64_t{64}}) {
      std::vector<char> bytes = whole;
      std::memcpy(bytes.data() + at, &lie,
                  std::min<std::size_t>(sizeof lie, header_bytes + table_bytes - at));
      seal(bytes);
      write(path_, bytes);
      auto cache = PackCache::open(path_, key_, pool_);
      if (!cache) {
        ++n_refused;
        continue;
      }
      for (const char* name : {"a", "b", "c"}) {
        auto matrix = (*cache)->find(name);
        if (!matrix) continue;
        std::vector<float> numbers(static_cast<std::size_t>(matrix->cols()));
        if (matrix->rows() > 0) unpack_row(*matrix, matrix->rows() - 1, numbers.data());
      }
    }
  }
  EXPECT_GT(n_refused, 5 * table_bytes);
  for (const std::size_t at : {version_at, entries_at}) {
    std::vector<char> bytes = whole;
    ++bytes[at];
    seal(bytes);
    write(path_, bytes);
    EXPECT_NE(complaint(key_), "opened");
  }
}

TEST_F(PackCacheTest, WhereNothingCanBeWrittenIsAnError) {
  const PackedMatrix a = packed("q4_0");
  const NamedMatrix matrices[] = {{"a", &a}};
  for (const std::string& path : {folder_ + "/missing/m.pack", std::string("/proc/m.pack")}) {
    const auto written = write_pack_cache(path, key_, matrices, pool_);
    ASSERT_FALSE(written);
    EXPECT_NE(written.error().message().find(path), std::string::npos);
  }
}

/// Panels that change must not be read under the old version: raise packed_layout_version and put
/// the new number here.
TEST_F(PackCacheTest, LayoutVersionNamesTheBytesOfPanels) {
  std::uint64_t hash = packed_layout_version;
  for (const auto& [is_learned, expected] :
       {std::pair{false, 9970085553742373349u}, {true, 12768986763337956303u}}) {
    for (const Scheme& scheme : named_schemes()) {
      if (scheme.code->is_learned != is_learned) continue;
      const PackedMatrix matrix = packed(scheme.name);
      for (const auto& part : {matrix.parts().panels, std::as_bytes(matrix.parts().scale_values)}) {
        hash = XXH3_64bits_withSeed(part.data(), part.size(), hash);
      }
    }
    EXPECT_EQ(hash, expected);
  }
}

}  // namespace
}  // namespace lowbit
