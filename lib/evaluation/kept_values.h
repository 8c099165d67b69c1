#pragma once
// Values that every point of a sweep needs: made once, kept while memory allows, else made again.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace hindsight {

/// May be used by several threads; each key by one at a time.
template <class Key, class Value>
class KeptValues {
 public:
  explicit KeptValues(int64_t limit_bytes) : left_(limit_bytes) {}

  /// `make` gives a Value; Value::bytes() says what keeping it takes.
  template <class Make>
  std::shared_ptr<const Value> get(const Key& key, Make&& make) {
    {
      const std::lock_guard lock(mutex_);
      if (const auto found = values_.find(key); found != values_.end()) return found->second;
    }
    std::shared_ptr<const Value> value = std::make_shared<const Value>(make());
    const std::lock_guard lock(mutex_);
    if (value->bytes() <= left_) {
      left_ -= value->bytes();
      values_.emplace(key, value);
    }
    return value;
  }

 private:
  std::mutex mutex_;
  int64_t left_;
  std::map<Key, std::shared_ptr<const Value>> values_;
};

}  // namespace hindsight
