"""What learning adds to step and gradient, on whole arrays: readouts, norms, Adam."""

cimport numpy as cnp
from cython cimport floating
from libc.math cimport sqrt

from okcore._kernels cimport adam, gemm, softmax_credit, sum_of_squares

cnp.import_array()


cdef void *entries(name, cnp.ndarray array, int type_number, Py_ssize_t size) except? NULL:
    # Those of an aligned, C-contiguous array of this type and size
    if (cnp.PyArray_TYPE(array) != type_number or cnp.PyArray_SIZE(array) != size
            or not cnp.PyArray_ISCARRAY_RO(array)):
        raise ValueError(
            f"{name} must be a C-contiguous array of {size} entries of {cnp.PyArray_DescrFromType(type_number)}, "
            f"got {array.dtype} array of shape {(<object> array).shape}")
    return cnp.PyArray_DATA(array)


cdef int type_of(name, cnp.ndarray array) except -1:
    cdef int type_number = cnp.PyArray_TYPE(array)
    if type_number != cnp.NPY_FLOAT and type_number != cnp.NPY_DOUBLE:
        raise TypeError(f"{name} must be float32 or float64, got {array.dtype}")
    return type_number


cdef cnp.ndarray new(Py_ssize_t rows, Py_ssize_t columns, int type_number):
    cdef cnp.npy_intp shape[2]
    shape[0], shape[1] = rows, columns
    return cnp.PyArray_EMPTY(2, shape, type_number, 0)


# ---- readouts: weights (n_out, n_hidden + 1) = [W | b] --------------------------------------------------------------


def outputs(cnp.ndarray h, cnp.ndarray weights):
    """Return h W^T + b, (B, n_out), for h (B, n_hidden)."""
    cdef int type_number = type_of("weights", weights)
    cdef int B = cnp.PyArray_DIM(h, 0), n_out, n
    n_out, n = (<object> weights).shape
    n -= 1  # the bias
    cdef cnp.ndarray out = new(B, n_out, type_number)
    cdef void *x = entries("h", h, type_number, <Py_ssize_t> B * n)
    cdef void *w = entries("weights", weights, type_number, <Py_ssize_t> n_out * (n + 1))
    cdef void *z = cnp.PyArray_DATA(out)
    with nogil:
        if type_number == cnp.NPY_FLOAT:
            affine[float](B, n_out, n, <float *> x, <float *> w, <float *> z)
        else:
            affine[double](B, n_out, n, <double *> x, <double *> w, <double *> z)
    return out


cdef void affine(int B, int n_out, int n, const floating *h, const floating *weights, floating *out) noexcept nogil:
    # (B, n)(n, n_out), added to the bias
    cdef int lane, i
    for lane in range(B):
        for i in range(n_out):
            out[<Py_ssize_t> lane * n_out + i] = weights[<Py_ssize_t> i * (n + 1) + n]
    gemm[floating](False, True, B, n_out, n, 1, h, n, weights, n + 1, 1, out, n_out)


def gradients(cnp.ndarray credit, cnp.ndarray h, cnp.ndarray weights):
    """Return dloss/dh (B, n_hidden) and dloss/dweights from credit = dloss/doutputs (B, n_out)."""
    cdef int type_number = type_of("weights", weights)
    cdef int B = cnp.PyArray_DIM(h, 0), n_out, n
    n_out, n = (<object> weights).shape
    n -= 1  # the bias
    cdef cnp.ndarray dh = new(B, n, type_number), dweights = new(n_out, n + 1, type_number)
    cdef void *e = entries("credit", credit, type_number, <Py_ssize_t> B * n_out)
    cdef void *x = entries("h", h, type_number, <Py_ssize_t> B * n)
    cdef void *w = entries("weights", weights, type_number, <Py_ssize_t> n_out * (n + 1))
    cdef void *to_h = cnp.PyArray_DATA(dh)
    cdef void *to_weights = cnp.PyArray_DATA(dweights)
    with nogil:
        if type_number == cnp.NPY_FLOAT:
            affine_gradients[float](B, n_out, n, <float *> e, <float *> x, <float *> w, <float *> to_h,
                                    <float *> to_weights)
        else:
            affine_gradients[double](B, n_out, n, <double *> e, <double *> x, <double *> w, <double *> to_h,
                                     <double *> to_weights)
    return dh, dweights


