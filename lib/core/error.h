#pragma once
// Errors are types: a caller decides by type (or by exit_status), a person reads what().
// The library throws these and nothing else on purpose; it never prints and never exits.

#include <stdexcept>
#include <string>

namespace hindsight {

/// Exit statuses of the command line: part of the contract with scripts that call the program.
enum class ExitStatus : int {
  ok = 0,
  usage = 2,        ///< command line or configuration is wrong; layers or steps that the trace lacks
  trace = 3,        ///< trace, model or other input missing, unreadable or invalid
  environment = 4,  ///< device absent or not built in; memory; output not writable
  interrupted = 5,  ///< stopped by a signal; what was finished is kept
};

/// Base of all errors. what() is one line: file, place in it, what is wrong, what would be right.
class Error : public std::runtime_error {
 public:
  Error(ExitStatus status, const std::string& message) : std::runtime_error(message), status_(status) {}
  ExitStatus exit_status() const noexcept { return status_; }

 private:
  ExitStatus status_;
};

/// Wrong command line or configuration (exit status 2).
class ConfigError : public Error {
 public:
  explicit ConfigError(const std::string& message) : Error(ExitStatus::usage, message) {}
};

/// An input file that cannot be used (exit status 3).
class InputError : public Error {
 public:
  explicit InputError(const std::string& message) : Error(ExitStatus::trace, message) {}
};

/// A trace that cannot be used.
class TraceError : public InputError {
 public:
  using InputError::InputError;
};

/// A model that cannot be used.
class ModelError : public InputError {
 public:
  using InputError::InputError;
};

/// Device, memory or output that cannot be had (exit status 4).
class EnvironmentError : public Error {
 public:
  explicit EnvironmentError(const std::string& message) : Error(ExitStatus::environment, message) {}
};

/// The user asked to stop (exit status 5).
class Interrupted : public Error {
 public:
  explicit Interrupted(const std::string& message) : Error(ExitStatus::interrupted, message) {}
};

}  // namespace hindsight
