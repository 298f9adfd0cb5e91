// Fresh pages cost more than the kernels. glibc hands out outputs of 32 MiB and more untouched by the system, and smaller ones
// too where it has given the end of its heap back.
#pragma once

#include <cstdint>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace normscope {

constexpr int64_t kFresh = int64_t(4) << 20;
constexpr uintptr_t kHugePage = uintptr_t(2) << 20;

// Asks for huge pages, which fault in at a fraction of the cost, if the memory has not been touched before.
inline void settle([[maybe_unused]] void* memory, [[maybe_unused]] int64_t bytes) {
#if defined(__linux__)
    if (bytes < kFresh) return;
    const uintptr_t begin = uintptr_t(memory), middle = (begin + uintptr_t(bytes) / 2) & ~uintptr_t(sysconf(_SC_PAGESIZE) - 1);
    unsigned char resident = 0;
    if (mincore(reinterpret_cast<void*>(middle), 1, &resident) == 0 && (resident & 1)) return;
    const uintptr_t first = (begin + kHugePage - 1) & ~(kHugePage - 1), last = (begin + uintptr_t(bytes)) & ~(kHugePage - 1);
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace normscope
