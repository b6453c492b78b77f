// SPDX-License-Identifier: Apache-2.0
// Safetensors files of the `safetensors` package (tests/golden/make_safetensors.py), folders in our
// own convention, and damaged files of both kinds.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <random>

#include "lowbit/base/test_files.h"
#include "lowbit/formats/learned_code.h"
#include "lowbit/io/checkpoint.h"
#include "lowbit/io/checkpoint_writer.h"
#include "lowbit/io/json.h"

namespace lowbit {
namespace {

namespace fs = std::filesystem;
const fs::path golden = LOWBIT_SOURCE_DIR "/tests/golden/safetensors";

/// A safetensors file of a header and data.
std::string file_of(const std::string& header, std::string_view data = "") {
  const std::uint64_t n_header = header.size();
  std::string bytes(sizeof n_header, '\0');
  std::memcpy(bytes.data(), &n_header, sizeof n_header);
  return bytes + header + std::string(data);
}

float golden_number(std::size_t i) {
  return static_cast<float>(static_cast<int>(i % 17) - 8) / 4;
}

class Safetensors : public InFolder<::testing::Test> {
 protected:
  std::string error_of(std::string_view bytes) const {
    write_bytes(folder / "bad.safetensors", bytes);
    return message_of(folder / "bad.safetensors");
  }
  static std::string message_of(const fs::path& path) {
    auto opened = open_checkpoint(path.string());
    return opened ? "no error" : opened.error().message();
  }
  /// What the folder of the file `path` says once the bytes `good` stand there with `to`, of the
  /// same length, for `from`.
  static std::string error_with(const fs::path& path, const std::string& good,
                                const std::string& from, const std::string& to) {
    std::string bytes = good;
    EXPECT_EQ(from.size(), to.size());
    bytes.replace(bytes.find(from), from.size(), to);
    write_bytes(path, bytes);
    return message_of(path.parent_path());
  }
};

void expect_has(const std::string& message, std::string_view part) {
  EXPECT_NE(message.find(part), std::string::npos) << message;
}

TEST_F(Safetensors, ReadsAFileAndShards) {
  for (const char* name : {"single", "sharded", "single/model.safetensors"}) {
    SCOPED_TRACE(name);
    auto checkpoint = open_checkpoint((golden / name).string());
    ASSERT_TRUE(checkpoint) << checkpoint.error().message();
    EXPECT_EQ((*checkpoint)->container(), "safetensors");
    EXPECT_EQ((*checkpoint)->tensors().size(), 4u);  // without the int64 buffer
    const struct {
      const char* name;
      std::vector<std::int64_t> shape;
      const char* scheme;
    } expected[] = {{"norm.weight", {5}, "f32"},
                    {"a.weight", {3, 7}, "f16"},
                    {"b.weight", {2, 3, 4}, "bf16"},
                    {"c.scalar", {1}, "f32"}};
    for (const auto& row : expected) {
      SCOPED_TRACE(row.name);
      const auto index = (*checkpoint)->index_of(row.name);
      ASSERT_GE(index, 0);
      const auto at = static_cast<std::size_t>(index);
      EXPECT_EQ((*checkpoint)->tensors()[at].shape, row.shape);
      EXPECT_EQ(to_string((*checkpoint)->tensors()[at].scheme), row.scheme);
      auto tensor = (*checkpoint)->load(at, nullptr);
      ASSERT_TRUE(tensor);
      const auto numbers = decode(*tensor);
      for (std::size_t i = 0; i < numbers.size(); ++i) ASSERT_EQ(numbers[i], golden_number(i));
      (*checkpoint)->drop_pages(at);
    }
    auto config = (*checkpoint)->side_file("config.json");
    ASSERT_TRUE(config);
    expect_has(*config, "LlamaForCausalLM");
    EXPECT_FALSE((*checkpoint)->side_file("tokenizer.json"));
  }
}

TEST_F(Safetensors, HeadersThatCannotBe) {
  const std::string tensor = R"("a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]})";
  const std::string eight(8, '\0');
  EXPECT_EQ(error_of(file_of("{" + tensor + "}", eight)), "no error");
  expect_has(error_of(""), "not a safetensors file");
  expect_has(error_of("abc"), "not a safetensors file");
  std::string absurd = file_of("{" + tensor + "}", eight);
  absurd[7] = 0x7f;
  expect_has(error_of(absurd), "not a safetensors file");
  expect_has(error_of(file_of("{\"a\":")), "JSON is broken");
  expect_has(error_of(file_of("[]")), "not an object");
  expect_has(error_of(file_of(std::string(1000, '[') + std::string(1000, ']'))),
             "nested too deeply");
  expect_has(error_of(file_of("{" + tensor + "," + tensor + "}", eight)), "'a' occurs twice");
  expect_has(error_of(file_of("{" + tensor + "}")), "beyond the end");
  expect_has(error_of(file_of("{" + tensor + "}", eight + "x")), "bytes after the last tensor");
  expect_has(error_of(file_of(R"({"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}})", eight)),
             "does not match its bytes");
  expect_has(error_of(file_of(R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}})", eight)),
             "does not match its bytes");
  expect_has(
      error_of(file_of(
          R"({"a":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,8]}})", eight)),
      "does not match its bytes");
  expect_has(error_of(file_of(R"({"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}})", eight)),
             "does not match its bytes");
  expect_has(error_of(file_of(R"({"a":{"dtype":"F33","shape":[2],"data_offsets":[0,8]}})", eight)),
             "dtype 'F33'");
  expect_has(error_of(file_of(R"({"a":{"dtype":"F64","shape":[1],"data_offsets":[0,8]}})", eight)),
             "lowbit reads F32, F16 and BF16");
  expect_has(error_of(file_of(R"({"a":3})", eight)), "lacks a dtype");
  expect_has(error_of(file_of(R"({"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]}})")),
             "has no numbers");
  expect_has(error_of(file_of(R"({"__metadata__":{"a":1}})")), "more than strings");
  expect_has(error_of(file_of(R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},)"
                              R"("b":{"dtype":"U8","shape":[5],"data_offsets":[3,8]}})",
                              eight)),
             "'b' does not start where the one before it ends");
}

