/* Sigmoid, tanh and a test for Inf and NaN, for one instruction set and one type.  The functions are those of Moshier's
   Cephes, and exact to within 3 units in the last place. */

INLINE NAME(vector) NAME(select)(NAME(bits) mask, NAME(vector) yes, NAME(vector) no)
{
    return (NAME(vector)) ((mask & (NAME(bits)) yes) | (~mask & (NAME(bits)) no));
}

INLINE NAME(vector) NAME(exp)(NAME(vector) x)
{
    /* exp x = 2^k exp r, |r| <= ln 2 / 2.  x is first limited to what keeps exp x in range; NaN stays NaN. */
    const NAME(vector) most = (NAME(vector)){0} + (REAL) EXP_MOST, least = (NAME(vector)){0} - (REAL) EXP_MOST;
    x = NAME(select)(x > most, most, NAME(select)(x < least, least, x));
    /* Adding and subtracting 1.5 2^p rounds to an integer, which then stands in the low bits. */
    const NAME(vector) shifter = (NAME(vector)){0} + (REAL) ROUNDER;
    NAME(vector) shifted = x * (REAL) 1.44269504088896340736 + shifter;
    NAME(vector) k = shifted - shifter;
    NAME(vector) r = x - k * (REAL) LN2_HIGH - k * (REAL) LN2_LOW;
    NAME(bits) scale = ((NAME(bits)) shifted - (NAME(bits)) shifter + EXPONENT_BIAS) << MANTISSA_BITS;
#if REAL_IS_FLOAT
    NAME(vector) p = r * 1.9875691500E-4f + 1.3981999507E-3f;
    p = p * r + 8.3334519073E-3f;
    p = p * r + 4.1665795894E-2f;
    p = p * r + 1.6666665459E-1f;
    p = p * r + 5.0000001201E-1f;
    p = p * (r * r) + r + 1.0f;
#else
    NAME(vector) rr = r * r;
    NAME(vector) a = (rr * 1.26177193074810590878E-4 + 3.02994407707441961300E-2) * rr + 9.99999999999999999910E-1;
    NAME(vector) b = (rr * 3.00198505138664455042E-6 + 2.52448340349684104192E-3) * rr + 2.27265548208155028766E-1;
    a = r * a;
    b = b * rr + 2.0;
    NAME(vector) p = 1.0 + 2.0 * (a / (b - a));
#endif
    return p * (NAME(vector)) scale;
}

INLINE NAME(vector) NAME(sigmoid_of)(NAME(vector) x)
{
    return (REAL) 1 / ((REAL) 1 + NAME(exp)(-x));
}

INLINE NAME(vector) NAME(tanh_of)(NAME(vector) x)
{
    /* Near zero an odd polynomial; elsewhere 1 - 2 / (exp 2|x| + 1) with the sign of x */
    NAME(vector) size = NAME(select)(x < (REAL) 0, -x, x), z = x * x;
    NAME(vector) far = (REAL) 1 - (REAL) 2 / (NAME(exp)(size + size) + (REAL) 1);
    far = NAME(select)(x < (REAL) 0, -far, far);
#if REAL_IS_FLOAT
    NAME(vector) p = z * -5.70498872745E-3f + 2.06390887954E-2f;
    p = p * z - 5.37397155531E-2f;
    p = p * z + 1.33314422036E-1f;
    p = p * z - 3.33332819422E-1f;
    NAME(vector) near = p * z * x + x;
#else
    NAME(vector) a = (z * -9.64399179425052238628E-1 - 9.92877231001918586564E1) * z - 1.61468768441708447952E3;
    NAME(vector) b = ((z + 1.12811678491632931402E2) * z + 2.23548839060100448583E3) * z + 4.84406305325125486048E3;
    NAME(vector) near = x + x * z * (a / b);
#endif
    return NAME(select)(size < (REAL) 0.625, near, far);
}

/* y <- f(x), both of `size`; the last entries, fewer than VL, are copied to a whole vector and back */
#define MAP(name, function)                                                                                            \
    TARGET static void NAME(name)(ptrdiff_t size, const REAL *x, REAL *y)                                             \
    {                                                                                                                  \
        ptrdiff_t i = 0;                                                                                               \
        for (; i + VL <= size; i += VL)                                                                          \
            *(NAME(vector) *) (y + i) = function(*(const NAME(vector) *) (x + i));                                   \
        if (i < size) {                                                                                                \
            NAME(vector) rest = {0};                                                                                  \
            __builtin_memcpy(&rest, x + i, (size_t) (size - i) * sizeof(REAL));                                        \
            rest = function(rest);                                                                                     \
            __builtin_memcpy(y + i, &rest, (size_t) (size - i) * sizeof(REAL));                                        \
        }                                                                                                              \
    }
MAP(sigmoid, NAME(sigmoid_of))
MAP(tanh, NAME(tanh_of))

TARGET static int NAME(finite)(ptrdiff_t size, const REAL *x)
{
    /* An exponent of all ones is Inf or NaN; integer tests vectorise where float comparisons do not. */
    const INTEGER exponent = (INTEGER) (2 * EXPONENT_BIAS + 1) << MANTISSA_BITS;
    NAME(bits) bad[4] = {{0}, {0}, {0}, {0}};
    ptrdiff_t i = 0;
    for (; i + 4 * VL <= size; i += 4 * VL)
        for (int j = 0; j < 4; j++)
            bad[j] |= (*(const NAME(bits) *) (x + i + j * VL) & exponent) == exponent;
    bad[0] |= bad[1] | bad[2] | bad[3];
    INTEGER any = 0;
    for (int l = 0; l < VL; l++)
        any |= bad[0][l];
    for (; i < size; i++) {
        INTEGER entry;
        __builtin_memcpy(&entry, x + i, sizeof(REAL));
        any |= (entry & exponent) == exponent;
    }
    return any == 0;
}

TARGET static REAL NAME(largest_magnitude)(ptrdiff_t size, const REAL *x)
{
    const INTEGER exponent = (INTEGER) (2 * EXPONENT_BIAS + 1) << MANTISSA_BITS;
    const INTEGER all_but_sign = exponent + (((INTEGER) 1 << MANTISSA_BITS) - 1);
    NAME(vector) most[4] = {{0}, {0}, {0}, {0}};
    ptrdiff_t i = 0;
    for (; i + 4 * VL <= size; i += 4 * VL)
        for (int j = 0; j < 4; j++) {
            NAME(vector) next = (NAME(vector)) (*(const NAME(bits) *) (x + i + j * VL) & all_but_sign);
            most[j] = NAME(select)(next > most[j], next, most[j]);
        }
    REAL found = 0;
    for (int j = 0; j < 4; j++)
        for (int l = 0; l < VL; l++)
            found = most[j][l] > found ? most[j][l] : found;
    for (; i < size; i++) {
        REAL next = x[i] < 0 ? -x[i] : x[i];
        found = next > found ? next : found;
    }
    return found;
}
