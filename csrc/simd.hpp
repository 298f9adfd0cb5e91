// Packs: 64 bytes of the type that is computed in, in as many registers as the instruction-set level has them.
// Compiled once per level, each in a namespace of its own, so that no code of a higher level is linked into a lower one;
// for the same reason nothing here instantiates a template of the standard library.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define NORMSCOPE_INLINE inline __attribute__((always_inline))
#define NORMSCOPE_CALL __attribute__((noinline))
#define NORMSCOPE_LAMBDA __attribute__((always_inline))

// Before a loop over channels or columns: no iteration depends on another.
#define NORMSCOPE_SIMD _Pragma("omp simd")

namespace normscope::NORMSCOPE_LEVEL {

#if defined(__AVX512F__) && defined(__AVX512DQ__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define NORMSCOPE_AVX512
#endif

#if defined(NORMSCOPE_AVX512)
constexpr int kRegister = 64;
#elif defined(__AVX2__)
constexpr int kRegister = 32;
#else
constexpr int kRegister = 16;
#endif
constexpr int kPack = 64;
constexpr int kParts = kPack / kRegister;

// A number known to the compiler.
template <int N>
struct Count {
    constexpr operator int() const { return N; }
};

// Calls body(Count<0>) ... body(Count<N - 1>). Unlike a loop, it is laid out before the compiler decides what lives in
// registers, so that arrays indexed by the counts do.
template <int N, class Body>
NORMSCOPE_INLINE void each(Body&& body) {
    if constexpr (N > 0) {
        each<N - 1>(body);
        body(Count<N - 1>{});
    }
}

template <class E, int Bytes>
struct RegisterOf {
    typedef E type __attribute__((vector_size(Bytes)));
};
template <class E, int Bytes = kRegister>
using Register = typename RegisterOf<E, Bytes>::type;

// The same register wherever it lies in memory. Going through these and never through memcpy of a whole pack matters:
// that one is compiled to a copy by halves on the stack.
template <class E, int Bytes>
struct UnalignedOf {
    typedef E type __attribute__((vector_size(Bytes), aligned(sizeof(E)), may_alias));
};
template <class E, int Bytes = kRegister>
NORMSCOPE_INLINE Register<E, Bytes> load_register(const void* from) {
    return *static_cast<const typename UnalignedOf<E, Bytes>::type*>(from);
}
template <class E, int Bytes = kRegister>
NORMSCOPE_INLINE void store_register(void* to, Register<E, Bytes> value) {
    *static_cast<typename UnalignedOf<E, Bytes>::type*>(to) = value;
}

template <class A>
struct IntegerOf;
template <>
struct IntegerOf<float> {
    using type = int32_t;
};
template <>
struct IntegerOf<double> {
    using type = int64_t;
};
template <class A>
using Integer = typename IntegerOf<A>::type;

template <class A>
struct Pack {
    static constexpr int lanes = kPack / sizeof(A);
    Register<A> part[kParts];
};

// Which lanes of a pack: a bit for each where comparisons give that, else all bits of a lane set or none.
template <class A>
struct Lanes {
#if defined(NORMSCOPE_AVX512)
    uint16_t bits;
#else
    Register<Integer<A>> part[kParts];
#endif
};

#define NORMSCOPE_ELEMENTWISE(result, name, expression)                      \
    template <class A>                                                       \
    NORMSCOPE_INLINE result<A> name(const Pack<A>& a, const Pack<A>& b) {    \
        result<A> out;                                                       \
        _Pragma("GCC unroll 4") for (int p = 0; p < kParts; ++p) {           \
            const Register<A> u = a.part[p], v = b.part[p];                  \
            out.part[p] = expression;                                        \
        }                                                                    \
        return out;                                                          \
    }
NORMSCOPE_ELEMENTWISE(Pack, operator+, u + v)
NORMSCOPE_ELEMENTWISE(Pack, operator-, u - v)
NORMSCOPE_ELEMENTWISE(Pack, operator*, u* v)
NORMSCOPE_ELEMENTWISE(Pack, operator/, u / v)
#if defined(NORMSCOPE_AVX512)
#define NORMSCOPE_COMPARISON(name, predicate)                                                          \
    NORMSCOPE_INLINE Lanes<float> name(const Pack<float>& a, const Pack<float>& b) {                   \
        return {_mm512_cmp_ps_mask((__m512)a.part[0], (__m512)b.part[0], predicate)};                  \
    }                                                                                                  \
    NORMSCOPE_INLINE Lanes<double> name(const Pack<double>& a, const Pack<double>& b) {                \
        return {_mm512_cmp_pd_mask((__m512d)a.part[0], (__m512d)b.part[0], predicate)};                \
    }
NORMSCOPE_COMPARISON(operator<=, _CMP_LE_OQ)
NORMSCOPE_COMPARISON(operator>=, _CMP_GE_OQ)
#undef NORMSCOPE_COMPARISON
#else
NORMSCOPE_ELEMENTWISE(Lanes, operator<=, u <= v)
NORMSCOPE_ELEMENTWISE(Lanes, operator>=, u >= v)
#endif
#undef NORMSCOPE_ELEMENTWISE

// a * b + c, rounded once by the levels that say so here. Nothing else is: compilers are told to fuse nothing by themselves,
// because each does it in other places, and then a channel's numbers depend on which copy of the code works on it.
NORMSCOPE_INLINE Register<float> multiply_add(Register<float> a, Register<float> b, Register<float> c) {
#if defined(NORMSCOPE_AVX512)
    return (Register<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__AVX2__) && defined(__FMA__)
    return (Register<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
    return a * b + c;
#endif
}

NORMSCOPE_INLINE Register<double> multiply_add(Register<double> a, Register<double> b, Register<double> c) {
#if defined(NORMSCOPE_AVX512)
    return (Register<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__AVX2__) && defined(__FMA__)
    return (Register<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
    return a * b + c;
#endif
}

template <class A>
NORMSCOPE_INLINE Pack<A> multiply_add(const Pack<A>& a, const Pack<A>& b, const Pack<A>& c) {
    Pack<A> out;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) out.part[p] = multiply_add(a.part[p], b.part[p], c.part[p]);
    return out;
}

// The larger of two; b where one of them is NaN. Compilers do not make one instruction of the comparison.
NORMSCOPE_INLINE Register<float> larger(Register<float> a, Register<float> b) {
#if defined(NORMSCOPE_AVX512)
    return (Register<float>)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX2__)
    return (Register<float>)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return a > b ? a : b;
#endif
}

NORMSCOPE_INLINE Register<double> larger(Register<double> a, Register<double> b) { return a > b ? a : b; }

template <class A>
NORMSCOPE_INLINE Pack<A> larger(const Pack<A>& a, const Pack<A>& b) {
    Pack<A> out;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) out.part[p] = larger(a.part[p], b.part[p]);
    return out;
}

