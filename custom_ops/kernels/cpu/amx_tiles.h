// The permission to use AMX's tile registers, of x86-64 Linux.
#pragma once

#include <sys/syscall.h>
#include <unistd.h>

namespace dcn::cpu {

// A process must ask the system for them once, since they take 8 KiB of each thread's state.
inline bool ask_for_tiles() {
  constexpr long kRequestPermission = 0x1023, kTileData = 18;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

}  // namespace dcn::cpu
