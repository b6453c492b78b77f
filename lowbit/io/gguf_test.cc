// SPDX-License-Identifier: Apache-2.0
// The GGUF reader on files that the `gguf` package wrote (tests/golden/make_gguf_files.py), on
// files that our writer wrote, and on damaged ones.
#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>

#include "lowbit/base/test_files.h"
#include "lowbit/io/checkpoint.h"
#include "lowbit/io/checkpoint_writer.h"
#include "lowbit/io/layout.h"

namespace lowbit {
namespace {

namespace fs = std::filesystem;
const fs::path golden = LOWBIT_SOURCE_DIR "/tests/golden/gguf";

/// Number i of every golden tensor.
float golden_number(std::size_t i) {
  return static_cast<float>(static_cast<int>(i % 17) - 8) / 4;
}

class Gguf : public InFolder<::testing::Test> {
 protected:
  std::string write(const char* name, std::string_view bytes) const {
    std::ofstream(folder / name, std::ios::binary) << bytes;
    return (folder / name).string();
  }
  /// The message of opening these bytes.
  std::string error_of(std::string_view bytes) const {
    auto opened = open_gguf(write("bad.gguf", bytes));
    return opened ? "no error" : opened.error().message();
  }
};

void expect_golden_tensors(const Checkpoint& checkpoint) {
  // Half a step of the format on numbers from -2 to 2, and the rounding of its f16 scale and min.
  constexpr float f16_half_ulp = 0x1p-11f;
  constexpr float q8_0 = 2.0f / 127 / 2 + 2 * f16_half_ulp;
  constexpr float q4_1 = 4.0f / 15 / 2 + (4 + 2) * f16_half_ulp;
  const struct {
    const char* name;
    std::vector<std::int64_t> shape;
    const char* scheme;
    float tolerance;
  } expected[] = {{"vector", {5}, "f32", 0},
                  {"matrix.f16", {3, 7}, "f16", 0},
                  {"matrix.q8_0", {3, 64}, "q8_0", q8_0},
                  {"cube.q4_1", {2, 3, 32}, "q4_1", q4_1}};
  for (const auto& row : expected) {
    SCOPED_TRACE(row.name);
    const auto index = checkpoint.index_of(row.name);
    ASSERT_GE(index, 0);
    const TensorInfo& info = checkpoint.tensors()[static_cast<std::size_t>(index)];
    EXPECT_EQ(info.shape, row.shape);
    EXPECT_EQ(to_string(info.scheme), row.scheme);
    auto tensor = checkpoint.load(static_cast<std::size_t>(index), nullptr);
    ASSERT_TRUE(tensor) << tensor.error().message();
    EXPECT_EQ(tensor->rows, info.rows());
    EXPECT_EQ(tensor->cols, info.cols());
    const auto numbers = decode(*tensor);
    for (std::size_t i = 0; i < numbers.size(); ++i) {
      ASSERT_NEAR(numbers[i], golden_number(i), row.tolerance) << i;
    }
    checkpoint.drop_pages(static_cast<std::size_t>(index));
  }
}

TEST_F(Gguf, ReadsEveryMetadataType) {
  for (const char* name : {"every_type.gguf", "version2.gguf"}) {
    SCOPED_TRACE(name);
    auto checkpoint = open_gguf((golden / name).string());
    ASSERT_TRUE(checkpoint) << checkpoint.error().message();
    const Metadata& metadata = (*checkpoint)->metadata();
    EXPECT_EQ(*metadata.string("general.architecture"), "llama");
    EXPECT_EQ(*metadata.integer("test.uint8"), 200);
    EXPECT_EQ(*metadata.integer("test.int8"), -100);
    EXPECT_EQ(*metadata.integer("test.uint16"), 60000);
    EXPECT_EQ(*metadata.integer("test.int16"), -30000);
    EXPECT_EQ(*metadata.integer("test.uint32"), 4000000000);
    EXPECT_EQ(*metadata.integer("test.int32"), -2000000000);
    EXPECT_EQ(*metadata.integer("test.int64"), -(std::int64_t{1} << 62));
    EXPECT_FALSE(metadata.integer("test.uint64"));  // 2^63
    EXPECT_EQ(*metadata.number("test.float32"), static_cast<double>(0.1f));
    EXPECT_EQ(*metadata.number("test.float64"), 0.1);
    EXPECT_EQ(*metadata.number("test.int8"), -100.0);
    EXPECT_TRUE(*metadata.boolean("test.bool"));
    EXPECT_EQ(*metadata.string("test.string"), "grüße, 世界");
    EXPECT_EQ(**metadata.strings("test.strings"), (std::vector<std::string>{"a", "", "b c"}));
    EXPECT_EQ(**metadata.integers("test.ints"), (std::vector<std::int64_t>{1, -2, 3}));
    EXPECT_EQ(**metadata.numbers("test.floats"), (std::vector<double>{0.5, -1.25}));
    EXPECT_EQ(**metadata.integers("test.bools"), (std::vector<std::int64_t>{1, 0}));
    EXPECT_EQ(**metadata.integers("test.bytes"), (std::vector<std::int64_t>{1, 2, 255}));
    EXPECT_EQ(metadata.find("test.bytes")->element, ValueType::uint8);
    EXPECT_EQ(metadata.string("test.int8").error().message(),
              "metadata key 'test.int8' is of type int8, expected string");
    EXPECT_EQ(metadata.integer("missing").error().message(), "the metadata has no key 'missing'");
    expect_golden_tensors(**checkpoint);
    EXPECT_EQ((*checkpoint)->file_bytes(), static_cast<std::int64_t>(fs::file_size(golden / name)));
  }
}

TEST_F(Gguf, ReadsAnotherAlignment) {
  auto checkpoint = open_gguf((golden / "aligned.gguf").string());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message();
  expect_golden_tensors(**checkpoint);
}

TEST_F(Gguf, ReadsASplitFromAnyOfItsFiles) {
  for (const char* name : {"split-00001-of-00003.gguf", "split-00003-of-00003.gguf"}) {
    SCOPED_TRACE(name);
    auto checkpoint = open_gguf((golden / name).string());
    ASSERT_TRUE(checkpoint) << checkpoint.error().message();
    EXPECT_EQ((*checkpoint)->tensors().size(), 5u);
    expect_golden_tensors(**checkpoint);
    EXPECT_EQ(*(*checkpoint)->metadata().integer("test.uint32"), 7);
    EXPECT_FALSE((*checkpoint)->metadata().contains("split.count"));
  }
}

TEST_F(Gguf, SaysWhatIsWrongWithASplit) {
  const auto copy = [&](const char* from, const char* to) {
    fs::copy_file(golden / from, folder / to, fs::copy_options::overwrite_existing);
  };
  const auto message = [&](const char* name) {
    auto opened = open_gguf((folder / name).string());
    return opened ? std::string("no error") : opened.error().message();
  };
  copy("split-00001-of-00003.gguf", "split-00001-of-00003.gguf");
  copy("split-00002-of-00003.gguf", "split-00002-of-00003.gguf");
  EXPECT_NE(message("split-00001-of-00003.gguf").find("is missing"), std::string::npos);
  // The first file again under the name of the last: a split that runs in a circle.
  copy("split-00001-of-00003.gguf", "split-00003-of-00003.gguf");
  EXPECT_NE(message("split-00001-of-00003.gguf").find("do not belong together"), std::string::npos);
  copy("split-00001-of-00003.gguf", "renamed.gguf");
  EXPECT_NE(message("renamed.gguf").find("rename the files"), std::string::npos);
}

Metadata metadata_of(std::initializer_list<Metadata::Entry> entries) {
  Metadata metadata;
  for (const auto& entry : entries) metadata.set(entry.key, entry.value);
  return metadata;
}

/// A tensor of random bytes of a layout.
QuantizedTensor random_tensor(const BlockLayout& layout, std::int64_t rows, std::int64_t row_blocks,
                              unsigned seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(static_cast<std::size_t>(rows * row_blocks * layout.n_bytes));
  // Below 0x70 every f16, bf16, e8m0 and ue4m3 is a finite number, wherever the scales lie.
  for (auto& byte : bytes) byte = static_cast<std::byte>(random() % 0x70);
  return load_blocks(layout, bytes, rows, row_blocks * layout.n_numbers, nullptr);
}

TEST_F(Gguf, WritesEveryTypeAndReadsItBack) {
  const std::string path = (folder / "out.gguf").string();
  std::vector<TensorDeclaration> declared;
  std::vector<QuantizedTensor> tensors;
  for (const BlockLayout& layout : block_layouts()) {
    tensors.push_back(random_tensor(layout, 3, 2, layout.ggml_type));
    if (layout.name == "nvfp4") {
      tensors.back().scale->scale->codes.set(0, 0, std::bit_cast<std::uint32_t>(0.75f));
    }
    declared.push_back(
        {std::string(layout.name) + ".weight", {3, 2 * layout.n_numbers}, layout.scheme});
  }
  auto source = open_gguf((golden / "every_type.gguf").string());
  ASSERT_TRUE(source);
  auto writer = create_gguf(path, (*source)->metadata(), declared);
  ASSERT_TRUE(writer) << writer.error().message();
  for (const auto& tensor : tensors) {
    auto added = (*writer)->add(tensor);
    ASSERT_TRUE(added) << added.error().message();
  }
  EXPECT_EQ(own.n_files(), 0u);
  ASSERT_TRUE((*writer)->commit());
  EXPECT_EQ(fs::file_size(path), static_cast<std::uintmax_t>((*writer)->file_bytes()));

  auto checkpoint = open_gguf(path);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message();
  ASSERT_EQ((*checkpoint)->tensors().size(), tensors.size());
  ASSERT_EQ((*checkpoint)->metadata().n_entries(), (*source)->metadata().n_entries());
  for (std::size_t i = 0; i < (*source)->metadata().n_entries(); ++i) {
    EXPECT_EQ((*checkpoint)->metadata().entries()[i].key, (*source)->metadata().entries()[i].key);
    EXPECT_EQ((*checkpoint)->metadata().entries()[i].value,
              (*source)->metadata().entries()[i].value);
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& info = (*checkpoint)->tensors()[i];
    SCOPED_TRACE(info.name);
    EXPECT_EQ(info.name, declared[i].name);
    EXPECT_EQ(info.shape, declared[i].shape);
    EXPECT_EQ(to_string(info.scheme), to_string(declared[i].scheme));
    auto tensor = (*checkpoint)->load(i, nullptr);
    ASSERT_TRUE(tensor) << tensor.error().message();
    const auto numbers = decode(*tensor), expected = decode(tensors[i]);
    ASSERT_EQ(std::memcmp(numbers.data(), expected.data(), numbers.size() * sizeof(float)), 0);
  }
}

TEST_F(Gguf, TheWriterKeepsTheAlignment) {
  auto writer = create_gguf((folder / "out.gguf").string(),
                            metadata_of({{"general.alignment", Value::integer(128)}}),
                            {{"a", {3}, *parse_scheme("f32")}, {"b", {5}, *parse_scheme("f32")}});
  ASSERT_TRUE(writer);
  const std::vector<float> a{1, 2, 3}, b{4, 5, 6, 7, 8};
  ASSERT_TRUE((*writer)->add(encode_plain(a, *parse_scheme("f32"), 1, 3)));
  ASSERT_TRUE((*writer)->add(encode_plain(b, *parse_scheme("f32"), 1, 5)));
  ASSERT_TRUE((*writer)->commit());
  EXPECT_EQ(fs::file_size(folder / "out.gguf") % 128, 0u);
  auto checkpoint = open_gguf((folder / "out.gguf").string());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message();
  EXPECT_EQ(decode(*(*checkpoint)->load(1, nullptr)), b);
}

TEST_F(Gguf, WithoutCommitThereIsNoFile) {
  {
    auto writer =
        create_gguf((folder / "out.gguf").string(), {}, {{"a", {3}, *parse_scheme("f32")}});
    ASSERT_TRUE(writer);
    auto early = (*writer)->commit();
    ASSERT_FALSE(early);
    EXPECT_NE(early.error().message().find("only 0 of 1 tensors"), std::string::npos);
  }
  EXPECT_EQ(own.n_files(), 0u);
}

TEST_F(Gguf, TheWriterSaysWhatDoesNotFit) {
  const std::string path = (folder / "out.gguf").string();
  const auto message = [&](const char* scheme, std::vector<std::int64_t> shape) {
    auto writer = create_gguf(path, {}, {{"w", std::move(shape), *parse_scheme(scheme)}});
    return writer ? std::string("no error") : writer.error().message();
  };
  EXPECT_EQ(message("int4.g128", {2, 256}),
            path +
                ": tensor w: GGUF has no type for int4.g128; write a folder (-o DIR/), which "
                "holds every scheme, or choose a scheme of GGUF (`lowbit formats` lists them)");
  EXPECT_EQ(message("q4_k", {2, 576}),
            path +
                ": tensor w: rows of 576 numbers are not whole blocks of q4_k (256 numbers "
                "each); choose another scheme or give --fallback SCHEME");
  for (const char* scheme : {"mxfp8", "mxfp6", "mxint8", "nf4.g64", "e4m3.channel", "int8.channel",
                             "int3.g32.asym", "e4m3.block128"}) {
    EXPECT_NE(message(scheme, {2, 256}).find("GGUF has no type"), std::string::npos) << scheme;
  }
  auto turned = create_gguf(path, {}, {{"w", {2, 32}, *parse_scheme("q8_0"), {16}}});
  ASSERT_FALSE(turned);
  EXPECT_EQ(turned.error().message(),
            path +
                ": tensor w: GGUF has no place for the basis of its inputs (hadamard 16); write a "
                "folder (-o DIR/) or take hadamard-folded");
  auto writer = create_gguf(path, {}, {{"w", {2, 32}, *parse_scheme("q8_0")}});
  ASSERT_TRUE(writer);
  EXPECT_FALSE((*writer)->add(QuantizedTensor(*parse_scheme("q8_0"), 2, 64)));
  EXPECT_FALSE((*writer)->add(QuantizedTensor(*parse_scheme("q4_0"), 2, 32)));
  EXPECT_EQ(own.n_files(), 0u);
}

TEST_F(Gguf, ASpellingOfAGgufSchemeIsWrittenAsThatType) {
  const std::string path = (folder / "out.gguf").string();
  auto writer = create_gguf(path, {}, {{"w", {2, 32}, *parse_scheme("int4.g32")}});
  ASSERT_TRUE(writer) << writer.error().message();
  ASSERT_TRUE((*writer)->add(QuantizedTensor(*parse_scheme("int4.g32"), 2, 32)));
  ASSERT_TRUE((*writer)->commit());
  EXPECT_EQ(to_string((*open_gguf(path))->tensors()[0].scheme), "q4_0");
}

// ---- damage

/// The golden file with a little-endian number written over it.
template <class T>
std::string patched(std::string bytes, std::size_t at, T value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
  return bytes;
}

TEST_F(Gguf, HeadersThatCannotBe) {
  const std::string good = read_bytes(golden / "every_type.gguf");
  const auto has = [](const std::string& message, const char* part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  has(error_of(""), "not a GGUF file");
  has(error_of("GGML" + good.substr(4)), "not a GGUF file");
  has(error_of("GGUF"), "ends inside the header");
  has(error_of(patched<std::uint32_t>(good, 4, 1)), "version 1 is not supported");
  has(error_of(patched<std::uint32_t>(good, 4, 4)), "version 4 is not supported");
  has(error_of(patched<std::uint32_t>(good, 4, 0x03000000)), "big-endian");
  constexpr std::uint64_t absurd = std::uint64_t{1} << 60;
  has(error_of(patched(good, 8, absurd)), "do not fit into the file");
  has(error_of(patched(good, 16, absurd)), "do not fit into the file");
  has(error_of(patched(good, 24, absurd)), "ends inside metadata entry 1");
}

TEST_F(Gguf, TensorTablesThatCannotBe) {
  const std::string good = read_bytes(golden / "every_type.gguf");
  const auto has = [](const std::string& message, const char* part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  // name, u32 n_dims, u64 dims, u32 type, u64 offset
  const std::string name = "matrix.q8_0";
  const std::size_t dims = good.find(name) + name.size(), shape = dims + 4, type = shape + 16,
                    offset = type + 4;
  has(error_of(patched<std::uint32_t>(good, dims, 0)), "has 0 dimensions");
  has(error_of(patched<std::uint32_t>(good, dims, 5)), "has 5 dimensions");
  has(error_of(patched<std::uint64_t>(good, shape, 0)), "impossible shape");
  has(error_of(patched<std::uint64_t>(good, shape, ~0ull)), "impossible shape");
  has(error_of(patched<std::uint64_t>(patched<std::uint64_t>(good, shape, 1ull << 32), shape + 8,
                                      1ull << 32)),
      "impossible shape");
  has(error_of(patched<std::uint64_t>(good, shape, 1ull << 40)), "beyond the end");
  has(error_of(patched<std::uint64_t>(good, shape, 33)), "not a multiple of the 32");
  has(error_of(patched<std::uint32_t>(good, type, 9999)), "GGUF type 9999");
  has(error_of(patched<std::uint64_t>(good, offset, 1)), "not aligned to 32");
  has(error_of(patched<std::uint64_t>(good, offset, 0)), "overlap");
  has(error_of(patched<std::uint64_t>(good, offset, 1ull << 50)), "beyond the end");
  has(error_of(good.substr(0, good.size() - 64)), "beyond the end");
}

TEST_F(Gguf, DoubledNamesAndKeys) {
  std::string good = read_bytes(golden / "every_type.gguf");
  std::string keys = good;
  keys.replace(keys.find("test.int64"), 10, "test.int32");
  EXPECT_NE(error_of(keys).find("'test.int32' occurs twice"), std::string::npos);
  auto writer = create_gguf((folder / "two.gguf").string(), {},
                            {{"a", {1}, *parse_scheme("f32")}, {"b", {1}, *parse_scheme("f32")}});
  ASSERT_TRUE(writer);
  for (int i = 0; i < 2; ++i) {
    ASSERT_TRUE((*writer)->add(encode_plain({{1.0f}}, *parse_scheme("f32"), 1, 1)));
  }
  ASSERT_TRUE((*writer)->commit());
  std::string names = read_bytes(folder / "two.gguf");
  names[names.find('b', 24)] = 'a';
  EXPECT_NE(error_of(names).find("tensor 'a' occurs twice"), std::string::npos);
}

TEST_F(Gguf, AlignmentMustBeAPowerOfTwo) {
  const std::string good = read_bytes(golden / "aligned.gguf");
  const std::size_t value = good.find("general.alignment") + 17 + 4;
  for (const std::uint32_t alignment : {0u, 3u, 48u, 1u << 31}) {
    EXPECT_NE(error_of(patched(good, value, alignment)).find("a power of two"), std::string::npos)
        << alignment;
  }
  auto writer = create_gguf((folder / "out.gguf").string(),
                            metadata_of({{"general.alignment", Value::integer(0)}}), {});
  ASSERT_FALSE(writer);
  EXPECT_NE(writer.error().message().find("a power of two"), std::string::npos);
}

// Files of a vocabulary alone have no tensors.
TEST_F(Gguf, AFileWithoutTensors) {
  const std::string path = (folder / "out.gguf").string();
  auto writer = create_gguf(path, metadata_of({{"a", Value::string("")}}), {});
  ASSERT_TRUE(writer);
  ASSERT_TRUE((*writer)->commit());
  auto checkpoint = open_gguf(path);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message();
  EXPECT_TRUE((*checkpoint)->tensors().empty());
  EXPECT_EQ(*(*checkpoint)->metadata().string("a"), "");
  EXPECT_EQ(bits_per_weight(**checkpoint), 0);
}

TEST_F(Gguf, ArraysOfArraysAreRefused) {
  const std::string good = read_bytes(golden / "every_type.gguf");
  const std::size_t element = good.find("test.ints") + 9 + 4;
  EXPECT_NE(error_of(patched<std::uint32_t>(good, element, 9)).find("array of arrays"),
            std::string::npos);
  EXPECT_NE(error_of(patched<std::uint64_t>(good, element + 4, 1ull << 61)).find("does not fit"),
            std::string::npos);
  EXPECT_NE(error_of(patched<std::uint32_t>(good, element - 4, 77)).find("no GGUF value type"),
            std::string::npos);
}

TEST_F(Gguf, Type42OfAnotherProgramIsNamed) {
  const std::string path = (folder / "stq.gguf").string();
  auto writer = create_gguf(
      path, {}, {{"a", {2, 256}, *parse_scheme("stq1_0")}, {"b", {1}, *parse_scheme("f32")}});
  ASSERT_TRUE(writer);
  ASSERT_TRUE((*writer)->add(QuantizedTensor(*parse_scheme("stq1_0"), 2, 256)));
  ASSERT_TRUE((*writer)->add(encode_plain({{1.0f}}, *parse_scheme("f32"), 1, 1)));
  ASSERT_TRUE((*writer)->commit());
  ASSERT_TRUE(open_gguf(path));
  // The same tensor with 144 bytes, as 64 numbers in 18 bytes would take.
  std::string bytes = read_bytes(path);
  const std::size_t offset = bytes.find('b', 24) + 1 + 4 + 8 + 4;
  std::uint64_t old_offset = 0;
  std::memcpy(&old_offset, bytes.data() + offset, sizeof old_offset);
  bytes.insert(bytes.size() - 32, std::string(64, '\0'));
  EXPECT_NE(error_of(patched(bytes, offset, old_offset + 64)).find("shares with types of other"),
            std::string::npos);
}

TEST_F(Gguf, AScaleThatIsNotANumberIsRefused) {
  std::string bytes = read_bytes(golden / "every_type.gguf");
  auto good = open_gguf((golden / "every_type.gguf").string());
  ASSERT_TRUE(good);
  const auto index = static_cast<std::size_t>((*good)->index_of("matrix.q8_0"));
  // The tensors end the file; q8_0 comes before the 3 x 2 x 20 bytes of q4_1, padded to 32.
  const std::size_t q8_0 = bytes.size() - 128 - 224;
  std::uint16_t scale = 0;
  std::memcpy(&scale, bytes.data() + q8_0, sizeof scale);
  ASSERT_EQ(scale, (*good)->load(index, nullptr)->scale->codes.get(0, 0));
  auto opened = open_gguf(write("nan.gguf", patched<std::uint16_t>(bytes, q8_0, 0x7e00)));
  ASSERT_TRUE(opened);
  auto tensor = (*opened)->load(index, nullptr);
  ASSERT_FALSE(tensor);
  EXPECT_NE(tensor.error().message().find("'matrix.q8_0' has a scale that is not a finite number"),
            std::string::npos);
}

// Whatever happens to a file, opening and loading it gives numbers or one sentence.
TEST_F(Gguf, MutatedFilesNeverCrash) {
  const std::string good = read_bytes(golden / "every_type.gguf");
  const unsigned seed = 20260726;
  std::mt19937 random(seed);
  const std::size_t header_bytes = good.size() - 512;
  int n_errors = 0;
  for (int i = 0; i < 400; ++i) {
    SCOPED_TRACE(testing::Message() << "seed " << seed << " mutation " << i);
    std::string bytes = good;
    const std::size_t at = random() % (i % 5 == 0 ? good.size() : header_bytes);
    switch (i % 4) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
        break;
      case 1:
        bytes.resize(at);
        break;
      case 2:  // a number that could be a count, a size or an offset
        bytes = patched<std::uint64_t>(bytes, std::min(at, good.size() - 8),
                                       std::uint64_t{1} << random() % 64);
        break;
      default:
        bytes.erase(at, 1 + random() % 16);
        break;
    }
    auto opened = open_gguf(write("mutated.gguf", bytes));
    if (!opened) {
      EXPECT_FALSE(opened.error().message().empty());
      EXPECT_EQ(opened.error().message().find('\n'), std::string::npos);
      ++n_errors;
      continue;
    }
    for (std::size_t t = 0; t < (*opened)->tensors().size(); ++t) {
      auto tensor = (*opened)->load(t, nullptr);
      if (tensor) decode(*tensor);
    }
  }
  EXPECT_GT(n_errors, 100);
}

}  // namespace
}  // namespace lowbit
