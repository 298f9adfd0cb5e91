// Asking for what will be read.
#pragma once

#include "storage.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Bytes between what is added up and what is fetched.
constexpr int64_t kFetchAhead = int64_t(1) << 15;

template <class E>
NORMSCOPE_INLINE void fetch(const E* from, int64_t ahead) {
    __builtin_prefetch(reinterpret_cast<const void*>(uintptr_t(from) + ahead * sizeof(E)), 0, 2);
}

// Each fetch stays where it is: compilers would bring all of a column together, and such a burst has to wait for memory.
template <bool fetching, class E>
NORMSCOPE_INLINE void fetch_summed(const E* from) {
    if constexpr (!fetching) return;
    __asm__ volatile("");
    fetch(from, kFetchAhead / int64_t(sizeof(E)));
}

}  // namespace normscope::NORMSCOPE_LEVEL