TEST_F(Safetensors, FoldersThatCannotBe) {
  expect_has(message_of(folder), "holds no model");
  write_bytes(folder / "x.gguf", "GGUF");
  expect_has(message_of(folder), "x.gguf");
  expect_has(message_of(folder / "missing"), "No such file");
  write_bytes(folder / "notes.txt", "hello");
  expect_has(message_of(folder / "notes.txt"), "is no model that lowbit reads");
  const std::string one = read_bytes(golden / "sharded/model-00001-of-00002.safetensors");
  write_bytes(folder / "a.safetensors", one);
  EXPECT_EQ(message_of(folder), "no error");
  write_bytes(folder / "b.safetensors", one);
  expect_has(message_of(folder), "holds 2 .safetensors files");
  const fs::path index = folder / "model.safetensors.index.json";
  write_bytes(index, "{}");
  expect_has(message_of(folder), "no weight_map");
  write_bytes(index, R"({"weight_map":{"a.weight":"../a.safetensors"}})");
  expect_has(message_of(folder), "no file of the folder");
  write_bytes(index, R"({"weight_map":{"a.weight":"c.safetensors"}})");
  expect_has(message_of(folder), "'c.safetensors', which is missing");
  write_bytes(index, R"({"weight_map":{"a.weight":"a.safetensors","z":"a.safetensors"}})");
  expect_has(message_of(folder), "the tensor 'z'");
  write_bytes(index,
              R"({"weight_map":{"a.weight":"a.safetensors","norm.weight":"b.safetensors"}})");
  expect_has(message_of(folder), "in another file of the model too");
  write_bytes(folder / "config.json", R"({"quantization_config":{"quant_method":"gptq"}})");
  expect_has(message_of(folder), "quantized with 'gptq'");
}

// ---- our own convention

std::vector<std::string> every_scheme() {
  std::vector<std::string> names{"int4.g128.zero", "uint3.g32.offset.bf16", "int5.g48.f32"};
  for (const Scheme& scheme : named_schemes()) names.emplace_back(scheme.name);
  return names;
}

