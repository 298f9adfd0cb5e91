// Asking for what will be read.
#pragma once

#include "storage.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Bytes between what is added up and what is fetched.
constexpr int64_t kSummedAhead = int64_t(1) << 15;
// Bytes between what an element-wise pass reads, or what is added up beside it, and what is fetched.
constexpr int64_t kAppliedAhead = int64_t(1) << 13;

template <class E>
NORMSCOPE_INLINE void fetch(const E* from, int64_t ahead) {
    __builtin_prefetch(reinterpret_cast<const void*>(uintptr_t(from) + ahead * sizeof(E)), 0, 2);
}

// What rows read for the last time: once it leaves the core's own caches it is dropped, and what is still to be read keeps
// its place in the shared one. Of planes and blocks it is what comes next, which these caches hold until then.
template <class E>
NORMSCOPE_INLINE void fetch_briefly(const E* from, int64_t ahead) {
    __builtin_prefetch(reinterpret_cast<const void*>(uintptr_t(from) + ahead * sizeof(E)), 0, 0);
}

// Each fetch stays where it is: compilers would bring all of a column together, and such a burst has to wait for memory.
template <bool fetching, class E>
NORMSCOPE_INLINE void fetch_summed(const E* from, int64_t ahead) {
    if constexpr (!fetching) return;
    __asm__ volatile("");
    fetch(from, ahead);
}

}  // namespace normscope::NORMSCOPE_LEVEL
