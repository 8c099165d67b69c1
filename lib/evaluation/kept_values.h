#pragma once
// Values that every point of a sweep needs: made once, kept while memory allows, else made again.

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

#include "model/prompt.h"

namespace hindsight {

/// Memory of the host, and of a device beside it.
struct HeldBytes {
  int64_t host = 0, device = 0;
  HeldBytes& operator+=(const HeldBytes& more) {
    host += more.host;
    device += more.device;
    return *this;
  }
  bool fits_into(const HeldBytes& limit) const { return host <= limit.host && device <= limit.device; }
};

/// Most that values take at once: what is kept of `all`, and beside it those that are in use and made again.
inline HeldBytes most_held(const HeldBytes& all, const HeldBytes& limit, const HeldBytes& made_again) {
  return {std::min(all.host, limit.host + made_again.host),
          std::min(all.device, limit.device + made_again.device)};
}

inline HeldBytes held_by(const Prompt& prompt) { return {prompt.bytes(), 0}; }

/// May be used by several threads; each key by one at a time.
template <class Key, class Value>
class KeptValues {
 public:
  explicit KeptValues(const HeldBytes& limit) : left_(limit) {}

  /// `make` gives a Value; held_by(value) says what keeping it takes.
  template <class Make>
  std::shared_ptr<const Value> get(const Key& key, Make&& make) {
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = values_.find(key); found != values_.end()) return found->second;
    }
    std::shared_ptr<const Value> value = std::make_shared<const Value>(make());
    const HeldBytes held = held_by(*value);
    const std::lock_guard lock(mutex_);
    if (held.fits_into(left_)) {
      left_.host -= held.host;
      left_.device -= held.device;
      values_.emplace(key, value);
    }
    return value;
  }

 private:
  std::mutex mutex_;
  HeldBytes left_;
  std::map<Key, std::shared_ptr<const Value>> values_;
};

}  // namespace hindsight