/// Random codes below 0x70, finite wherever scales lie.
void fill_random(QuantizedTensor& tensor, std::mt19937& random) {
  CodeArray& codes = tensor.codes;
  for (std::int64_t r = 0; r < codes.n_rows(); ++r) {
    for (std::int64_t i = 0; i < codes.n_per_row(); ++i) {
      const std::uint32_t limit = codes.width() >= 7 ? 0x6fu : (1u << codes.width()) - 1;
      codes.set(r, i, static_cast<std::uint32_t>(random() % (limit + 1)));
    }
  }
  if (tensor.scale) fill_random(*tensor.scale, random);
  if (tensor.zero) fill_random(*tensor.zero, random);
}

struct Model {
  std::vector<TensorDeclaration> declared;
  std::vector<QuantizedTensor> tensors;

  void add(const std::string& name, const std::string& scheme, std::vector<std::int64_t> shape,
           std::mt19937& random) {
    auto parsed = parse_scheme(scheme);
    ASSERT_TRUE(parsed) << parsed.error().message();
    std::int64_t rows = 1;
    for (std::size_t d = 0; d + 1 < shape.size(); ++d) rows *= shape[d];
    tensors.emplace_back(*parsed, rows, shape.back());
    fill_random(tensors.back(), random);
    declared.push_back({name, std::move(shape), *parsed});
  }
  Status write(const fs::path& folder) const {
    auto writer = create_lowbit_folder(folder.string(), R"({"model_type": "llama"})",
                                       {{"tokenizer.json", "{\"version\": \"1.0\"}"}}, declared);
    if (!writer) return std::move(writer).error();
    for (const auto& tensor : tensors) {
      auto added = (*writer)->add(tensor);
      if (!added) return added;
    }
    return (*writer)->commit();
  }
};

void expect_equal_planes(const QuantizedTensor& a, const QuantizedTensor& b) {
  ASSERT_EQ(a.rows, b.rows);
  ASSERT_EQ(a.cols, b.cols);
  for (std::int64_t r = 0; r < a.codes.n_rows(); ++r) {
    const auto x = a.codes.row(r), y = b.codes.row(r);
    ASSERT_TRUE(std::equal(x.begin(), x.end(), y.begin(), y.end())) << "row " << r;
  }
  ASSERT_EQ(a.scale == nullptr, b.scale == nullptr);
  ASSERT_EQ(a.zero == nullptr, b.zero == nullptr);
  if (a.scale) expect_equal_planes(*a.scale, *b.scale);
  if (a.zero) expect_equal_planes(*a.zero, *b.zero);
}

TEST_F(Safetensors, EverySchemeRoundTrips) {
  std::mt19937 random(5);
  Model model;
  for (const auto& scheme : every_scheme()) {
    model.add(scheme + ".weight", scheme, {3, 512}, random);
  }
  // Short groups at the end of a row, odd row lengths, more dimensions.
  model.add("short.weight", "int3.g128.asym", {5, 300}, random);
  model.add("odd.weight", "int5.g32", {3, 77}, random);
  model.add("block.weight", "e4m3.block128", {130, 260}, random);
  model.add("cube.weight", "int4.g64", {2, 3, 64}, random);
  model.add("norm.weight", "f32", {9}, random);
  auto written = model.write(folder / "out");
  ASSERT_TRUE(written) << written.error().message();
  EXPECT_EQ(own.n_files(), 1u);

  auto checkpoint = open_checkpoint((folder / "out").string());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message();
  EXPECT_EQ((*checkpoint)->container(), "lowbit");
  ASSERT_EQ((*checkpoint)->tensors().size(), model.declared.size());
  for (std::size_t i = 0; i < model.declared.size(); ++i) {
    SCOPED_TRACE(model.declared[i].name);
    const auto index = (*checkpoint)->index_of(model.declared[i].name);
    ASSERT_GE(index, 0);
    const TensorInfo& info = (*checkpoint)->tensors()[static_cast<std::size_t>(index)];
    EXPECT_EQ(info.shape, model.declared[i].shape);
    EXPECT_EQ(info.scheme, model.declared[i].scheme);
    auto tensor = (*checkpoint)->load(static_cast<std::size_t>(index), nullptr);
    ASSERT_TRUE(tensor) << tensor.error().message();
    expect_equal_planes(*tensor, model.tensors[i]);
  }
  EXPECT_EQ(*(*checkpoint)->side_file("tokenizer.json"), "{\"version\": \"1.0\"}");
  const auto config = Json::parse(*(*checkpoint)->side_file("config.json"));
  EXPECT_EQ(config["model_type"], "llama");
  EXPECT_EQ(config["quantization_config"]["quant_method"], "lowbit");
  EXPECT_EQ(config["quantization_config"]["tensors"]["odd.weight"]["scheme"], "int5.g32");
}

