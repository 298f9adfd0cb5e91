// Activations applied to z = normalized + residual, and what they let through of a gradient. NaN passes, as in torch.
#pragma once

#include "simd.hpp"

namespace normscope::NORMSCOPE_LEVEL {

// exp for float32, within 2 ulp, by 2^n * p(r): x clamped to where the result is finite and normal.
NORMSCOPE_INLINE Pack<float> exponential(Pack<float> x) {
    const auto low = broadcast(-87.0f), high = broadcast(88.0f);
    x = select(x <= low, low, select(x >= high, high, x));
    const auto shifter = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const auto shifted = multiply_add(x, broadcast(1.44269504f), shifter);
    const auto n = shifted - shifter;
    auto r = multiply_add(n, broadcast(-0.693359375f), x);
    r = multiply_add(n, broadcast(2.12194440e-4f), r);
    auto p = broadcast(1.9875691500e-4f);
    p = multiply_add(p, r, broadcast(1.3981999507e-3f));
    p = multiply_add(p, r, broadcast(8.3334519073e-3f));
    p = multiply_add(p, r, broadcast(4.1665795894e-2f));
    p = multiply_add(p, r, broadcast(1.6666665459e-1f));
    p = multiply_add(p, r, broadcast(5.0000001201e-1f));
    p = multiply_add(p, r * r, r + broadcast(1.0f));
    Pack<float> power;
#pragma GCC unroll 4
    for (int i = 0; i < kParts; ++i) {
        power.part[i] = (Register<float>)((((Register<uint32_t>)shifted.part[i]) << 23) + (127u << 23));
    }
    return p * power;
}

NORMSCOPE_INLINE Pack<double> exponential(const Pack<double>& x) {
    Pack<double> out;
    for (int p = 0; p < kParts; ++p) {
        for (int i = 0; i < Pack<double>::lanes / kParts; ++i) out.part[p][i] = __builtin_exp(x.part[p][i]);
    }
    return out;
}

struct Identity {
    static constexpr bool gates = false;
    template <class A>
    static NORMSCOPE_INLINE Pack<A> forward(const Pack<A>& z, const Pack<A>&) {
        return z;
    }
};

// Piecewise linear: `closed` says where the slope is another, `shut` what a gradient becomes there.
struct Relu {
    static constexpr bool gates = true;
    template <class A>
    static NORMSCOPE_INLINE Lanes<A> closed(const Pack<A>& z) {
        return z <= zero<A>();
    }
    template <class A>
    static NORMSCOPE_INLINE Pack<A> shut(const Pack<A>&, const Pack<A>&) {
        return zero<A>();
    }
    template <class A>
    static NORMSCOPE_INLINE Pack<A> forward(const Pack<A>& z, const Pack<A>&) {
        return larger(zero<A>(), z);
    }
};

struct Relu6 : Relu {
    template <class A>
    static NORMSCOPE_INLINE Lanes<A> closed(const Pack<A>& z) {
        return (z <= zero<A>()) | (z >= broadcast(A(6)));
    }
    template <class A>
    static NORMSCOPE_INLINE Pack<A> forward(const Pack<A>& z, const Pack<A>&) {
        return select(z >= broadcast(A(6)), broadcast(A(6)), larger(zero<A>(), z));
    }
};

struct LeakyRelu {
    static constexpr bool gates = true;
    template <class A>
    static NORMSCOPE_INLINE Lanes<A> closed(const Pack<A>& z) {
        return z <= zero<A>();
    }
    template <class A>
    static NORMSCOPE_INLINE Pack<A> shut(const Pack<A>& dy, const Pack<A>& slope) {
        return dy * slope;
    }
    template <class A>
    static NORMSCOPE_INLINE Pack<A> forward(const Pack<A>& z, const Pack<A>& slope) {
        return select(z <= zero<A>(), z * slope, z);
    }
};

struct Silu {
    static constexpr bool gates = false;
    template <class A>
    static NORMSCOPE_INLINE Pack<A> sigmoid(const Pack<A>& z) {
        return broadcast(A(1)) / (broadcast(A(1)) + exponential(zero<A>() - z));
    }
    template <class A>
    static NORMSCOPE_INLINE Pack<A> forward(const Pack<A>& z, const Pack<A>&) {
        return z * sigmoid(z);
    }
    template <class A>
    static NORMSCOPE_INLINE Pack<A> backward(const Pack<A>& dy, const Pack<A>& z) {
        const auto one = broadcast(A(1));
        const auto s = sigmoid(z);
        return dy * s * multiply_add(z, one - s, one);
    }
};

}  // namespace normscope::NORMSCOPE_LEVEL
