// Commands of a CPU stream, packed one after another into one buffer: appending is a copy, replaying is a walk.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <vector>

#include "ops.h"

namespace kvasir::cpu {

using OpFunction = void (*)(Context&, const void* args);

enum class CommandKind : uint32_t { op, copy, copy_pages, fill, flag_write, flag_wait, callback, launch, stamp };

struct OpCommand {
  static constexpr CommandKind kind = CommandKind::op;
  OpFunction run;
  const char* name;
  void* workspace;  // the argument struct follows the command
};
struct CopyCommand {
  static constexpr CommandKind kind = CommandKind::copy;
  void* target;
  const void* source;
  size_t bytes;
};
struct CopyPagesCommand {
  static constexpr CommandKind kind = CommandKind::copy_pages;
  kvasir_page_copy copy;  // the slots of both sides follow the command: to, then from
};
struct FillCommand {
  static constexpr CommandKind kind = CommandKind::fill;
  void* target;
  size_t bytes;
  uint8_t value;
};
struct FlagWriteCommand {
  static constexpr CommandKind kind = CommandKind::flag_write;
  uint64_t* flag;
  uint64_t value;
  const uint64_t* base;
};
struct FlagWaitCommand {
  static constexpr CommandKind kind = CommandKind::flag_wait;
  const uint64_t* flag;
  uint64_t value;
  const uint64_t* base;
};
struct CallbackCommand {
  static constexpr CommandKind kind = CommandKind::callback;
  void (*function)(void*, kvasir_status, const char*);
  void* user;
};
struct LaunchCommand {
  static constexpr CommandKind kind = CommandKind::launch;
  kvasir_program* program;
};
struct StampCommand {
  static constexpr CommandKind kind = CommandKind::stamp;
  int32_t slot;
};

class CommandList {
 public:
  template <class Command>
  void push(const Command& command, const void* tail, size_t tail_bytes, const void* more = nullptr, size_t more_bytes = 0) {
    static_assert(std::is_trivially_copyable_v<Command> && alignof(Command) <= kAlign);
    const size_t start = bytes_.size();
    bytes_.resize(start + kHeader + round_up(sizeof command) + round_up(tail_bytes + more_bytes));
    const Header header{Command::kind, static_cast<uint32_t>(bytes_.size() - start)};
    std::memcpy(&bytes_[start], &header, sizeof header);
    std::memcpy(&bytes_[start + kHeader], &command, sizeof command);
    std::byte* const end = &bytes_[start] + kHeader + round_up(sizeof command);
    if (tail_bytes != 0) std::memcpy(end, tail, tail_bytes);
    if (more_bytes != 0) std::memcpy(end + tail_bytes, more, more_bytes);
  }

  // Calls visit(kind, command) for every command, oldest first.
  template <class Visit>
  void each(const Visit& visit) const {
    for (size_t at = 0; at < bytes_.size();) {
      Header header;
      std::memcpy(&header, &bytes_[at], sizeof header);
      visit(header.kind, static_cast<const void*>(&bytes_[at + kHeader]));
      at += header.bytes;
    }
  }

  // What was given as tail to the command's push, `more` right behind it.
  template <class Command>
  static const void* tail(const Command& command) {
    return reinterpret_cast<const std::byte*>(&command) + round_up(sizeof command);
  }

  bool empty() const { return bytes_.empty(); }
  void clear() { bytes_.clear(); }
  void swap(CommandList& other) { bytes_.swap(other.bytes_); }

 private:
  struct Header {
    CommandKind kind;
    uint32_t bytes;
  };
  static constexpr size_t kAlign = 16, kHeader = 16;
  static constexpr size_t round_up(size_t bytes) { return (bytes + kAlign - 1) & ~(kAlign - 1); }
  std::vector<std::byte> bytes_;
};

}  // namespace kvasir::cpu
