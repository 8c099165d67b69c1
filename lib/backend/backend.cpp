#include "backend/backend.h"

namespace hindsight {

Block Backend::make_block(std::vector<BlockStep> steps) {
  Block block;
  block.steps = std::move(steps);
  block.on_backend = make_tensor<BlockStep, 1>({block.size()});
  upload(block.on_backend.data(), block.steps.data(), block.size() * static_cast<int64_t>(sizeof(BlockStep)));
  return block;
}

}  // namespace hindsight