TEST_F(Safetensors, ThePlanesAreAsDocumented) {
  std::mt19937 random(6);
  Model model;
  model.add("w", "q4_k", {2, 256}, random);
  ASSERT_TRUE(model.write(folder / "out"));
  const std::string bytes = read_bytes(folder / "out/model.safetensors");
  std::uint64_t n_header = 0;
  std::memcpy(&n_header, bytes.data(), sizeof n_header);
  EXPECT_EQ(n_header % 8, 0u);
  const auto header = Json::parse(bytes.substr(8, n_header));
  const struct {
    const char* name;
    const char* dtype;
    std::vector<std::int64_t> shape;
  } expected[] = {{"w.codes", "U8", {2, 128}},
                  {"w.scale", "U8", {2, 6}},
                  {"w.scale.scale", "F16", {2, 1}},
                  {"w.zero", "U8", {2, 6}},
                  {"w.zero.scale", "F16", {2, 1}}};
  EXPECT_EQ(header.size(), std::size(expected) + 1);
  for (const auto& row : expected) {
    EXPECT_EQ(header[row.name]["dtype"], row.dtype) << row.name;
    EXPECT_EQ(header[row.name]["shape"].get<std::vector<std::int64_t>>(), row.shape) << row.name;
  }
}

TEST_F(Safetensors, ALearnedTableIsTheTensorsOwn) {
  const fs::path out = folder / "model";
  const std::vector<TensorDeclaration> declared{{"a", {6, 64}, *parse_scheme("lut2.g64")},
                                                {"b", {6, 64}, *parse_scheme("lut2.g64")},
                                                {"c", {6, 64}, *parse_scheme("vq4x2.g64")}};
  std::vector<QuantizedTensor> tensors;
  for (const TensorDeclaration& tensor : declared) {
    Scheme scheme = tensor.scheme;
    std::vector<float> values(scheme.code->values.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(7 * i + 10 * tensors.size()) - 127;
    }
    scheme.code = LearnedCode::make(*scheme.code, values);
    tensors.emplace_back(scheme, 6, 64);
    for (std::int64_t r = 0; r < 6; ++r) {
      tensors.back().scale->codes.set(r, 0, 0x3c00u + static_cast<std::uint32_t>(r));
      for (std::int64_t i = 0; i < tensors.back().codes.n_per_row(); ++i) {
        tensors.back().codes.set(r, i, static_cast<std::uint32_t>(i + r) % 4);
      }
    }
  }
  auto writer = create_lowbit_folder(out.string(), "", {}, declared);
  ASSERT_TRUE(writer) << writer.error().message();
  for (const QuantizedTensor& tensor : tensors) ASSERT_TRUE((*writer)->add(tensor));
  ASSERT_TRUE((*writer)->commit());

  auto checkpoint = open_checkpoint(out.string());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message();
  ASSERT_EQ((*checkpoint)->tensors().size(), 3u);
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const auto at = static_cast<std::size_t>((*checkpoint)->index_of(declared[i].name));
    EXPECT_EQ(to_string((*checkpoint)->tensors()[at].scheme), to_string(declared[i].scheme));
    auto loaded = (*checkpoint)->load(at, nullptr);
    ASSERT_TRUE(loaded) << loaded.error().message();
    EXPECT_TRUE(loaded->scheme == tensors[i].scheme) << i;
    EXPECT_EQ(decode(*loaded), decode(tensors[i])) << i;
  }
  // -128 in the table of the first tensor.
  std::string bytes = read_bytes(out / "model.safetensors");
  const std::size_t table = bytes.find(std::string("\x81\x88\x8f\x96", 4));
  ASSERT_NE(table, std::string::npos);
  bytes[table] = '\x80';
  write_bytes(out / "model.safetensors", bytes);
  checkpoint = open_checkpoint(out.string());
  ASSERT_TRUE(checkpoint);
  const auto damaged =
      (*checkpoint)->load(static_cast<std::size_t>((*checkpoint)->index_of("a")), nullptr);
  ASSERT_FALSE(damaged);
  expect_has(damaged.error().message(), "-128 in its table");
  expect_has(fits_gguf(declared[0].scheme, {6, 64}).error().message(), "lut2");
}

