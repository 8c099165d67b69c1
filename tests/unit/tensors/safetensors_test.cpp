#include "tensors/safetensors.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <functional>

#include "core/error.h"
#include "support/safetensors_case.h"
#include "support/temp_dir.h"

namespace hindsight::test {
namespace {

namespace fs = std::filesystem;

std::vector<float> widened(const StoredTensor& tensor) {
  std::vector<float> values(tensor.values.size() / static_cast<size_t>(size_of(*tensor.dtype)));
  to_float(*tensor.dtype, tensor.values, values);
  return values;
}

TEST(Safetensors, ReadsEveryTypeThatIsComputedWith) {
  const TempDir dir;
  const std::vector<float> values{1, -2, 0.5f, 0, 3, -0.25f};
  write_safetensors(dir / "a.safetensors", {{"half", {{2, 3}, values, DType::float16}},
                                            {"brain", {{6}, values, DType::bfloat16}},
                                            {"single", {{1, 2, 3}, values, DType::float32}},
                                            {"nothing", {{0, 5}, {}, DType::float32}}});
  SafetensorsFile opened(dir / "a.safetensors");
  const SafetensorsFile file = std::move(opened);  // tensors stay where they are
  ASSERT_EQ(file.tensors().size(), 4u);
  for (const char* name : {"half", "brain", "single"})
    EXPECT_EQ(widened(file.tensors().at(name)), values) << name;
  EXPECT_EQ(file.tensors().at("half").shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(file.tensors().at("nothing").values.size(), 0u);
}

TEST(Safetensors, ReadsValuesOfAnyAlignment) {
  const TempDir dir;
  std::vector<std::byte> bytes(8);
  const float values[] = {1.5f, -3};
  std::memcpy(bytes.data(), values, sizeof(values));
  // A header of 51 bytes puts the values on an odd address.
  std::string header = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  header.resize(header.size() % 2 == 0 ? header.size() + 1 : header.size(), ' ');
  write_raw_safetensors(dir / "a.safetensors", header, bytes);
  EXPECT_EQ(widened(SafetensorsFile(dir / "a.safetensors").tensors().at("x")),
            (std::vector<float>{1.5f, -3}));
}

TEST(Safetensors, OtherTypesAreListedAndNotComputedWith) {
  const TempDir dir;
  write_raw_safetensors(dir / "a.safetensors", R"({"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}})",
                        std::vector<std::byte>(8));
  const SafetensorsFile file(dir / "a.safetensors");
  EXPECT_EQ(file.tensors().at("ids").type, "I64");
  EXPECT_FALSE(file.tensors().at("ids").dtype.has_value());
}

/// A file that must be refused, and what the refusal says.
struct Hostile {
  std::string name, says;
  std::function<void(const fs::path&)> write;
};
void PrintTo(const Hostile& hostile, std::ostream* out) { *out << hostile.name; }

/// 24 bytes of values behind this header.
std::function<void(const fs::path&)> with_header(const std::string& header) {
  return [header](const fs::path& file) { write_raw_safetensors(file, header, std::vector<std::byte>(24)); };
}

/// A header whose one tensor x has this entry.
std::function<void(const fs::path&)> with_entry(const std::string& entry) {
  return with_header("{\"x\":" + entry + "}");
}

std::function<void(const fs::path&)> with_bytes(const std::string& bytes) {
  return [bytes](const fs::path& file) { std::ofstream(file, std::ios::binary) << bytes; };
}

