#pragma once
// A file's bytes in memory without reading them: pages come from the disk when they are looked at, and the
// system may drop them again. A file that another process shortens meanwhile ends the program (SIGBUS), as it
// does everywhere that files are mapped.

#include <cstddef>
#include <filesystem>
#include <span>

namespace hindsight {

/// A read-only mapping, unmapped with its owner.
class MappedFile {
 public:
  /// Throws InputError: missing, not a regular file, not readable. An empty file has no bytes.
  explicit MappedFile(const std::filesystem::path& file);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

 private:
  std::span<const std::byte> bytes_;
};

}  // namespace hindsight