TEST_F(Safetensors, WholeOrNotAtAll) {
  std::mt19937 random(7);
  Model model;
  model.add("w", "int4.g32", {2, 64}, random);
  {
    auto writer = create_lowbit_folder((folder / "out").string(), "", {}, model.declared);
    ASSERT_TRUE(writer) << writer.error().message();
    ASSERT_TRUE((*writer)->add(model.tensors[0]));
    EXPECT_EQ(own.n_files(), 0u);
  }
  EXPECT_EQ(own.n_files(), 0u);
  ASSERT_TRUE(model.write(folder / "out/"));
  EXPECT_EQ(own.n_files(), 1u);
  // A folder of ours is replaced, also when it had more files.
  write_bytes(folder / "out/notes.txt", "old");
  Model other;
  other.add("v", "int8.channel", {1, 8}, random);
  ASSERT_TRUE(other.write(folder / "out"));
  EXPECT_EQ(own.n_files(), 1u);
  EXPECT_FALSE(fs::exists(folder / "out/notes.txt"));
  EXPECT_EQ((*open_checkpoint((folder / "out").string()))->tensors()[0].name, "v");
  // Anything else is not.
  fs::create_directory(folder / "mine");
  write_bytes(folder / "mine/notes.txt", "mine");
  auto refused = model.write(folder / "mine");
  ASSERT_FALSE(refused);
  expect_has(refused.error().message(), "holds something that lowbit did not write");
  write_bytes(folder / "file", "mine");
  auto in_the_way = model.write(folder / "file");
  ASSERT_FALSE(in_the_way);
  expect_has(in_the_way.error().message(), "a file of that name is in the way");
  auto nowhere = model.write(folder / "missing/out");
  ASSERT_FALSE(nowhere);
  expect_has(nowhere.error().message(), "No such file");
}

TEST_F(Safetensors, TheFolderWriterSaysWhatDoesNotFit) {
  const auto message = [](const char* scheme, std::vector<std::int64_t> shape) {
    auto fits = fits_lowbit(*parse_scheme(scheme), shape);
    return fits ? std::string("no error") : fits.error().message();
  };
  EXPECT_EQ(message("mxfp4", {2, 48}),
            "rows of 48 numbers are not whole blocks of mxfp4 (32 numbers each); choose another "
            "scheme or give --fallback SCHEME");
  expect_has(message("nvfp4", {2, 24}), "nvfp4 (16 numbers each)");
  expect_has(message("q4_k", {2, 576}), "q4_k (256 numbers each)");
  expect_has(message("iq2_xs", {2, 576}), "iq2_xs (256 numbers each)");
  EXPECT_EQ(message("int4.g128", {2, 576}), "no error");
  EXPECT_EQ(message("nf4.g64", {2, 100}), "no error");
  EXPECT_EQ(message("e4m3.block128", {2, 100}), "no error");
}

