// Dependencies point one way. What each folder may include is written down here, and every #include of the
// tree is held against it.

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

namespace hindsight::test {
namespace {

namespace fs = std::filesystem;

struct Include {
  std::string file, name;
};

/// Folders of the project that a folder may include from, beside itself; and libraries that it must not see.
struct Rule {
  std::set<std::string> folders;
  std::set<std::string> forbidden;  ///< beginnings of include names
};

const std::set<std::string> cuda{"cuda", "kernels/", "nvtx", "cub/", "thrust/"};
const std::set<std::string> hdf5{"hdf5", "H5"};
const std::set<std::string> yaml{"yaml-cpp"};

std::set<std::string> all_of(std::vector<std::set<std::string>> sets) {
  std::set<std::string> all;
  for (const auto& set : sets) all.insert(set.begin(), set.end());
  return all;
}

const std::map<std::string, Rule> rules{
    {"lib/core", {{}, all_of({cuda, hdf5, yaml, {"Eigen"}})}},
    {"lib/hdf5", {{"core"}, all_of({cuda, yaml, {"Eigen"}})}},
    {"lib/config", {{"core"}, all_of({cuda, hdf5, {"Eigen"}})}},
    {"lib/tensors", {{"core"}, all_of({cuda, hdf5, yaml, {"Eigen"}})}},
    {"lib/trace", {{"core", "hdf5", "tensors"}, all_of({cuda, yaml, {"Eigen"}})}},
    {"lib/backend", {{"core", "trace"}, all_of({cuda, hdf5, yaml})}},
    {"lib/methods", {{"core", "config", "backend"}, all_of({cuda, hdf5, yaml, {"Eigen"}})}},
    {"lib/model", {{"core", "config", "tensors", "trace", "backend", "methods"}, all_of({cuda, hdf5, yaml})}},
    {"lib/evaluation",
     {{"core", "config", "trace", "backend", "methods", "model", "results"},
      all_of({cuda, hdf5, yaml, {"Eigen"}})}},
    {"lib/metrics", {{"core"}, all_of({cuda, hdf5, yaml, {"Eigen"}})}},
    {"lib/results", {{"core", "config", "hdf5"}, all_of({cuda, yaml, {"Eigen"}})}},
    {"lib/replay",
     {{"core", "config", "trace", "backend", "methods", "metrics", "results"},
      all_of({cuda, hdf5, yaml, {"Eigen"}})}},
    {"kernels", {{}, {"hdf5", "H5", "yaml-cpp", "Eigen", "fmt/", "spdlog/"}}},
};

const std::set<std::string> project_folders{"core",    "hdf5",  "tensors", "config",  "trace",  "backend",
                                            "methods", "model", "metrics", "results", "replay", "evaluation"};

std::vector<Include> includes_of(const fs::path& folder) {
  static const std::regex pattern(R"(^\s*#\s*include\s*[<"]([^>"]+)[>"])");
  std::vector<Include> found;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    const std::string extension = entry.path().extension().string();
    if (extension != ".h" && extension != ".cpp" && extension != ".cu" && extension != ".cuh") continue;
    std::ifstream stream(entry.path());
    for (std::string line; std::getline(stream, line);)
      if (std::smatch match; std::regex_search(line, match, pattern))
        found.push_back({entry.path().string(), match[1]});
  }
  return found;
}

/// What is wrong with an include, or "".
std::string verdict(const std::string& folder, const Rule& rule, const Include& include) {
  const std::string own = folder.substr(folder.rfind('/') + 1);
  // The adapter to CUDA is the one place that sees it.
  const bool adapter = folder == "lib/backend" && include.file.find("/backend/cuda/") != std::string::npos;
  for (const std::string& beginning : rule.forbidden) {
    const bool project_header = include.name.rfind("hdf5/", 0) == 0 && rule.folders.contains("hdf5");
    if (!adapter && !project_header && include.name.rfind(beginning, 0) == 0)
      return include.file + " must not see " + include.name;
  }
  const size_t slash = include.name.find('/');
  const std::string first = slash == std::string::npos ? "" : include.name.substr(0, slash);
  if (first == "lib" || first == "apps" || first == "tests")
    return include.file + " includes by a path from the root";
  if (!project_folders.contains(first) || first == own || rule.folders.contains(first)) return "";
  return include.file + " includes " + include.name + ", against the direction of dependencies";
}

TEST(Includes, PointOneWay) {
  for (const auto& [folder, rule] : rules) {
    const std::vector<Include> includes = includes_of(fs::path(HINDSIGHT_SOURCE_DIR) / folder);
    EXPECT_FALSE(includes.empty()) << folder;
    for (const Include& include : includes) EXPECT_EQ(verdict(folder, rule, include), "");
  }
}

TEST(Includes, EveryFolderOfTheLibraryHasARule) {
  for (const auto& entry : fs::directory_iterator(fs::path(HINDSIGHT_SOURCE_DIR) / "lib")) {
    const std::string folder = "lib/" + entry.path().filename().string();
    EXPECT_TRUE(!entry.is_directory() || rules.contains(folder)) << folder;
  }
}

TEST(Includes, ABrokenRuleIsSeen) {
  const auto broken = [](const std::string& folder, const std::string& file, const std::string& name) {
    return !verdict(folder, rules.at(folder), {file, name}).empty();
  };
  EXPECT_TRUE(broken("lib/core", "lib/core/x.h", "trace/trace.h"));
  EXPECT_TRUE(broken("lib/methods", "lib/methods/x.cpp", "hdf5.h"));
  EXPECT_TRUE(broken("lib/methods", "lib/methods/x.cpp", "cuda_runtime.h"));
  EXPECT_TRUE(broken("lib/methods", "lib/methods/x.cpp", "replay/sweep.h"));
  EXPECT_TRUE(broken("lib/metrics", "lib/metrics/x.cpp", "backend/backend.h"));
  EXPECT_TRUE(broken("lib/backend", "lib/backend/cpu/x.cpp", "kernels/kernels.h"));
  EXPECT_TRUE(broken("lib/results", "lib/results/x.cpp", "methods/catalog.h"));
  EXPECT_TRUE(broken("lib/tensors", "lib/tensors/x.cpp", "trace/trace.h"));
  EXPECT_TRUE(broken("lib/model", "lib/model/x.cpp", "replay/sweep.h"));
  EXPECT_TRUE(broken("lib/model", "lib/model/x.cpp", "evaluation/evaluation.h"));
  EXPECT_TRUE(broken("lib/evaluation", "lib/evaluation/x.cpp", "replay/sweep.h"));
  EXPECT_TRUE(broken("lib/methods", "lib/methods/x.cpp", "model/decoder.h"));
  EXPECT_TRUE(broken("kernels", "kernels/x.cu", "core/view.h"));
  EXPECT_TRUE(broken("kernels", "kernels/x.cu", "fmt/format.h"));
  EXPECT_FALSE(broken("lib/backend", "lib/backend/cuda/x.cpp", "kernels/kernels.h"));
  EXPECT_FALSE(broken("lib/replay", "lib/replay/x.cpp", "methods/catalog.h"));
}

}  // namespace
}  // namespace hindsight::test
