#include "results/merge.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>

#include "core/error.h"
#include "results/protocol.h"
#include "results/result_store.h"

namespace hindsight {
namespace {

using Readers = std::vector<std::unique_ptr<ResultReader>>;

/// What the files say, each word once.
std::string joined(const Readers& files, std::string Provenance::*member, const char* between) {
  std::vector<std::string> said;
  for (const auto& file : files)
    if (const std::string& word = file->provenance().*member;
        std::find(said.begin(), said.end(), word) == said.end())
      said.push_back(word);
  return fmt::format("{}", fmt::join(said, between));
}

Provenance provenance_of(const Readers& files) {
  Provenance all;
  all.resolved_yaml = joined(files, &Provenance::resolved_yaml, "---\n");
  for (const auto member : {&Provenance::program_version, &Provenance::git_revision, &Provenance::host,
                            &Provenance::device, &Provenance::driver, &Provenance::date})
    all.*member = joined(files, member, ", ");
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

int64_t merge_results(const std::vector<std::filesystem::path>& files, const std::filesystem::path& output) {
  check_that_output_is_none_of(files, output);
  Readers readers;
  for (const std::filesystem::path& file : files) readers.push_back(std::make_unique<ResultReader>(file));

  // All is checked before anything is written.
  std::vector<std::string> order;
  std::vector<const ResultReader*> holders;
  std::optional<Protocol> protocol;
  for (const auto& reader : readers)
    for (const std::string& id : reader->point_ids()) {
      const PointResult point = reader->read(id, false);
      if (!protocol) protocol = point.protocol;
      if (!agree(point.protocol, *protocol))
        throw ConfigError(fmt::format(
            "{}: point {}: holds {}; {} holds {}; files that were measured in the same way would be right",
            reader->file().string(), id, described(point.protocol), readers.front()->file().string(),
            described(*protocol)));
      if (std::find(order.begin(), order.end(), id) != order.end()) continue;
      order.push_back(id);
      holders.push_back(reader.get());
    }

  ResultWriter writer(output, provenance_of(readers), std::nullopt);
  writer.set_order(order);
  for (size_t i = 0; i < order.size(); ++i) writer.add(holders[i]->read(order[i], true));
  return static_cast<int64_t>(order.size());
}

}  // namespace hindsight
