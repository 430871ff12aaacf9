/* What a training step adds to step and gradient, in one pass each, for one instruction set and one type. */

INLINE REAL NAME(largest)(ptrdiff_t size, const REAL *x)
{
    NAME(vector) most = (NAME(vector)){0} + x[0];
    ptrdiff_t i = 0;
    for (; i + VL <= size; i += VL) {
        NAME(vector) next = *(const NAME(vector) *) (x + i);
        most = NAME(select)(next > most, next, most);
    }
    REAL found = x[0];
    for (int l = 0; l < VL; l++)
        found = most[l] > found ? most[l] : found;
    for (; i < size; i++)
        found = x[i] > found ? x[i] : found;
    return found;
}

INLINE NAME(vector) NAME(exp_or_zero)(NAME(vector) x)
{
    /* exp x for x <= 0, and 0 where it would be denormal: products with denormals are slow */
    return NAME(select)(x < (REAL) -EXP_MOST, (NAME(vector)){0}, NAME(exp)(x));
}

TARGET static double NAME(softmax_credit)(ptrdiff_t rows, ptrdiff_t columns, const long long *y, double scale,
                                          REAL *outputs)
{
    double nats = 0;
    for (ptrdiff_t row = 0; row < rows; row++) {
        REAL *x = outputs + row * columns;
        const REAL most = NAME(largest)(columns, x), target = x[y[row]];
        NAME(vector) sums = {0};
        ptrdiff_t i = 0;
        for (; i + VL <= columns; i += VL) {
            NAME(vector) e = NAME(exp_or_zero)(*(const NAME(vector) *) (x + i) - most);
            *(NAME(vector) *) (x + i) = e;
            sums += e;
        }
        double sum = 0;
        for (int l = 0; l < VL; l++)
            sum += sums[l];
        if (i < columns) {
            NAME(vector) e = (NAME(vector)){0} + most;
            __builtin_memcpy(&e, x + i, (size_t) (columns - i) * sizeof(REAL));
            e = NAME(exp_or_zero)(e - most);
            __builtin_memcpy(x + i, &e, (size_t) (columns - i) * sizeof(REAL));
            for (int l = 0; l < columns - i; l++)
                sum += e[l];
        }
        const double of_target = x[y[row]];
        const REAL factor = (REAL) (scale / sum);
        for (i = 0; i < columns; i++)
            x[i] *= factor;
        x[y[row]] = (REAL) (scale * ((of_target - sum) / sum));
        nats += log(sum) - ((double) target - most);
    }
    return nats;
}

#if REAL_IS_FLOAT
#define SQRT __builtin_sqrtf
#define SMALLEST_NORMAL FLT_MIN
#else
#define SQRT __builtin_sqrt
#define SMALLEST_NORMAL DBL_MIN
#endif

INLINE int NAME(adam_or_test)(const int write, ptrdiff_t size, double beta1, double beta2, double eps, double rate,
                              double correction, const REAL *restrict gradient, REAL *restrict parameter,
                              REAL *restrict mean, REAL *restrict square)
{
    const REAL keep1 = (REAL) beta1, take1 = (REAL) (1 - beta1), keep2 = (REAL) beta2, take2 = (REAL) (1 - beta2);
    const REAL add = (REAL) eps, step = (REAL) rate, widen = (REAL) correction;
    const REAL tiny = SMALLEST_NORMAL;
    const INTEGER exponent = (INTEGER) (2 * EXPONENT_BIAS + 1) << MANTISSA_BITS;
    INTEGER bad = 0;
    for (ptrdiff_t i = 0; i < size; i++) {
        REAL g = gradient[i], m = keep1 * mean[i] + take1 * g, v = keep2 * square[i] + take2 * (g * g);
        REAL p = parameter[i] - step * (m / (SQRT(v * widen) + add));
        if (write) { /* without gradients both decay to denormals, which are slow, and stay there */
            mean[i] = m < tiny && m > -tiny ? 0 : m;
            square[i] = v < tiny ? 0 : v;
            parameter[i] = p;
        } else {
            INTEGER bits[3];
            __builtin_memcpy(bits, &m, sizeof(REAL));
            __builtin_memcpy(bits + 1, &v, sizeof(REAL));
            __builtin_memcpy(bits + 2, &p, sizeof(REAL));
            for (int j = 0; j < 3; j++)
                bad |= (bits[j] & exponent) == exponent;
        }
    }
    return bad == 0;
}

#undef SQRT
#undef SMALLEST_NORMAL

TARGET static int NAME(adam)(int write, ptrdiff_t size, double beta1, double beta2, double eps, double rate,
                             double correction, const REAL *gradient, REAL *parameter, REAL *mean, REAL *square)
{
    return write ? NAME(adam_or_test)(1, size, beta1, beta2, eps, rate, correction, gradient, parameter, mean, square)
                 : NAME(adam_or_test)(0, size, beta1, beta2, eps, rate, correction, gradient, parameter, mean, square);
}
