"""What the tests share: tolerances by dtype, and small random problems."""

import numpy as np

import okcore

DTYPES = ("float32", "float64")
CELLS = ("RNN", "RHN", "LSTM", "GRU")

# Relative to the largest entry; sums of a few thousand terms.
TOLERANCE = {"float32": 2e-5, "float64": 1e-11}


def make_cell(name, n_in=3, n_hidden=5, dtype="float64", seed=1, gain=1.0):
    """Return a cell with weights of order `gain`: with 1.5 its memory is long and its gradients are large."""
    cell = getattr(okcore, name)(n_in, n_hidden, dtype=dtype, rng=seed)
    cell.theta *= cell.dtype.type(gain)
    return cell


def stream(cell, steps, batch_size, seed=2, symbols=False, reset_rate=0.0):
    """Yield (x, dh, reset) for every step."""
    rng = np.random.default_rng(seed)
    for _ in range(steps):
        x = rng.normal(size=(batch_size, cell.n_in)).astype(cell.dtype)
        if symbols:
            x = rng.integers(cell.n_in, size=batch_size)
        dh = rng.normal(size=(batch_size, cell.n_hidden)).astype(cell.dtype)
        yield x, dh, rng.random(batch_size) < reset_rate


def gradients(estimator, steps, learning_rate=0.0, **options):
    """Return the gradient at every step, theta updated in place between them."""
    cell, out = estimator.cell, []
    start = cell.theta.copy()
    for x, dh, reset in stream(cell, steps, estimator_lanes(estimator), **options):
        estimator.step(x, reset)
        out.append(estimator.gradient(dh))
        cell.theta -= cell.dtype.type(learning_rate) * out[-1]
    cell.theta = start
    return np.array(out)


def estimator_lanes(estimator):
    """Return the batch size of an estimator of okcore or of its reference."""
    return getattr(estimator, "batch_size", None) or len(estimator.state)


def assert_close(actual, expected, dtype, factor=1.0):
    """Compare with the tolerance of the dtype, relative to the largest expected entry."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    scale = max(np.abs(expected).max(initial=0), np.finfo(dtype).tiny)
    error = np.abs(actual.astype(np.float64) - expected).max(initial=0) / scale
    assert error < factor * TOLERANCE[str(np.dtype(dtype))], f"relative error {error:.2e}"


def every_estimator(cell, batch_size=2, **options):
    """Return one of each algorithm, by name."""
    return {
        "tbptt": okcore.TBPTT(cell, 4, batch_size, **options),
        "rtrl": okcore.RTRL(cell, 1, batch_size, **options),
        "rtrl-blocked": okcore.RTRL(cell, 3, batch_size, **options),
        "uoro": okcore.UORO(cell, batch_size, rng=7, **options),
        "kf-rtrl": okcore.KFRTRL(cell, 2, 2, batch_size, rng=7, **options),
        "ok": okcore.OK(cell, 3, 1, batch_size=batch_size, rng=7, **options),
        "ok-blocked": okcore.OK(cell, 3, 4, batch_size=batch_size, rng=7, **options),
        "ok-sampling": okcore.OK(cell, 3, 4, "sampling", batch_size, rng=7, **options),
    }
