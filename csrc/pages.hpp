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

// Whether the memory has been touched before; if not, asks for huge pages, which fault in at a fraction of the cost.
inline bool settle(void* memory, int64_t bytes) {
    if (bytes < kFresh) return true;
#if defined(__linux__)
    const uintptr_t begin = uintptr_t(memory), middle = (begin + uintptr_t(bytes) / 2) & ~uintptr_t(sysconf(_SC_PAGESIZE) - 1);
    unsigned char resident = 0;
    if (mincore(reinterpret_cast<void*>(middle), 1, &resident) == 0 && (resident & 1)) return true;
    const uintptr_t first = (begin + kHugePage - 1) & ~(kHugePage - 1), last = (begin + uintptr_t(bytes)) & ~(kHugePage - 1);
    if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
    return false;
#else
    (void)memory;
    return true;
#endif
}

}  // namespace normscope
