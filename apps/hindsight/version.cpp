// hindsight version: what this build is and what it sees.

#include <fmt/format.h>
#include <omp.h>

#include "backend/backend.h"
#include "commands.h"
#include "core/version.h"
#include "hdf5/hdf5.h"

namespace hindsight::app {
namespace {

void print_version() {
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  fmt::print("hindsight  {}\n", program_version());
  fmt::print("revision   {}\n", git_revision());
  fmt::print("compiler   {}\n", compiler());
  fmt::print("HDF5       {}.{}.{}\n", major, minor, release);
  if (cuda_built_in())
    fmt::print("backends   cpu, cuda (toolkit {}, architectures {})\n", cuda_toolkit(), cuda_architectures());
  else
    fmt::print("backends   cpu (built without CUDA)\n");
  fmt::print("devices    CPU, {} threads\n", omp_get_max_threads());
  for (const std::string& name : cuda_device_names()) fmt::print("           {}\n", name);
  if (cuda_built_in() && cuda_device_count() == 0) fmt::print("           no CUDA device\n");
}

}  // namespace

void add_version_command(CLI::App& app, CommandLine& line) {
  CLI::App* command = app.add_subcommand("version", "version, build and devices");
  command->footer("Example: hindsight version");
  command->callback([&line] { line.action = print_version; });
}

}  // namespace hindsight::app
