# The rules and the words of their errors are those of okcore._validation. `fits` only says whether an array needs it.

cimport numpy as cnp

from okcore import _validation

from okcore._engine.cell_kernel cimport CellKernel

cnp.import_array()


cdef bint fits(value, int type_number, int axes, Py_ssize_t a, Py_ssize_t b, Py_ssize_t c) noexcept:
    # Is it an aligned, C-contiguous array of this type and of shape (a, b, c)[:axes]?
    return (
        cnp.PyArray_CheckExact(value)
        and cnp.PyArray_TYPE(<cnp.ndarray> value) == type_number
        and cnp.PyArray_ISCARRAY_RO(<cnp.ndarray> value)
        and cnp.PyArray_NDIM(<cnp.ndarray> value) == axes
        and cnp.PyArray_DIM(<cnp.ndarray> value, 0) == a
        and (axes < 2 or cnp.PyArray_DIM(<cnp.ndarray> value, 1) == b)
        and (axes < 3 or cnp.PyArray_DIM(<cnp.ndarray> value, 2) == c)
    )


cdef bint is_long(int type_number) noexcept:
    return type_number == cnp.NPY_LONGLONG or (sizeof(long) == sizeof(long long) and type_number == cnp.NPY_LONG)


cdef bint holds_symbols(cnp.ndarray array) noexcept:
    return is_long(cnp.PyArray_TYPE(array))


cdef bint all_below(Py_ssize_t size, const long long *symbols, int n_symbols) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(size):
        if not 0 <= symbols[i] < n_symbols:
            return False
    return True


cdef int check_finite(name, cnp.ndarray array, CellKernel cell) except -1:
    if not cell.all_finite(cnp.PyArray_SIZE(array), cnp.PyArray_DATA(array)):
        _validation.raise_not_finite(name, array)
    return 0


cdef cnp.ndarray as_inputs(name, value, CellKernel cell, Py_ssize_t batch_size, bint many):
    cdef Py_ssize_t T = 0
    cdef int v = cell.sizes.v, type_number = cnp.NPY_NOTYPE
    cdef cnp.ndarray array
    if cnp.PyArray_CheckExact(value):
        type_number = cnp.PyArray_TYPE(<cnp.ndarray> value)
    if many:
        if cnp.PyArray_CheckExact(value) and cnp.PyArray_NDIM(<cnp.ndarray> value) > 0:
            T = cnp.PyArray_DIM(<cnp.ndarray> value, 0)
        if not (fits(value, cell.type_number, 3, T, batch_size, v)
                or is_long(type_number) and fits(value, type_number, 2, T, batch_size, 0)):
            value = _validation.as_inputs(name, value, batch_size, v, cell.dtype, many=True)
    elif not (fits(value, cell.type_number, 2, batch_size, v, 0)
              or is_long(type_number) and fits(value, type_number, 1, batch_size, 0, 0)):
        value = _validation.as_inputs(name, value, batch_size, v, cell.dtype, many=False)
    array = value
    if not holds_symbols(array):
        check_finite(name, array, cell)
    elif not all_below(cnp.PyArray_SIZE(array), <long long *> cnp.PyArray_DATA(array), v):
        _validation.as_symbols(name, array, (<object> array).shape, v)  # says which
    return array


cdef cnp.ndarray as_credits(name, value, CellKernel cell, Py_ssize_t T, Py_ssize_t batch_size):
    cdef int n = cell.sizes.n
    if T < 0:
        if not fits(value, cell.type_number, 2, batch_size, n, 0):
            value = _validation.as_floats(name, value, (batch_size, n), cell.dtype)
    elif not fits(value, cell.type_number, 3, T, batch_size, n):
        value = _validation.as_floats(name, value, (T, batch_size, n), cell.dtype)
    check_finite(name, value, cell)
    return value


cdef cnp.ndarray as_lanes(name, value, Py_ssize_t batch_size):
    if fits(value, cnp.NPY_BOOL, 1, batch_size, 0, 0):
        return value
    return _validation.as_mask(name, value, (batch_size,))


cdef cnp.ndarray as_output(out, CellKernel cell, int axes, Py_ssize_t a, Py_ssize_t b, Py_ssize_t c):
    cdef cnp.npy_intp shape[3]
    if out is None:
        shape[0], shape[1], shape[2] = a, b, c
        return cnp.PyArray_EMPTY(axes, shape, cell.type_number, 0)
    if not (fits(out, cell.type_number, axes, a, b, c) and cnp.PyArray_ISWRITEABLE(<cnp.ndarray> out)):
        _validation.check_output(out, (a, b, c)[:axes], cell.dtype)
    return out
