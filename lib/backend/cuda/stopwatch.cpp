#include "backend/cuda/stopwatch.h"

namespace hindsight::cuda {

void EventStopwatch::mark() {
  if (marks_ == events_.size()) events_.push_back(std::make_unique<Event>(*device_, Event::Timing::on));
  device_->use();
  events_[marks_++]->record(device_->stream());
}

std::vector<double> EventStopwatch::intervals_us() {
  std::vector<double> intervals;
  if (marks_ > 0) events_[marks_ - 1]->wait();
  for (size_t i = 1; i < marks_; ++i) intervals.push_back(events_[i]->us_since(*events_[i - 1]));
  marks_ = 0;
  return intervals;
}

}  // namespace hindsight::cuda