TEST_F(Safetensors, DescriptionsThatCannotBe) {
  std::mt19937 random(8);
  Model model;
  model.add("w", "int4.g32", {2, 64}, random);
  ASSERT_TRUE(model.write(folder / "out"));
  const fs::path path = folder / "out/model.safetensors";
  const std::string good = read_bytes(path);
  const auto with = [&](const std::string& from, const std::string& to) {
    return error_with(path, good, from, to);
  };
  expect_has(with(R"(\"version\":1)", R"(\"version\":3)"), "version 3 of the lowbit convention");
  expect_has(with(R"(\"group\":[1,32])", R"(\"group\":[1,64])"), "another structure");
  expect_has(with(R"(\"shape\":[2,64])", R"(\"shape\":[2,65])"), "needs 'w'.codes as U8");
  expect_has(with(R"(\"shape\":[2,64])", R"(\"shape\":[0,64])"), "broken at 'w'");
  expect_has(with(R"("w.codes")", R"("w.kodes")"), "needs 'w'.codes");
  expect_has(with(R"(\"tensors\")", R"(\"tansors\")"), "broken at 'tensors'");
  expect_has(with(R"("lowbit":"{)", R"("lowbot":"{)"), "has no description");
  write_bytes(path, good);
  EXPECT_EQ(message_of(folder / "out"), "no error");
}

TEST_F(Safetensors, BasesAreStoredAndChecked) {
  std::mt19937 random(9);
  Model model;
  model.add("w", "int4.g32", {2, 96}, random);
  model.add("plain", "f16", {3, 96}, random);
  model.add("straight", "int4.g32", {2, 96}, random);
  for (const std::size_t i : {0u, 1u}) {
    model.declared[i].input.hadamard = model.tensors[i].input.hadamard = 32;
  }
  ASSERT_TRUE(model.write(folder / "out"));
  const fs::path path = folder / "out/model.safetensors";
  const std::string good = read_bytes(path);
  EXPECT_NE(good.find(R"(\"version\":2)"), std::string::npos) << "old readers must refuse it";
  const auto checkpoint = open_checkpoint((folder / "out").string());
  ASSERT_TRUE(checkpoint) << checkpoint.error().message();
  for (std::size_t i = 0; i < model.tensors.size(); ++i) {
    const auto index = static_cast<std::size_t>((*checkpoint)->index_of(model.declared[i].name));
    EXPECT_EQ((*checkpoint)->tensors()[index].input, model.tensors[i].input);
    const auto tensor = (*checkpoint)->load(index, nullptr);
    ASSERT_TRUE(tensor) << tensor.error().message();
    EXPECT_EQ(tensor->input, model.tensors[i].input);
    expect_equal_planes(*tensor, model.tensors[i]);
  }
  const auto with = [&](const std::string& from, const std::string& to) {
    return error_with(path, good, from, to);
  };
  expect_has(with(R"(\"hadamard\":32)", R"(\"hadamard\":64)"), "not whole blocks of 64");
  expect_has(with(R"(\"hadamard\":32)", R"(\"hadamard\":24)"), "a power of two, not of 24");
  expect_has(with(R"(\"hadamard\":32)", R"(\"hadamard\":-8)"), "broken at 'hadamard'");
  expect_has(with(R"(\"hadamard\":32)", R"(\"hadamerd\":32)"), "broken at 'input'");
  model.declared[2].input.hadamard = 32;
  const Status other = model.write(folder / "other");
  ASSERT_FALSE(other);
  expect_has(other.error().message(), "another basis than was declared");
}

TEST_F(Safetensors, MutatedFilesNeverCrash) {
  std::mt19937 random(20260727);
  Model model;
  model.add("w", "int4.g32.asym", {2, 64}, random);
  model.add("norm", "f32", {4}, random);
  ASSERT_TRUE(model.write(folder / "out"));
  const fs::path paths[] = {folder / "out/model.safetensors", folder / "plain.safetensors"};
  fs::copy_file(golden / "single/model.safetensors", paths[1]);
  const std::string good[] = {read_bytes(paths[0]), read_bytes(paths[1])};
  int n_errors = 0;
  for (int i = 0; i < 400; ++i) {
    SCOPED_TRACE(testing::Message() << "mutation " << i);
    const auto which = static_cast<std::size_t>(i % 2);
    std::string bytes = good[which];
    const std::size_t at = random() % bytes.size();
    switch (i / 2 % 4) {
      case 0:
        bytes[at] = static_cast<char>(bytes[at] ^ (1 << random() % 8));
        break;
      case 1:
        bytes.resize(at);
        break;
      case 2:
        bytes[at] = "0123456789-[]{}\",:"[random() % 18];
        break;
      default:
        bytes.erase(at, 1 + random() % 16);
        break;
    }
    write_bytes(paths[which], bytes);
    auto opened = open_checkpoint(which == 0 ? (folder / "out").string() : paths[1].string());
    if (!opened) {
      EXPECT_EQ(opened.error().message().find('\n'), std::string::npos) << opened.error().message();
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