cdef void affine_gradients(
    int B, int n_out, int n, const floating *credit, const floating *h, const floating *weights,
    floating *dh, floating *dweights,
) noexcept nogil:
    # dh = credit W, dW = credit^T h, db = the sum of credit over lanes
    cdef int lane, i
    cdef floating total
    gemm[floating](False, False, B, n, n_out, 1, credit, n_out, weights, n + 1, 0, dh, n)
    gemm[floating](True, False, n_out, n, B, 1, credit, n_out, h, n, 0, dweights, n + 1)
    for i in range(n_out):
        total = 0
        for lane in range(B):
            total += credit[<Py_ssize_t> lane * n_out + i]
        dweights[<Py_ssize_t> i * (n + 1) + n] = total


cdef bint holds_symbols(cnp.ndarray y, Py_ssize_t B, int n_out) noexcept:
    # Is it an aligned, C-contiguous array of B integers of 64 bits, from 0 to n_out - 1?
    cdef int type_number = cnp.PyArray_TYPE(y)
    cdef long long *symbols = <long long *> cnp.PyArray_DATA(y)
    cdef Py_ssize_t lane
    if type_number != cnp.NPY_LONGLONG and not (type_number == cnp.NPY_LONG and sizeof(long) == sizeof(long long)):
        return False
    if cnp.PyArray_NDIM(y) != 1 or cnp.PyArray_DIM(y, 0) != B or not cnp.PyArray_ISCARRAY_RO(y):
        return False
    for lane in range(B):
        if not 0 <= symbols[lane] < n_out:
            return False
    return True


def are_symbols(y, Py_ssize_t B, int n_out):
    """Return whether y is a contiguous array of B symbols that `softmax` takes as it is."""
    return cnp.PyArray_CheckExact(y) and holds_symbols(y, B, n_out)


def softmax(cnp.ndarray outputs, cnp.ndarray y):
    """Overwrite outputs (B, n_out) with the credit of the mean cross-entropy with symbols y (B,); return it in nats."""
    cdef int type_number = type_of("outputs", outputs)
    cdef Py_ssize_t B, n_out
    B, n_out = (<object> outputs).shape
    if not holds_symbols(y, B, n_out):
        raise ValueError(f"y must be a C-contiguous array of {B} symbols from 0 to {n_out - 1}")
    cdef void *z = entries("outputs", outputs, type_number, B * n_out)
    cdef long long *symbols = <long long *> cnp.PyArray_DATA(y)
    cdef double nats
    with nogil:
        if type_number == cnp.NPY_FLOAT:
            nats = softmax_credit[float](B, n_out, symbols, 1.0 / B, <float *> z)
        else:
            nats = softmax_credit[double](B, n_out, symbols, 1.0 / B, <double *> z)
    return nats / B


# ---- gradients and updates ----------------------------------------------------------------------


def norm(cnp.ndarray array):
    """Return the Euclidean norm of a C-contiguous array, summed in float64: float32 would overflow at 2e19."""
    cdef int type_number = type_of("array", array)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(array)
    cdef void *x = entries("array", array, type_number, size)
    cdef double squares
    with nogil:
        if type_number == cnp.NPY_FLOAT:
            squares = sum_of_squares[float](size, <float *> x)
        else:
            squares = sum_of_squares[double](size, <double *> x)
    return sqrt(squares)


def adam_step(
    bint write, double beta1, double beta2, double eps, double rate, double correction,
    cnp.ndarray gradient, cnp.ndarray parameter, cnp.ndarray mean, cnp.ndarray square,
):
    """Take a step of Adam in place; or, unless `write`, return whether all that it would write is finite.

    mean <- beta1 mean + (1 - beta1) g, square <- beta2 square + (1 - beta2) g^2
    parameter <- parameter - rate mean / (sqrt(correction square) + eps)
    """
    cdef int type_number = type_of("parameter", parameter)
    cdef Py_ssize_t size = cnp.PyArray_SIZE(parameter)
    cdef void *g = entries("gradient", gradient, type_number, size)
    cdef void *p = entries("parameter", parameter, type_number, size)
    cdef void *m = entries("mean", mean, type_number, size)
    cdef void *v = entries("square", square, type_number, size)
    cdef bint finite
    with nogil:
        if type_number == cnp.NPY_FLOAT:
            finite = adam[float](write, size, beta1, beta2, eps, rate, correction, <float *> g, <float *> p,
                                 <float *> m, <float *> v)
        else:
            finite = adam[double](write, size, beta1, beta2, eps, rate, correction, <double *> g, <double *> p,
                                  <double *> m, <double *> v)
    return finite
