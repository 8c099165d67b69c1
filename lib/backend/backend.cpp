#include "backend/backend.h"

#include <algorithm>
#include <stdexcept>

namespace hindsight {
namespace {

/// Of a backend that waits: all is here.
class EndedTransfer final : public Transfer {
 public:
  explicit EndedTransfer(std::vector<std::byte> bytes) : bytes_(std::move(bytes)) {}
  std::span<const std::byte> wait() override { return bytes_; }

 private:
  std::vector<std::byte> bytes_;
};

}  // namespace

std::unique_ptr<Transfer> Backend::begin_download(const void* source, int64_t bytes) {
  std::vector<std::byte> arrived(static_cast<size_t>(bytes));
  download(arrived.data(), source, bytes);
  return std::make_unique<EndedTransfer>(std::move(arrived));
}

Block Backend::make_block(std::vector<BlockStep> steps) {
  Block block;
  block.steps = std::move(steps);
  block.on_backend = make_tensor<BlockStep, 1>({block.size()});
  upload(block.on_backend.data(), block.steps.data(), block.size() * static_cast<int64_t>(sizeof(BlockStep)));
  return block;
}

void Backend::replace_steps(Block& block, std::vector<BlockStep> steps) {
  const auto bytes = static_cast<int64_t>(steps.size() * sizeof(BlockStep));
  if (bytes > block.on_backend.storage->bytes())
    throw std::invalid_argument("a block has no room for so many steps");
  block.steps = std::move(steps);
  block.on_backend.shape = {block.size()};
  upload(block.on_backend.data(), block.steps.data(), bytes);
}

Tensor<int32_t, 1> Backend::make_numbers(std::span<const int32_t> values) {
  const auto tensor = make_tensor<int32_t, 1>({static_cast<int64_t>(values.size())});
  upload(tensor.data(), values.data(), static_cast<int64_t>(values.size_bytes()));
  return tensor;
}

void require_comparable(const Tensor<float, 2>& x, std::span<const Tensor<float, 2>> references,
                        const Tensor<double, 1>& errors) {
  int64_t rows = 0;
  for (const Tensor<float, 2>& reference : references) {
    if (reference.shape[1] != x.shape[1])
      throw std::invalid_argument("rows and their references differ in width");
    rows += reference.shape[0];
  }
  if (rows != x.shape[0] || errors.shape[0] != rows)
    throw std::invalid_argument("rows, their references and errors differ in number");
}

void require_selectable(int64_t page_size, const Block& block, const Tensor<float, 3>& scores,
                        std::span<const int32_t> k, Newest newest, const PageLists& lists) {
  if (static_cast<int64_t>(k.size()) != block.size())
    throw std::invalid_argument("select_top_k needs a k per row");
  for (int64_t i = 0; i < block.size(); ++i) {
    const int64_t pages = block.steps[i].position / page_size + 1;
    const int64_t wanted = k[i] + (newest == Newest::extra ? 1 : 0);
    const int64_t listed = std::min(pages, std::max<int64_t>(wanted, newest == Newest::competes ? 0 : 1));
    if (listed > lists.pages.shape[2]) throw std::invalid_argument("page lists are too short for k");
    if (pages > scores.shape[2]) throw std::invalid_argument("a row has more pages than scores");
  }
}

}  // namespace hindsight
