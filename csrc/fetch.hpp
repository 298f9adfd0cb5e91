// Asking for what will be read. Memory gives most to a single stream: where the rows that are worked on together follow each
// other, what lies ahead is fetched in the order of memory, not row by row.
#pragma once

#include "storage.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Bytes between what is added up, or worked on and written, and what is fetched.
constexpr int64_t kFetchAhead = int64_t(1) << 15;
constexpr int64_t kApplyAhead = int64_t(1) << 13;
// Packs that share a cache line.
template <class E>
constexpr int kPacksPerLine = 64 / (Pack<Compute<E>>::lanes * int(sizeof(E)));

template <class E>
NORMSCOPE_INLINE void fetch(const E* from, int64_t ahead) {
    __builtin_prefetch(reinterpret_cast<const void*>(uintptr_t(from) + ahead * sizeof(E)), 0, 2);
}

// What is fetched with the line at `column` of one of R rows of `width` elements, `pitch` apart.
template <int R, class E>
struct Order {
    int64_t by_row, by_column, ahead;

    NORMSCOPE_INLINE Order(int64_t pitch, int64_t width, int64_t elements_ahead)
        : by_row(pitch == width ? kLine<E> * Pack<Compute<E>>::lanes : pitch),
          by_column(pitch == width ? R : 1),
          ahead(elements_ahead) {}

    NORMSCOPE_INLINE void fetch_line(const E* from, int64_t row, int64_t column) const {
        fetch(from + row * by_row + column * by_column, ahead);
    }
};

// The same for a pack that is added up, where it is known beforehand whether the rows are adjacent. Each fetch stays where
// it is: compilers would bring all of a column together, and such a burst has to wait for memory.
template <bool adjacent, int R, int row, class E>
NORMSCOPE_INLINE void fetch_summed(const E* from, int64_t column, int64_t pitch) {
    constexpr int64_t size = Pack<Compute<E>>::lanes, ahead = kFetchAhead / int64_t(sizeof(E));
    __asm__ volatile("");
    if constexpr (!adjacent) fetch(from + row * pitch + column, ahead);
    else if constexpr (row % kPacksPerLine<E> == 0) fetch(from + R * column, ahead + row * size);
}

}  // namespace normscope::NORMSCOPE_LEVEL