#if defined(NORMSCOPE_AVX512)
NORMSCOPE_INLINE Pack<float> select(Lanes<float> where, const Pack<float>& yes, const Pack<float>& no) {
    return {{(Register<float>)_mm512_mask_blend_ps(where.bits, (__m512)no.part[0], (__m512)yes.part[0])}};
}

NORMSCOPE_INLINE Pack<double> select(Lanes<double> where, const Pack<double>& yes, const Pack<double>& no) {
    return {{(Register<double>)_mm512_mask_blend_pd(__mmask8(where.bits), (__m512d)no.part[0], (__m512d)yes.part[0])}};
}

template <class A>
NORMSCOPE_INLINE Lanes<A> operator|(Lanes<A> a, Lanes<A> b) {
    return {uint16_t(a.bits | b.bits)};
}
#else
template <class A>
NORMSCOPE_INLINE Pack<A> select(const Lanes<A>& where, const Pack<A>& yes, const Pack<A>& no) {
    Pack<A> out;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) out.part[p] = where.part[p] ? yes.part[p] : no.part[p];
    return out;
}

template <class A>
NORMSCOPE_INLINE Lanes<A> operator|(const Lanes<A>& a, const Lanes<A>& b) {
    Lanes<A> out;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) out.part[p] = a.part[p] | b.part[p];
    return out;
}
#endif

template <class A>
NORMSCOPE_INLINE Pack<A> broadcast(A value) {
    Pack<A> out;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) out.part[p] = Register<A>{} + value;
    return out;
}

template <class A>
NORMSCOPE_INLINE Pack<A> zero() {
    Pack<A> out;
#pragma GCC unroll 4
    for (int p = 0; p < kParts; ++p) out.part[p] = Register<A>{};
    return out;
}

// In float64, by four sums side by side: one chain of additions would wait for each of them.
template <class A>
NORMSCOPE_INLINE double sum(const Pack<A>& a) {
    double totals[4] = {};
    for (int p = 0; p < kParts; ++p) {
#pragma GCC unroll 16
        for (int i = 0; i < Pack<A>::lanes / kParts; ++i) totals[i % 4] += static_cast<double>(a.part[p][i]);
    }
    return (totals[0] + totals[1]) + (totals[2] + totals[3]);
}

}  // namespace normscope::NORMSCOPE_LEVEL
