// SPDX-License-Identifier: Apache-2.0
// The compressed-tensors convention against what the package of that name wrote and decompressed
// (tests/golden/make_compressed_tensors.py), and against our own reader.
#include "lowbit/io/compressed_tensors.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>

#include "lowbit/base/test_files.h"
#include "lowbit/io/checkpoint.h"
#include "lowbit/io/checkpoint_writer.h"
#include "lowbit/io/safetensors_file.h"

namespace lowbit {
namespace {

namespace fs = std::filesystem;
using compressed_tensors::Format;
const fs::path golden = LOWBIT_SOURCE_DIR "/tests/golden/compressed_tensors";
constexpr std::int64_t rows = 10, cols = 64;  // of every matrix there

struct Module {
  const char *name, *scheme;
  Format format;
};
// In the order of expected.f32.
constexpr Module modules[] = {
    {"int4_group", "int4.g16", Format::pack_quantized},
    {"int4_asym", "int4.g32.asym.bf16", Format::pack_quantized},
    {"int8_asym", "int8.channel.asym", Format::pack_quantized},
    {"int2_group", "int2.g16.asym.f32", Format::pack_quantized},
    {"int8_packed", "int8.channel", Format::pack_quantized},
    {"int8_naive", "int8.channel", Format::int_quantized},
    {"e4m3_tensor", "e4m3.tensor", Format::float_quantized},
    {"e4m3_channel", "e4m3.channel.bf16", Format::float_quantized},
    {"e4m3_block", "e4m3.block16.f32", Format::float_quantized},
};

std::vector<float> expected_numbers(std::size_t module) {
  const std::string bytes = read_bytes(golden / "expected.f32");
  std::vector<float> numbers(rows * cols);
  std::memcpy(numbers.data(), bytes.data() + module * numbers.size() * sizeof(float),
              numbers.size() * sizeof(float));
  return numbers;
}

QuantizedTensor golden_tensor(const Checkpoint& checkpoint, const std::string& module) {
  const std::int64_t index = checkpoint.index_of(module + ".weight");
  EXPECT_GE(index, 0) << module;
  auto tensor = checkpoint.load(static_cast<std::size_t>(index), nullptr);
  EXPECT_TRUE(tensor) << tensor.error().message();
  return std::move(*tensor);
}

class CompressedTensors : public InFolder<::testing::Test> {
 protected:
  void SetUp() override {
    auto opened = open_checkpoint(golden.string());
    ASSERT_TRUE(opened) << opened.error().message();
    checkpoint = std::move(*opened);
  }
  /// The message of opening the golden folder with `from` replaced in its config.
  std::string message_with(std::string_view from, std::string_view to) const {
    std::string config = read_bytes(golden / "config.json");
    const std::size_t at = config.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    config.replace(at, from.size(), to);
    const fs::path copy = folder / "copy";
    fs::create_directories(copy);
    std::ofstream(copy / "config.json") << config;
    fs::copy_file(golden / "model.safetensors", copy / "model.safetensors",
                  fs::copy_options::overwrite_existing);
    auto opened = open_checkpoint(copy.string());
    return opened ? "no error" : opened.error().message();
  }
  std::unique_ptr<Checkpoint> checkpoint;
};

TEST_F(CompressedTensors, DecodesToWhatThePackageDecompresses) {
  ASSERT_EQ(checkpoint->tensors().size(), std::size(modules) + 1);  // and norm.weight
  for (std::size_t i = 0; i < std::size(modules); ++i) {
    SCOPED_TRACE(modules[i].name);
    const QuantizedTensor tensor = golden_tensor(*checkpoint, modules[i].name);
    EXPECT_EQ(tensor.scheme, *parse_scheme(modules[i].scheme)) << to_string(tensor.scheme);
    EXPECT_EQ(decode(tensor), expected_numbers(i));
  }
}

TEST_F(CompressedTensors, HasTheBytesOfThePackage) {
  const auto file = SafetensorsFile::open((golden / "model.safetensors").string());
  ASSERT_TRUE(file);
  for (const Module& module : modules) {
    SCOPED_TRACE(module.name);
    const QuantizedTensor tensor = golden_tensor(*checkpoint, module.name);
    const auto planes = compressed_tensors::planes_of(tensor.scheme, module.format, rows, cols);
    for (std::size_t i = 0; i < planes.size(); ++i) {
      const SafetensorsEntry* entry = file->find(module.name + planes[i].suffix);
      ASSERT_NE(entry, nullptr) << planes[i].suffix;
      EXPECT_EQ(entry->dtype, planes[i].dtype);
      EXPECT_EQ(entry->shape, planes[i].shape);
      const auto bytes = compressed_tensors::bytes_of(tensor, module.format, i);
      EXPECT_TRUE(std::ranges::equal(bytes, entry->bytes)) << planes[i].suffix;
    }
  }
}

TEST_F(CompressedTensors, WritesAFolderThatItReads) {
  const std::vector<std::string> written{"int4_group", "int8_packed", "int8_asym", "e4m3_tensor"};
  const std::string place = (folder / "model").string();
  std::vector<TensorDeclaration> declarations;
  for (const std::string& name : written) {
    declarations.push_back(
        {name + ".weight", {rows, cols}, golden_tensor(*checkpoint, name).scheme});
  }
  const Scheme f32 = *parse_scheme("f32");
  declarations.push_back({"model.embed_tokens.weight", {2, cols}, f32});
  const auto create = [&] {
    return create_compressed_tensors_folder(place + "/", R"({"torch_dtype": "bfloat16", "a": 1})",
                                            {{"tokenizer.json", "{}"}}, declarations, std::nullopt);
  };
  const std::vector<float> embedding(2 * cols, 0.25f);
  for (int round = 0; round < 2; ++round) {  // the second replaces the first
    auto writer = create();
    ASSERT_TRUE(writer) << writer.error().message();
    EXPECT_EQ(fs::exists(place), round == 1);
    for (const std::string& name : written) {
      ASSERT_TRUE((*writer)->add(golden_tensor(*checkpoint, name)));
    }
    EXPECT_FALSE((*writer)->commit());
    ASSERT_TRUE((*writer)->add(encode_plain(embedding, f32, 2, cols)));
    auto committed = (*writer)->commit();
    ASSERT_TRUE(committed) << committed.error().message();
    std::int64_t n_bytes = 0;
    for (const auto& file : fs::directory_iterator(place)) {
      n_bytes += static_cast<std::int64_t>(file.file_size());
    }
    EXPECT_EQ((*writer)->file_bytes(), n_bytes);
  }
  auto again = open_checkpoint(place);
  ASSERT_TRUE(again) << again.error().message();
  for (const std::string& name : written) {
    EXPECT_EQ(decode(golden_tensor(**again, name)), decode(golden_tensor(*checkpoint, name)));
  }
  EXPECT_EQ(decode(golden_tensor(**again, "model.embed_tokens")), embedding);

  const Json config = *parse_json_object(read_bytes(fs::path(place) / "config.json"));
  EXPECT_EQ(config["torch_dtype"], "float16");  // of the scales
  EXPECT_EQ(config["a"], 1);
  const Json& quantization = config["quantization_config"];
  EXPECT_EQ(quantization["format"], "mixed-precision");
  EXPECT_EQ(quantization["ignore"], (Json{"model.embed_tokens", "lm_head"}));
  EXPECT_EQ(quantization["config_groups"].size(), 4u);
  EXPECT_EQ(quantization["config_groups"]["group_0"]["targets"], Json{"int4_group"});

  const auto error_of = [&](const std::optional<Scheme>& activations) {
    auto writer = create_compressed_tensors_folder(place, "", {}, declarations, activations);
    return writer ? "no error" : writer.error().message();
  };
  EXPECT_NE(error_of(*parse_scheme("int8.token")).find("beside 8-bit activations"),
            std::string::npos);
  const auto other = create_lowbit_folder(place, "", {}, {{"w", {1, 2}, *parse_scheme("f32")}});
  EXPECT_TRUE(other) << "lowbit may replace its own: " << other.error().message();
  fs::remove(fs::path(place) / "config.json");
  EXPECT_NE(error_of(std::nullopt).find("did not write"), std::string::npos);
}

TEST_F(CompressedTensors, WritesQuantizedActivations) {
  const QuantizedTensor tensor = golden_tensor(*checkpoint, "int8_naive");
  auto writer = create_compressed_tensors_folder((folder / "model").string(), "", {},
                                                 {{"layer.weight", {rows, cols}, tensor.scheme}},
                                                 *parse_scheme("int8.token"));
  ASSERT_TRUE(writer) << writer.error().message();
  ASSERT_TRUE((*writer)->add(tensor));
  ASSERT_TRUE((*writer)->commit());
  auto again = open_checkpoint((folder / "model").string());
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_EQ(decode(golden_tensor(**again, "layer")), decode(tensor));
  const Json config = *parse_json_object(read_bytes(folder / "model" / "config.json"));
  const Json& group = config["quantization_config"]["config_groups"]["group_0"];
  EXPECT_EQ(config["quantization_config"]["format"], "int-quantized");
  EXPECT_EQ(group["targets"], Json{"Linear"});
  EXPECT_EQ(group["input_activations"]["strategy"], "token");
  EXPECT_EQ(group["input_activations"]["dynamic"], true);
}

TEST_F(CompressedTensors, SaysWhatItCannotHold) {
  const auto message = [](const char* name, const char* scheme, std::int64_t n_cols) {
    const Status status = fits_compressed_tensors(name, *parse_scheme(scheme), {rows, n_cols});
    return status ? "no error" : status.error().message();
  };
  EXPECT_EQ(message("a.weight", "int4.g32.asym", 64), "no error");
  EXPECT_EQ(message("a.weight", "e4m3.block128.f32", 128), "no error");
  EXPECT_EQ(message("a.weight", "f16", 7), "no error");
  EXPECT_NE(message("a.weight", "int4.g32", 80).find("not whole groups"), std::string::npos);
  for (const char* scheme : {"q4_k", "nf4.g64", "int3.g64", "int4.g32.offset", "int4.tensor",
                             "e4m3.g128", "mxfp4", "int4.g32.zero"}) {
    EXPECT_NE(message("a.weight", scheme, 256).find("has no "), std::string::npos) << scheme;
  }
  EXPECT_NE(message("lm_head.weight", "int8.channel", 64).find("--rule 'lm_head.weight=f16'"),
            std::string::npos);
}

TEST_F(CompressedTensors, RefusesWhatDoesNotFitItsDescription) {
  EXPECT_NE(message_with("\"group_size\": 16", "\"group_size\": 32").find("needs"),
            std::string::npos);
  EXPECT_NE(message_with("\"num_bits\": 4", "\"num_bits\": 5").find("int4_group"),
            std::string::npos);
  EXPECT_NE(message_with("\"num_bits\": 4", "\"num_bits\": 8").find("damaged"), std::string::npos);
  EXPECT_NE(message_with("\"config_groups\"", "\"groups\"").find("broken at 'config_groups'"),
            std::string::npos);
  EXPECT_NE(message_with("\"targets\": [\n     \"int4_group\"", "\"targets\": [\n     \"re:.*\"")
                .find("no group"),
            std::string::npos);
}

}  // namespace
}  // namespace lowbit
