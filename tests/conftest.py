"""The one table of cells and estimators that the tests run over; it follows the package's registers."""

import inspect

import okcore
from okcore import cells, estimators

DTYPES = ("float32", "float64")

# Every built-in cell, by the name of its class
CELLS = {cls.__name__: cls for cls in cells.CELLS.values()}


def maker(name, **options):
    """Return make(cell, batch_size, rng, n_threads, update_every, first_lane) for a registered estimator, small."""

    def make(cell, batch_size=2, rng=7, n_threads=1, update_every=1, first_lane=0):
        small = {"rank": 3, "block": 4, "batch": batch_size, "threads": n_threads, "update_every": update_every}
        return estimators.ESTIMATORS[name].from_options(cell, small | options, rng, first_lane)

    return make


# Every registered estimator, by the name of the command line, and some with other options
ESTIMATORS = {name: maker(name) for name in estimators.ESTIMATORS}
VARIANTS = {
    "rtrl-textbook": maker("rtrl", block=1),
    "kf-rtrl-published": maker("kf-rtrl", rank=1, block=1),
    "ok-published": maker("ok", block=1),
    "ok-tolerance": maker("ok", tolerance=0.3),
    "ok-sampling": lambda cell, batch_size=2, rng=7, **more: okcore.OK(cell, 3, 4, "sampling", batch_size, rng, **more),
}
EVERY_ESTIMATOR = ESTIMATORS | VARIANTS


def arguments_of(make):
    """Return the names of the arguments of the constructor behind a maker."""
    return tuple(inspect.signature(type(make(okcore.RNN(1, 1)))).parameters)


# Those that draw: all of them do so to be unbiased
RANDOM = {kind: make for kind, make in EVERY_ESTIMATOR.items() if "rng" in arguments_of(make)}
