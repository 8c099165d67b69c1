#pragma once
// Blocks cut into tiles of rows that share what they look at.

#include "backend/cpu/cpu_state.h"

namespace hindsight::cpu {

/// Consecutive rows [begin, end) of a block that belong to one sequence.
struct RowTile {
  int64_t begin = 0, end = 0;
};

/// Tiles of at most `most` rows; rows are added as long as fits(rows of the tile with it, its position), and
/// the first one always.
template <class Fits>
std::vector<RowTile> row_tiles(const Block& block, int64_t most, Fits&& fits) {
  std::vector<RowTile> tiles;
  for (int64_t begin = 0; begin < block.size();) {
    int64_t end = begin + 1;
    while (end < block.size() && end - begin < most &&
           block.steps[end].sequence == block.steps[begin].sequence &&
           fits(end + 1 - begin, block.steps[end].position))
      ++end;
    tiles.push_back({begin, end});
    begin = end;
  }
  return tiles;
}

}  // namespace hindsight::cpu
