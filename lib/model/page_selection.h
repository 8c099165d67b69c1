#pragma once
// Which pages a step loaded in a layer of a model that decodes, on the host or on their way to it: for
// whoever measures. Letters as in backend.h; n rows, one for the newest position of each sequence of the
// step.

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "backend/backend.h"
#include "model/window_rows.h"

namespace hindsight {

/// PageLists on the host.
struct HostPageLists {
  int64_t units = 0, capacity = 0;
  std::vector<int32_t> pages;  ///< [n, U, capacity], ascending
  std::vector<int32_t> count;  ///< [n, U]
  std::span<const int32_t> of(int64_t row, int64_t unit) const {
    const int64_t list = row * units + unit;
    return std::span(pages).subspan(static_cast<size_t>(list * capacity), static_cast<size_t>(count[list]));
  }
};

struct PageSelection {
  int64_t page_size = 0;
  HostPageLists loaded;
  // Where true mass was asked for: that of the newest position's query over the keys that stand in the cache,
  // which are those of the method and not those of dense decoding.
  HostPageLists best;       ///< the pages of the largest true mass, as many as the budget grants
  std::vector<float> mass;  ///< [n, U, J] share of a page, summed over the heads of the unit
  int64_t max_pages = 0;    ///< J
  int64_t heads_per_unit = 1;
  float mass_of(int64_t row, int64_t unit, int32_t page) const {
    return mass[static_cast<size_t>((row * loaded.units + unit) * max_pages + page)];
  }
};

/// Page lists on their way to the host.
class PageListsDownload {
 public:
  PageListsDownload() = default;
  PageListsDownload(Backend& backend, const PageLists& lists)
      : units_(lists.pages.shape[1]),
        capacity_(lists.pages.shape[2]),
        pages_(backend.begin_to_host(lists.pages)),
        count_(backend.begin_to_host(lists.count)) {}
  /// Waits.
  HostPageLists get() const { return {units_, capacity_, pages_.get(), count_.get()}; }

 private:
  int64_t units_ = 0, capacity_ = 0;
  Download<int32_t> pages_, count_;
};

/// A selection on its way to the host. What the backend does next changes nothing of it.
struct SelectionDownload {
  int64_t page_size = 0;
  PageListsDownload loaded;
  /// Where true mass was asked for.
  struct TrueMass {
    PageListsDownload best;
    Download<float> mass;
    int64_t max_pages = 0, heads_per_unit = 1;
  };
  std::optional<TrueMass> true_mass;

  /// Waits.
  PageSelection get() const {
    PageSelection selection;
    selection.page_size = page_size;
    selection.loaded = loaded.get();
    if (!true_mass) return selection;
    selection.best = true_mass->best.get();
    selection.mass = true_mass->mass.get();
    selection.max_pages = true_mass->max_pages;
    selection.heads_per_unit = true_mass->heads_per_unit;
    return selection;
  }
};

/// Sees what a step loaded in a sparse layer. Row i is the newest position of span i; all positions of the
/// span were shown its pages. In the last layer those are the newest alone.
using SelectionObserver =
    std::function<void(int64_t layer, std::span<const WindowSpan> spans, SelectionDownload selection)>;

}  // namespace hindsight
