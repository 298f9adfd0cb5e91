// Asking for what will be read.
#pragma once

#include "storage.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// In place of a distance: the machine sees by itself what comes next.
struct Unasked {};

template <class E>
NORMSCOPE_INLINE void fetch(const E* from, int64_t ahead) {
    __builtin_prefetch(reinterpret_cast<const void*>(uintptr_t(from) + ahead * sizeof(E)), 0, 2);
}

template <class E>
NORMSCOPE_INLINE void fetch(const E*, Unasked) {}

}  // namespace normscope::NORMSCOPE_LEVEL
