"""What the cell, the engine, the tape and a carry tell each other, one struct each."""


# A cell's sizes: inputs v, units n, gates G, state blocks k, terms per step q, S = k n, P = G n, m = v + n + q
cdef struct Sizes:
    int v, n, G, k, q, S, P, m

# A time step of all lanes, as a user asks for it
cdef struct Input:
    const void *x                  # (B, v) floats, or NULL
    const long long *symbols       # (B,) one-hot symbols, where x is NULL
    const unsigned char *reset     # (B,) lanes that start a new sequence before this step, or NULL
    bint in_run                    # theta will not change for some steps
    bint same_theta                # theta has not changed since the last step

# The newest step of one lane, for a local carry
cdef struct Step:
    int lane, thread
    const double *draws            # (n_draws,) uniform on [0, 1), from the lane's own stream

# A closed block of one lane: J <- Phi J + sum_i A_i (x) u_i
cdef struct Block:
    int lane, thread
    bint alive                     # False: the lane was reset inside the block; Phi stands for 0 and is undefined
    int n_terms
    const double *draws            # (n_draws,) uniform on [0, 1), from the lane's own stream

# What a carry's function returns
cdef enum:
    FINE = 0
    NOT_FINITE = 1                 # something overflowed: the engine forgets the lane's influence and says so
    NO_CONVERGENCE = 3             # LAPACK's SVD failed, gesdd and gesvd both
    RAISED = 2                     # a method in Python raised: the exception is in carry.failure
