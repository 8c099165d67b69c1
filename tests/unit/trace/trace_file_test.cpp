// What is written is read back; what is broken is refused with its place.

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <limits>

#include "core/error.h"
#include "hdf5/hdf5.h"
#include "support/small_trace.h"
#include "support/temp_dir.h"
#include "trace/trace.h"

namespace hindsight::test {
namespace {

class RoundTrip : public ::testing::TestWithParam<DType> {};

TEST_P(RoundTrip, GivesBackWhatWasWrittenRoundedToTheStorageType) {
  const TempDir dir;
  const SmallTrace shape{.dtype = GetParam(), .q_start = 45};
  const std::vector<float> values = [&] {
    std::vector<float> all;
    for (int i = 0; i < 90 * 4 * 16; ++i) all.push_back(std::sin(static_cast<float>(i)) * 3);
    return all;
  }();
  TraceWriter writer(dir / "t.h5", info_of(shape), {shape.dtype, shape.q_start, 1});
  for (const int64_t layer : shape.layers) {
    // In pieces, as a trace larger than memory would be.
    for (int64_t first = 0; first < 90; first += 40)
      writer.write_kv(layer, first, std::min<int64_t>(40, 90 - first), values.data() + first * 32,
                      values.data() + first * 32 + 1);
    writer.write_q(layer, 45, 45, values.data());
  }
  writer.write_tokens(std::vector<int32_t>(90, 7));
  EXPECT_FALSE(std::filesystem::exists(dir / "t.h5")) << "the file appears when it is whole";
  writer.finish();

  const TraceReader reader(dir / "t.h5");
  EXPECT_EQ(reader.info().layers, shape.layers);
  EXPECT_EQ(reader.info().model, "random");
  EXPECT_EQ(reader.dtype(2), GetParam());
  EXPECT_EQ(reader.tokens(), std::vector<int32_t>(90, 7));
  const LayerTensors layer = reader.read_layer(3);
  EXPECT_EQ(layer.q_start, 45);
  std::vector<float> k(90 * 32), v(90 * 32), q(45 * 64);
  to_float(layer.dtype, layer.k, k);
  to_float(layer.dtype, layer.v, v);
  to_float(layer.dtype, layer.q, q);
  for (size_t i = 0; i < k.size(); ++i) ASSERT_EQ(k[i], round_to(GetParam(), values[i]));
  for (size_t i = 0; i < v.size(); ++i) ASSERT_EQ(v[i], round_to(GetParam(), values[i + 1]));
  for (size_t i = 0; i < q.size(); ++i) ASSERT_EQ(q[i], round_to(GetParam(), values[i]));
}

INSTANTIATE_TEST_SUITE_P(Types, RoundTrip, ::testing::Values(DType::float16, DType::bfloat16, DType::float32),
                         [](const auto& dtype) { return std::string(name_of(dtype.param)); });

TEST(TraceWriter, LeavesNothingBehindWhenItIsNotFinished) {
  const TempDir dir;
  { const TraceWriter writer(dir / "t.h5", info_of({}), {DType::float32, 50, 0}); }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

TEST(TraceReader, ReadsVariableLengthStringsAndContiguousDatasets) {
  const TempDir dir;
  write_small_trace(dir / "t.h5", {.deflate = 0});
  {
    const h5::Id file = h5::open_file_to_change(dir / "t.h5");
    ASSERT_GE(H5Adelete(file, "model"), 0);
    h5::Id type(H5Tcopy(H5T_C_S1), "type");
    H5Tset_size(type, H5T_VARIABLE);
    const h5::Id space(H5Screate(H5S_SCALAR), "space");
    const h5::Id attribute(H5Acreate2(file, "model", type, space, H5P_DEFAULT, H5P_DEFAULT), "attribute");
    const char* text = "a model with a name of variable length";
    ASSERT_GE(H5Awrite(attribute, type, &text), 0);
  }
  EXPECT_EQ(TraceReader(dir / "t.h5").info().model, "a model with a name of variable length");
}

TEST(TraceReader, LayerThatTheFileLacks) {
  const TempDir dir;
  write_small_trace(dir / "t.h5");
  const TraceReader reader(dir / "t.h5");
  try {
    reader.read_layer(1);
    FAIL();
  } catch (const TraceError& error) {
    EXPECT_NE(std::string(error.what()).find("/layers/1"), std::string::npos) << error.what();
  }
}

class NotFinite : public ::testing::TestWithParam<DType> {};

TEST_P(NotFinite, IsFoundWhereverItIs) {
  const TempDir dir;
  const std::filesystem::path file = dir / "t.h5";
  // Bits of NaN and of infinity, in the type and as wide as it is.
  const std::vector<uint32_t> bad = GetParam() == DType::float32
                                        ? std::vector<uint32_t>{0x7f800001, 0xff800000}
                                    : GetParam() == DType::float16 ? std::vector<uint32_t>{0x7c01, 0xfc00}
                                                                   : std::vector<uint32_t>{0x7f81, 0xff80};
  for (const int64_t token : {0, 63, 128, 150, 199})  // of 200, 32 values each: 4096 are looked at at a time
    for (const uint32_t bits : bad) {
      write_small_trace(file, {.n_tokens = 200, .dtype = GetParam()});
      {
        const h5::Id hdf5 = h5::open_file_to_change(file);
        const h5::Id dataset = h5::open_dataset(hdf5, "layers/0/v");
        const h5::Id half = h5::half_type();
        std::vector<uint32_t> wide(32);
        std::vector<uint16_t> narrow(32);
        wide[19] = bits;
        narrow[19] = static_cast<uint16_t>(bits);
        if (GetParam() == DType::float32)
          h5::write_rows(dataset, token, 1, H5T_NATIVE_FLOAT, wide.data());
        else
          h5::write_rows(dataset, token, 1,
                         GetParam() == DType::float16 ? static_cast<hid_t>(half) : H5T_NATIVE_UINT16,
                         narrow.data());
      }
      const TraceReader reader(file);
      try {
        reader.read_layer(0);
        FAIL() << "token " << token << " was accepted";
      } catch (const TraceError& error) {
        const std::string place = "/layers/0/v: is NaN or infinite at [" + std::to_string(token) + ", 1, 3]";
        EXPECT_NE(std::string(error.what()).find(place), std::string::npos) << error.what();
      }
    }
}

INSTANTIATE_TEST_SUITE_P(Types, NotFinite, ::testing::Values(DType::float16, DType::bfloat16, DType::float32),
                         [](const auto& dtype) { return std::string(name_of(dtype.param)); });

TEST(FileDigest, IsSha256) {
  const TempDir dir;
  std::ofstream(dir / "abc") << "abc";
  EXPECT_EQ(file_digest(dir / "abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

/// One way to break a good trace, and what the refusal must name.
struct Broken {
  std::string name, place;
  std::function<void(const std::filesystem::path&)> break_it;
};

/// Changes the file through HDF5.
std::function<void(const std::filesystem::path&)> edit(std::function<void(const h5::Id&)> action) {
  return [action](const std::filesystem::path& file) { action(h5::open_file_to_change(file)); };
}

void replace_dataset(const h5::Id& file, const std::string& path, hid_t type, std::vector<int64_t> shape) {
  const bool is_q = path.back() == 'q';
  ASSERT_GE(H5Ldelete(file, path.c_str(), H5P_DEFAULT), 0);
  const h5::Id dataset = h5::create_dataset(file, path, type, shape);
  if (is_q) h5::write_integer(dataset, "q_start", 50);
}

void poison(const h5::Id& file, const std::string& path, float value) {
  const h5::Id dataset = h5::open_dataset(file, path);
  std::vector<float> row(2 * 16, 0.0f);
  row[17] = value;
  h5::write_rows(dataset, 33, 1, H5T_NATIVE_FLOAT, row.data());
}

void truncate(const std::filesystem::path& file, double share) {
  std::filesystem::resize_file(
      file, static_cast<uintmax_t>(static_cast<double>(std::filesystem::file_size(file)) * share));
}

/// How GoogleTest shows a case.
void PrintTo(const Broken& broken, std::ostream* out) { *out << broken.name; }

std::vector<Broken> broken_traces() {
  const float nan = std::numeric_limits<float>::quiet_NaN(),
              infinity = std::numeric_limits<float>::infinity();
  std::vector<Broken> all{
      {"Missing", "no such file", [](const auto& file) { std::filesystem::remove(file); }},
      {"Folder", "not a regular file",
       [](const auto& file) {
         std::filesystem::remove(file);
         std::filesystem::create_directory(file);
       }},
      {"Empty", "not a whole HDF5 file", [](const auto& file) { truncate(file, 0); }},
      {"NotHdf5", "not a whole HDF5 file",
       [](const auto& file) { std::ofstream(file) << "PK\3\4 something else"; }},
      {"TruncatedHalf", "not a whole HDF5 file", [](const auto& file) { truncate(file, 0.5); }},
      {"TruncatedTail", "not a whole HDF5 file", [](const auto& file) { truncate(file, 0.99); }},
      {"OtherFormat", "attribute format",
       edit([](auto& f) { h5::write_string(f, "format", "hindsight-result"); })},
      {"NoFormat", "attribute format", edit([](auto& f) { H5Adelete(f, "format"); })},
      {"LaterVersion", "attribute format_version",
       edit([](auto& f) { h5::write_integer(f, "format_version", 2); })},
      {"VersionAsText", "attribute format_version",
       edit([](auto& f) { h5::write_string(f, "format_version", "1"); })},
      {"HeadsAsReal", "attribute n_q_heads", edit([](auto& f) { h5::write_real(f, "n_q_heads", 4.0); })},
      {"ScaleAsInteger", "attribute softmax_scale",
       edit([](auto& f) { h5::write_integer(f, "softmax_scale", 1); })},
      {"ScaleNaN", "attribute softmax_scale",
       edit([=](auto& f) { h5::write_real(f, "softmax_scale", nan); })},
      {"ScaleNegative", "attribute softmax_scale",
       edit([](auto& f) { h5::write_real(f, "softmax_scale", -0.125); })},
      {"UnknownSource", "attribute source", edit([](auto& f) { h5::write_string(f, "source", "dreamt"); })},
      {"UnknownRope", "attribute rope", edit([](auto& f) { h5::write_string(f, "rope", "maybe"); })},
      {"ModelAsNumber", "attribute model", edit([](auto& f) { h5::write_integer(f, "model", 3); })},
      {"HeadsNotDivisible", "attribute n_q_heads",
       edit([](auto& f) { h5::write_integer(f, "n_q_heads", 3); })},
      {"NoHeads", "attribute n_kv_heads", edit([](auto& f) { h5::write_integer(f, "n_kv_heads", 0); })},
      {"NegativeTokens", "attribute n_tokens", edit([](auto& f) { h5::write_integer(f, "n_tokens", -90); })},
      {"PromptIsAll", "attribute prompt_tokens",
       edit([](auto& f) { h5::write_integer(f, "prompt_tokens", 90); })},
      {"NoPrompt", "attribute prompt_tokens",
       edit([](auto& f) { h5::write_integer(f, "prompt_tokens", 0); })},
      {"AbsurdTokens", "attribute n_tokens",
       edit([](auto& f) { h5::write_integer(f, "n_tokens", std::numeric_limits<int64_t>::max()); })},
      {"SizesOverflow", "n_tokens", edit([](auto& f) {
         h5::write_integer(f, "n_tokens", 2147483647);
         h5::write_integer(f, "n_q_heads", 65536);
         h5::write_integer(f, "head_dim", 65536);
       })},
      {"MoreTokensThanRows", "/layers/0/k", edit([](auto& f) { h5::write_integer(f, "n_tokens", 91); })},
      {"NoLayersGroup", "/layers", edit([](auto& f) { H5Ldelete(f, "layers", H5P_DEFAULT); })},
      {"LayersIsADataset", "/layers", edit([](auto& f) {
         H5Ldelete(f, "layers", H5P_DEFAULT);
         h5::create_dataset(f, "layers", H5T_IEEE_F32LE, {3});
       })},
      {"NoLayerAtAll", "/layers", edit([](auto& f) {
         for (const char* layer : {"layers/0", "layers/2", "layers/3"}) H5Ldelete(f, layer, H5P_DEFAULT);
       })},
      {"LayerNameNoNumber", "/layers/two", edit([](auto& f) { h5::create_group(f, "layers/two"); })},
      {"LayerBeyondModel", "/layers/5", edit([](auto& f) { h5::create_group(f, "layers/5"); })},
      {"LayerWithLeadingZero", "/layers/04", edit([](auto& f) { h5::create_group(f, "layers/04"); })},
      {"NoKeys", "/layers/2/k", edit([](auto& f) { H5Ldelete(f, "layers/2/k", H5P_DEFAULT); })},
      {"NoQueries", "/layers/3/q", edit([](auto& f) { H5Ldelete(f, "layers/3/q", H5P_DEFAULT); })},
      {"ValuesAreAGroup", "/layers/2/v", edit([](auto& f) {
         H5Ldelete(f, "layers/2/v", H5P_DEFAULT);
         h5::create_group(f, "layers/2/v");
       })},
      {"KeysTransposed", "/layers/2/k", edit([](auto& f) {
         replace_dataset(f, "layers/2/k", H5T_IEEE_F32LE, {2, 90, 16});
       })},
      {"ValuesOfRankTwo", "/layers/2/v", edit([](auto& f) {
         replace_dataset(f, "layers/2/v", H5T_IEEE_F32LE, {90, 32});
       })},
      {"QueriesTooFew", "/layers/3/q", edit([](auto& f) {
         replace_dataset(f, "layers/3/q", H5T_IEEE_F32LE, {39, 4, 16});
       })},
      {"KeysInDouble", "/layers/0/k", edit([](auto& f) {
         replace_dataset(f, "layers/0/k", H5T_IEEE_F64LE, {90, 2, 16});
       })},
      {"KeysInInt32", "/layers/0/k", edit([](auto& f) {
         replace_dataset(f, "layers/0/k", H5T_STD_I32LE, {90, 2, 16});
       })},
      {"UnmarkedUint16", "/layers/0/k", edit([](auto& f) {
         replace_dataset(f, "layers/0/k", H5T_STD_U16LE, {90, 2, 16});
       })},
      {"NoQStart", "/layers/0/q",
       edit([](auto& f) { H5Adelete_by_name(f, "layers/0/q", "q_start", H5P_DEFAULT); })},
      {"QStartAfterPrompt", "/layers/0/q",
       edit([](auto& f) { h5::write_integer(h5::open_dataset(f, "layers/0/q"), "q_start", 51); })},
      {"QStartNegative", "/layers/0/q",
       edit([](auto& f) { h5::write_integer(h5::open_dataset(f, "layers/0/q"), "q_start", -1); })},
      {"SoftLink", "/layers/2/v", edit([](auto& f) {
         H5Ldelete(f, "layers/2/v", H5P_DEFAULT);
         H5Lcreate_soft("/layers/2/k", f, "layers/2/v", H5P_DEFAULT, H5P_DEFAULT);
       })},
      {"ExternalLink", "/layers/2/v", edit([](auto& f) {
         H5Ldelete(f, "layers/2/v", H5P_DEFAULT);
         H5Lcreate_external("/etc/passwd", "/v", f, "layers/2/v", H5P_DEFAULT, H5P_DEFAULT);
       })},
      {"ExternalLayer", "/layers/4", edit([](auto& f) {
         H5Lcreate_external("other.h5", "/layers/4", f, "layers/4", H5P_DEFAULT, H5P_DEFAULT);
       })},
      {"ExternalStorage", "/layers/2/k", edit([](auto& f) {
         H5Ldelete(f, "layers/2/k", H5P_DEFAULT);
         const std::vector<hsize_t> shape{90, 2, 16};
         const h5::Id space(H5Screate_simple(3, shape.data(), nullptr), "space");
         const h5::Id list(H5Pcreate(H5P_DATASET_CREATE), "list");
         H5Pset_external(list, "/etc/passwd", 0, H5F_UNLIMITED);
         const h5::Id dataset(
             H5Dcreate2(f, "layers/2/k", H5T_IEEE_F32LE, space, H5P_DEFAULT, list, H5P_DEFAULT), "dataset");
       })},
      {"KeyNaN", "is NaN or infinite at [33, 1, 1]", edit([=](auto& f) { poison(f, "layers/0/k", nan); })},
      {"ValueInfinite", "/layers/2/v", edit([=](auto& f) { poison(f, "layers/2/v", -infinity); })},
      {"TokensOfAnotherLength", "/tokens",
       edit([](auto& f) { h5::create_dataset(f, "tokens", H5T_STD_I32LE, {89}); })},
      {"TokensAsReal", "/tokens",
       edit([](auto& f) { h5::create_dataset(f, "tokens", H5T_IEEE_F32LE, {90}); })},
  };
  return all;
}

class BrokenTrace : public ::testing::TestWithParam<Broken> {};

TEST_P(BrokenTrace, IsRefusedInOneLineThatNamesFileAndPlace) {
  const TempDir dir;
  const std::filesystem::path file = dir / "broken.h5";
  write_small_trace(file, {.dtype = DType::float32});
  ASSERT_NO_THROW({
    const TraceReader good(file);
    for (const int64_t layer : good.info().layers) good.read_layer(layer);
  });
  GetParam().break_it(file);
  try {
    const TraceReader reader(file);
    for (const int64_t layer : reader.info().layers) reader.read_layer(layer);
    FAIL() << "was accepted";
  } catch (const TraceError& error) {
    const std::string message = error.what();
    EXPECT_EQ(error.exit_status(), ExitStatus::trace);
    EXPECT_NE(message.find(file.string()), std::string::npos) << message;
    EXPECT_NE(message.find(GetParam().place), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  }
}

INSTANTIATE_TEST_SUITE_P(Table, BrokenTrace, ::testing::ValuesIn(broken_traces()),
                         [](const auto& broken) { return broken.param.name; });

}  // namespace
}  // namespace hindsight::test
