/* okcore's kernels from C, and as from_cpp.cpp from C++: a module for arrays of either type that needs no NumPy. */

#include <Python.h>
#include <stdlib.h>

#include "cython_kernels_api.h" /* after other headers: it defines its functions' names as macros */

#ifndef MODULE
#define MODULE "from_c"
#define INITIALISE PyInit_from_c
#endif

static int get_buffers(PyObject *args, Py_buffer *buffers, int count, int first_result)
{
    /* The arguments as contiguous buffers; those from `first_result` on are written to.  None has no memory. */
    for (int i = 0; i < count; i++) {
        PyObject *argument = PyTuple_GetItem(args, i);
        int flags = PyBUF_C_CONTIGUOUS | (i >= first_result ? PyBUF_WRITABLE : 0);
        memset(&buffers[i], 0, sizeof(Py_buffer));
        if (argument == NULL || (argument != Py_None && PyObject_GetBuffer(argument, &buffers[i], flags) < 0)) {
            while (i-- > 0)
                PyBuffer_Release(&buffers[i]);
            return -1;
        }
    }
    return 0;
}

/* reduce(u, A, signs or None, u_new, A_new, start) -> (terms that came out, variance) */
static PyObject *reduce(PyObject *self, PyObject *args)
{
    Py_buffer buffers[5];
    double variance, start = PyFloat_AsDouble(PyTuple_GetItem(args, 5));
    int count;
    (void) self;
    if (get_buffers(args, buffers, 5, 3) < 0)
        return NULL;
    Py_buffer *u = &buffers[0], *A = &buffers[1];
    const double *signs = (const double *) buffers[2].buf;
    void *u_new = buffers[3].buf, *A_new = buffers[4].buf, *workspace;
    int N = (int) u->shape[0], m = (int) u->shape[1], rank = (int) buffers[3].shape[0];
    Py_ssize_t SP = A->shape[1] * A->shape[2];
    Py_BEGIN_ALLOW_THREADS
    if (u->itemsize == sizeof(float)) {
        workspace = malloc(skron_reduce_workspace(N, rank));
        count = skron_reduce(N, rank, m, SP, (const float *) u->buf, (const float *) A->buf, signs, start,
                             (float *) u_new, (float *) A_new, workspace, &variance);
    } else {
        workspace = malloc(dkron_reduce_workspace(N, rank));
        count = dkron_reduce(N, rank, m, SP, (const double *) u->buf, (const double *) A->buf, signs, start,
                             (double *) u_new, (double *) A_new, workspace, &variance);
    }
    free(workspace);
    Py_END_ALLOW_THREADS
    for (int i = 0; i < 5; i++)
        PyBuffer_Release(&buffers[i]);
    return Py_BuildValue("id", count, variance);
}

/* contract(v, u, A, rows, gradient) */
static PyObject *contract(PyObject *self, PyObject *args)
{
    Py_buffer buffers[5];
    (void) self;
    if (get_buffers(args, buffers, 5, 3) < 0)
        return NULL;
    Py_buffer *v = &buffers[0], *u = &buffers[1], *A = &buffers[2], *rows = &buffers[3], *gradient = &buffers[4];
    int N = (int) A->shape[0], S = (int) A->shape[1], P = (int) A->shape[2], m = (int) u->shape[1];
    Py_BEGIN_ALLOW_THREADS
    if (v->itemsize == sizeof(float))
        skron_contract(N, S, P, m, (const float *) v->buf, (const float *) u->buf, (const float *) A->buf,
                       (float *) rows->buf, (float *) gradient->buf);
    else
        dkron_contract(N, S, P, m, (const double *) v->buf, (const double *) u->buf, (const double *) A->buf,
                       (double *) rows->buf, (double *) gradient->buf);
    Py_END_ALLOW_THREADS
    for (int i = 0; i < 5; i++)
        PyBuffer_Release(&buffers[i]);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"reduce", reduce, METH_VARARGS, NULL},
    {"contract", contract, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, MODULE, NULL, -1, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC INITIALISE(void)
{
    if (import_okcore__cython_kernels() < 0) /* fills in the functions' addresses */
        return NULL;
    return PyModule_Create(&module);
}
