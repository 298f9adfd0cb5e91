// The order in which the packs of a run, and the rows of a stack, are worked on.
#pragma once

#include "storage.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// Calls body(offset, Whole or Part, chain) along a run that starts `phase` elements into a pack; neighbouring packs have
// different chains below `Chains`, so that sums need not wait for each other. Both ragged ends come to one call, which
// halves the code.
template <class A, int Chains = 1, class Body>
NORMSCOPE_INLINE void walk(int64_t phase, int64_t length, Body&& body) {
    constexpr int64_t lanes = Pack<A>::lanes;
    int64_t i = 0, ragged = phase % lanes ? lanes - phase % lanes : 0;
    if (ragged > length) ragged = length;
    while (true) {
        if (ragged) {
            body(i, Part{ragged}, Count<0>{});
            i += ragged;
        }
        if (i >= length) return;
        if constexpr (Chains > 1) {
            for (; i + Chains * lanes <= length; i += Chains * lanes) {
                each<Chains>([&](auto chain) NORMSCOPE_LAMBDA { body(i + chain * lanes, Whole{}, chain); });
            }
        }
        for (; i + lanes <= length; i += lanes) body(i, Whole{}, Count<0>{});
        ragged = length - i;
    }
}

// As `walk`, but body(offset, Whole or Part, Count<packs>, chain) is called for the packs of a whole line at once; `phase`
// is where in a line the run starts.
template <class E, int Chains = 1, class Body>
NORMSCOPE_INLINE void walk_lines(int64_t phase, int64_t length, Body&& body) {
    using A = Compute<E>;
    constexpr int packs = kLine<E>;
    if constexpr (packs == 1) {
        walk<A, Chains>(phase, length, [&](int64_t i, auto extent, auto chain) NORMSCOPE_LAMBDA {
            body(i, extent, Count<1>{}, chain);
        });
    } else {
        constexpr int64_t lanes = Pack<A>::lanes, line = packs * lanes;
        constexpr int lines = Chains > packs ? Chains / packs : 1;
        int64_t i = 0, ragged = phase % lanes ? lanes - phase % lanes : 0;
        if (ragged > length) ragged = length;
        while (i < length) {
            if (ragged) {
                body(i, Part{ragged}, Count<1>{}, Count<0>{});
                i += ragged;
                ragged = 0;
                continue;
            }
            if ((phase + i) % line == 0) {
                for (; i + lines * line <= length; i += lines * line) {
                    each<lines>([&](auto l) NORMSCOPE_LAMBDA {
                        body(i + l * line, Whole{}, Count<packs>{}, Count<packs * decltype(l){}>{});
                    });
                }
                if constexpr (lines > 1) {
                    for (; i + line <= length; i += line) body(i, Whole{}, Count<packs>{}, Count<0>{});
                }
            }
            if (i + lanes <= length) {
                body(i, Whole{}, Count<1>{}, Count<0>{});
                i += lanes;
            } else {
                ragged = length - i;
            }
        }
    }
}

// Calls body(row, Count<N>) for N rows at once as far as they reach, then row by row.
template <int N, class Body>
NORMSCOPE_INLINE void bundled(int64_t first, int64_t last, Body&& body) {
    if constexpr (N > 1) {
        for (; first + N <= last; first += N) body(first, Count<N>{});
    }
    for (; first < last; ++first) body(first, Count<1>{});
}

}  // namespace normscope::NORMSCOPE_LEVEL
