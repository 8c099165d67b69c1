#include "results/merge.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <string>

#include "core/error.h"
#include "core/interrupt.h"
#include "results/protocol.h"
#include "results/result_store.h"

namespace hindsight {
namespace {

using Readers = std::vector<std::unique_ptr<ResultReader>>;

/// What the files say, each word once. A file may be merged itself: then it says several.
std::string joined(const Readers& files, std::string Provenance::*member, const std::string& between) {
  std::vector<std::string> said;
  for (const auto& file : files) {
    const std::string& words = file->provenance().*member;
    for (size_t begin = 0; begin <= words.size();) {
      const size_t end = std::min(words.find(between, begin), words.size());
      if (const std::string word = words.substr(begin, end - begin);
          std::find(said.begin(), said.end(), word) == said.end())
        said.push_back(word);
      begin = end + between.size();
    }
  }
  return fmt::format("{}", fmt::join(said, between));
}

Provenance provenance_of(const Readers& files) {
  Provenance all;
  all.resolved_yaml = joined(files, &Provenance::resolved_yaml, "---\n");
  for (const auto member : {&Provenance::program_version, &Provenance::git_revision, &Provenance::host,
                            &Provenance::device, &Provenance::driver, &Provenance::date})
    all.*member = joined(files, member, "; ");
  for (const auto& file : files)
    for (const auto& digest : file->provenance().trace_digests)
      if (std::find(all.trace_digests.begin(), all.trace_digests.end(), digest) == all.trace_digests.end())
        all.trace_digests.push_back(digest);
  return all;
}

/// A file that would be replaced while it is read.
void check_that_output_is_none_of(const std::vector<std::filesystem::path>& files,
                                  const std::filesystem::path& output) {
  for (const std::filesystem::path& file : files) {
    std::error_code missing;
    if (std::filesystem::equivalent(file, output, missing))
      throw EnvironmentError(
          fmt::format("{}: is one of the files to merge; another output would be right", output.string()));
  }
}

}  // namespace

Merged merge_results(const std::vector<std::filesystem::path>& files, const std::filesystem::path& output) {
  check_that_output_is_none_of(files, output);
  Readers readers;
  for (const std::filesystem::path& file : files) readers.push_back(std::make_unique<ResultReader>(file));

  // All is checked before anything is written.
  std::vector<std::string> order;
  std::vector<const ResultReader*> holders;
  const ResultReader* first = nullptr;
  Protocol protocol;
  Merged merged;
  for (const auto& reader : readers)
    for (const std::string& id : reader->point_ids()) {
      const PointResult point = reader->read(id, false);
      if (first == nullptr) {
        first = reader.get();
        protocol = point.protocol;
      }
      if (!agree(point.protocol, protocol))
        throw ConfigError(fmt::format(
            "{}: point {}: holds {}; {} holds {}; files that were measured in the same way would be right",
            reader->file().string(), id, described(point.protocol), first->file().string(),
            described(protocol)));
      if (std::find(order.begin(), order.end(), id) != order.end()) {
        ++merged.repeated;
        continue;
      }
      order.push_back(id);
      holders.push_back(reader.get());
    }
  merged.points = static_cast<int64_t>(order.size());

  ResultWriter writer(output, provenance_of(readers), std::nullopt);
  writer.set_order(order);
  writer.add_all(merged.points, [&](int64_t i) {
    throw_if_interrupted();
    const auto place = static_cast<size_t>(i);
    return holders[place]->read(order[place], true);
  });
  return merged;
}

}  // namespace hindsight