std::vector<Hostile> hostile_files() {
  return {
      {"Missing", "no such file", [](const fs::path&) {}},
      {"Folder", "not a regular file", [](const fs::path& file) { fs::create_directory(file); }},
      {"Fifo", "not a regular file", [](const fs::path& file) { ASSERT_EQ(mkfifo(file.c_str(), 0600), 0); }},
      {"Empty", "ends too early", with_bytes("")},
      {"SevenBytes", "ends too early", with_bytes("1234567")},
      {"HeaderLargerThanFile", "more than the file has", with_bytes(std::string("\x40\0\0\0\0\0\0\0{}", 10))},
      {"HeaderOfAllBits", "more than the file has", with_bytes(std::string(8, '\xff') + "{}")},
      {"HeaderNotJson", "no JSON object", with_header("{\"x\":")},
      {"HeaderIsAList", "no JSON object", with_header("[1, 2]")},
      {"HeaderNotUtf8", "no JSON object", with_header("{\"\xff\":1}")},
      {"NameTwice", "tensor x: stands twice",
       with_header(R"({"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                   R"("x":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})")},
      {"EntryIsANumber", "tensor x: its header entry lacks", with_entry("3")},
      {"NoType", "tensor x: its header entry lacks", with_entry(R"({"shape":[1],"data_offsets":[0,4]})")},
      {"NoShape", "tensor x: its header entry lacks", with_entry(R"({"dtype":"F32","data_offsets":[0,4]})")},
      {"NoOffsets", "tensor x: its header entry lacks", with_entry(R"({"dtype":"F32","shape":[1]})")},
      {"UnknownType", "tensor x: its type F31 is not known",
       with_entry(R"({"dtype":"F31","shape":[1],"data_offsets":[0,4]})")},
      {"NegativeExtent", "tensor x: its shape is of an absurd size",
       with_entry(R"({"dtype":"F32","shape":[-1],"data_offsets":[0,4]})")},
      {"FractionalExtent", "tensor x: its shape is of an absurd size",
       with_entry(R"({"dtype":"F32","shape":[1.5],"data_offsets":[0,4]})")},
      {"ShapeOverflows", "tensor x: its shape is of an absurd size",
       with_entry(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})")},
      {"ExtentOf64Bits", "tensor x: its shape is of an absurd size",
       with_entry(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,4]})")},
      {"OffsetsBackwards", "tensor x: its data_offsets leave the file",
       with_entry(R"({"dtype":"F32","shape":[1],"data_offsets":[8,4]})")},
      {"OffsetsPastTheEnd", "tensor x: its data_offsets leave the file",
       with_entry(R"({"dtype":"F32","shape":[7],"data_offsets":[0,28]})")},
      {"OneOffset", "tensor x: its data_offsets leave the file",
       with_entry(R"({"dtype":"F32","shape":[1],"data_offsets":[4]})")},
      {"OffsetNegative", "tensor x: its data_offsets are no unsigned",
       with_entry(R"({"dtype":"F32","shape":[1],"data_offsets":[-4,0]})")},
      {"OffsetIsReal", "tensor x: its data_offsets are no unsigned",
       with_entry(R"({"dtype":"F32","shape":[1],"data_offsets":[0,4.0]})")},
      {"OffsetsDoNotFitShape", "tensor x: its data_offsets do not fit its shape",
       with_entry(R"({"dtype":"F32","shape":[3],"data_offsets":[0,8]})")},
      {"Overlap", "tensor y: overlaps tensor x",
       with_header(R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                   R"("y":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})")},
      {"OverlapOfATypeThatIsNotComputedWith", "tensor y: overlaps tensor x",
       with_header(R"({"x":{"dtype":"I64","shape":[1],"data_offsets":[0,8]},)"
                   R"("y":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})")},
      {"InsideOfAnother", "overlaps",
       with_header(R"({"x":{"dtype":"F32","shape":[6],"data_offsets":[0,24]},)"
                   R"("y":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})")},
  };
}

class HostileSafetensors : public ::testing::TestWithParam<Hostile> {};

TEST_P(HostileSafetensors, IsRefusedInOneLineThatNamesFileAndPlace) {
  const TempDir dir;
  const fs::path file = dir / "hostile.safetensors";
  GetParam().write(file);
  try {
    const SafetensorsFile opened(file);
    FAIL() << "was accepted";
  } catch (const InputError& error) {
    const std::string message = error.what();
    EXPECT_EQ(message.rfind(file.string() + ": ", 0), 0u) << message;
    EXPECT_NE(message.find(GetParam().says), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

INSTANTIATE_TEST_SUITE_P(Table, HostileSafetensors, ::testing::ValuesIn(hostile_files()),
                         [](const auto& hostile) { return hostile.param.name; });

}  // namespace
}  // namespace hindsight::test
