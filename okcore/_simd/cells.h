/* Pointwise steps of the built-in cells for one instruction set and one type: the new state, and the diagonals d and c
   of its Jacobians.

   A cell is an entry in EACH_CELL, with its sizes, and a CELL(name) body, which steps one lane; nothing else in C names
   it, and okcore/cells.py reads the sizes from here. Every cell is pointwise in its pre-activations, so with
   s = f(pre, s') per unit

       d[j, a, g, i] = d s[a, i] / d pre[j, g, i]        (immediate Jacobian, F = sum_j D^j (x) u^j)
       c[a, b, i]    = d s[a, i] / d s'[b, i], pre fixed (the part of the state Jacobian beside D* W_h E_h)

   pre (q, G, n) may be overwritten; state, state_next (k, n); d (q, k, G, n); c (k, k, n). */

#ifndef EACH_CELL
/*                   name, gates G, state blocks k, terms q */
#define EACH_CELL(X) X(rnn, 1, 1, 1) X(rhn, 2, 1, 1) X(lstm, 4, 2, 1) X(gru, 3, 1, 2)
#endif

#define CELL(name)                                                                                                     \
    INLINE void NAME(name##_lane)(ptrdiff_t n, REAL *restrict pre, const REAL *restrict state,                         \
                                  REAL *restrict state_next, REAL *restrict d, REAL *restrict c)

CELL(rnn)
{
    /* h = tanh(a) */
    NAME(tanh)(n, pre, state_next);
    for (ptrdiff_t i = 0; i < n; i++) {
        d[i] = 1 - state_next[i] * state_next[i];
        c[i] = 0;
    }
    (void) state;
}

CELL(rhn)
{
    /* z = 2 sigmoid(a_z) - 1, f = sigmoid(a_f), h = f h' + (1 - f) z */
    NAME(sigmoid)(2 * n, pre, pre);
    const REAL *restrict s = pre, *restrict f = pre + n;
    REAL *restrict d_z = d, *restrict d_f = d + n;
    for (ptrdiff_t i = 0; i < n; i++) {
        REAL z = 2 * s[i] - 1;
        state_next[i] = f[i] * state[i] + (1 - f[i]) * z;
        d_z[i] = (1 - f[i]) * 2 * s[i] * (1 - s[i]);
        d_f[i] = (state[i] - z) * f[i] * (1 - f[i]);
        c[i] = f[i];
    }
}

CELL(lstm)
{
    /* rows i, f, g, o (torch's order); c = f c' + i g, h = o tanh(c); state [h, c].  Three blocks are always zero:
       dc/da_o, dh/dh' and dc/dh'.  The tape is made with zeros there, and they are not written, because this loop is
       bound by its stores. */
    REAL *restrict gate_i = pre, *restrict gate_f = pre + n;
    REAL *restrict gate_g = pre + 2 * n, *restrict gate_o = pre + 3 * n;
    const REAL *restrict old = state + n;
    REAL *restrict h = state_next, *restrict new = state_next + n;
    REAL *restrict d_h = d, *restrict d_c = d + 4 * n;
    REAL *restrict grid = c; /* dh/dh', dh/dc', dc/dh', dc/dc' */
    NAME(sigmoid)(2 * n, gate_i, gate_i);
    NAME(tanh)(n, gate_g, gate_g);
    NAME(sigmoid)(n, gate_o, gate_o);
    for (ptrdiff_t i = 0; i < n; i++)
        new[i] = gate_f[i] * old[i] + gate_i[i] * gate_g[i];
    NAME(tanh)(n, new, h);
    for (ptrdiff_t i = 0; i < n; i++) {
        REAL dh_dc = gate_o[i] * (1 - h[i] * h[i]);
        REAL dc_di = gate_g[i] * gate_i[i] * (1 - gate_i[i]);
        REAL dc_df = old[i] * gate_f[i] * (1 - gate_f[i]);
        REAL dc_dg = gate_i[i] * (1 - gate_g[i] * gate_g[i]);
        d_c[i] = dc_di;
        d_c[n + i] = dc_df;
        d_c[2 * n + i] = dc_dg;
        d_h[i] = dh_dc * dc_di;
        d_h[n + i] = dh_dc * dc_df;
        d_h[2 * n + i] = dh_dc * dc_dg;
        d_h[3 * n + i] = h[i] * gate_o[i] * (1 - gate_o[i]);
        grid[n + i] = dh_dc * gate_f[i];
        grid[3 * n + i] = gate_f[i];
        h[i] *= gate_o[i];
    }
}

CELL(gru)
{
    /* rows r, z, n ("reset after", torch's form); input and recurrence arrive apart:
       g = tanh(x_n + r h_n), h = (1 - z) g + z h' */
    REAL *restrict r = pre, *restrict z = pre + n, *restrict g = pre + 2 * n;
    const REAL *restrict from_h = pre + 3 * n, *restrict h_n = pre + 5 * n;
    REAL *restrict d_x = d, *restrict d_h = d + 3 * n;
    for (ptrdiff_t i = 0; i < 2 * n; i++)
        r[i] += from_h[i];
    NAME(sigmoid)(2 * n, r, r);
    for (ptrdiff_t i = 0; i < n; i++)
        g[i] += r[i] * h_n[i];
    NAME(tanh)(n, g, g);
    for (ptrdiff_t i = 0; i < n; i++) {
        REAL dh_dg = (1 - z[i]) * (1 - g[i] * g[i]);
        REAL dh_dr = dh_dg * h_n[i] * r[i] * (1 - r[i]);
        REAL dh_dz = (state[i] - g[i]) * z[i] * (1 - z[i]);
        state_next[i] = (1 - z[i]) * g[i] + z[i] * state[i];
        d_x[i] = d_h[i] = dh_dr;
        d_x[n + i] = d_h[n + i] = dh_dz;
        d_x[2 * n + i] = dh_dg;
        d_h[2 * n + i] = dh_dg * r[i];
        c[i] = z[i];
    }
}

#define EACH_LANE(name, G, k, q)                                                                                       \
    TARGET static void NAME(name)(ptrdiff_t lanes, ptrdiff_t n, REAL *pre, const REAL *state, REAL *state_next,        \
                                  REAL *d, REAL *c)                                                                    \
    {                                                                                                                  \
        for (ptrdiff_t lane = 0; lane < lanes; lane++)                                                                 \
            NAME(name##_lane)(n, pre + lane * (q) * (G) * n, state + lane * (k) * n, state_next + lane * (k) * n,      \
                              d + lane * (q) * (k) * (G) * n, c + lane * (k) * (k) * n);                               \
    }
EACH_CELL(EACH_LANE)
#undef EACH_LANE
#undef CELL
