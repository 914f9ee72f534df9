/* Numbers as PTX has them, for the functions that opcodes.py writes. */

#include <math.h>
#include <stdint.h>
#include <string.h>

static inline float as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, 4);
    return x;
}

static inline uint32_t bits_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return bits;
}

static inline float flush(float x) { return fabsf(x) < 1.17549435e-38f ? copysignf(0.0f, x) : x; }

static inline float from_half(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, rest = bits & 0x7fff;
    float small = (float)rest * 0x1p-24f; /* Subnormal: a multiple of the smallest. */
    float normal = as_float((rest << 13) + ((rest >= 0x7c00 ? 255u - 31u : 127u - 15u) << 23));
    return as_float(sign | bits_of(rest < 0x400 ? small : normal));
}

static inline uint16_t to_half(float x) {
    uint32_t bits = bits_of(x), sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest > 0x7f800000) return 0x7fff;
    if (rest >= 0x477ff000) return (uint16_t)(sign | 0x7c00);                       /* Rounds to infinity. */
    if (rest < 0x38800000) return (uint16_t)(sign | (uint16_t)lrintf(as_float(rest) * 0x1p24f)); /* Subnormal. */
    rest += 0xfff + (rest >> 13 & 1);                                               /* To nearest, ties to even. */
    return (uint16_t)(sign | ((rest >> 13) - ((127 - 15) << 10)));
}

static inline float from_bfloat(uint16_t bits) { return as_float((uint32_t)bits << 16); }

static inline uint16_t to_bfloat(float x) {
    uint32_t bits = bits_of(x);
    if ((bits & 0x7fffffff) > 0x7f800000) return 0x7fff;
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/* Of two numbers, of which one may be NaN, the other; +0 is larger than -0. */
static inline float larger(float a, float b) {
    if (isnan(a) || isnan(b)) return isnan(a) ? (isnan(b) ? as_float(0x7fffffff) : b) : a;
    return a == b ? (signbit(a) ? b : a) : (a > b ? a : b);
}

static inline float smaller(float a, float b) {
    if (isnan(a) || isnan(b)) return isnan(a) ? (isnan(b) ? as_float(0x7fffffff) : b) : a;
    return a == b ? (signbit(a) ? a : b) : (a < b ? a : b);
}

static inline float or_nan(float a, float b, float x) { return isnan(a) || isnan(b) ? as_float(0x7fffffff) : x; }

static inline uint64_t pack_floats(float low, float high) { return bits_of(low) | (uint64_t)bits_of(high) << 32; }
static inline float low_float(uint64_t x) { return as_float((uint32_t)x); }
static inline float high_float(uint64_t x) { return as_float((uint32_t)(x >> 32)); }

static inline uint32_t field_unsigned(uint32_t x, uint32_t start, uint32_t length) {
    start &= 255, length &= 255;
    uint64_t rest = start > 31 ? 0 : x >> start;
    return (uint32_t)(length > 31 ? rest : rest & ((1u << length) - 1));
}

static inline uint32_t field_signed(uint32_t x, uint32_t start, uint32_t length) {
    start &= 255, length &= 255;
    int32_t rest = (int32_t)x >> (start > 31 ? 31 : start);
    if (length == 0) return 0;
    return length > 31 ? (uint32_t)rest : (uint32_t)((int32_t)((uint32_t)rest << (32 - length)) >> (32 - length));
}

static inline uint32_t permute_bytes(uint32_t a, uint32_t b, uint32_t selector) {
    uint64_t both = (uint64_t)b << 32 | a;
    uint32_t result = 0;
    for (int k = 0; k < 4; ++k) {
        uint32_t nibble = selector >> (4 * k) & 15, byte = (uint32_t)(both >> (8 * (nibble & 7)) & 255);
        if (nibble & 8) byte = byte & 128 ? 255 : 0; /* Its sign, eight times. */
        result |= byte << (8 * k);
    }
    return result;
}

