"""How time and memory grow with n: n^4 for textbook RTRL, n^3 for blocked RTRL and OK, n^2 for UORO and TBPTT."""

import measure
import numpy as np
from measure import FORMS, GRADIENTS, MEMORY_SIZES, TIME_SIZES, exponent_of_time, stream, target

TIME_TARGETS = dict.fromkeys(("rtrl", "ok-block1", "ok"), "at most 3.2") | dict.fromkeys(("uoro", "tbptt"), "at most 2.3")
TIME_TARGETS |= {"rtrl-block1": "at least 3.4"}
MEMORY_TARGETS = dict.fromkeys(("rtrl", "rtrl-block1"), "within 0.15 of 3")
MEMORY_TARGETS |= dict.fromkeys(("ok", "ok-block1", "uoro"), "within 0.15 of 2")


class Time:
    """Seconds per step by n, the axis of asv's plots."""

    params = [list(FORMS), sorted({n for sizes in TIME_SIZES.values() for n in sizes}), list(GRADIENTS)]
    param_names = ["estimator", "n", "gradient"]
    unit = "seconds"
    timeout = 600

    def setup(self, estimator, n, gradient):
        if n not in TIME_SIZES[estimator]:
            raise NotImplementedError("textbook RTRL (n^4) would take minutes")

    def track_step(self, estimator, n, gradient):
        return measure.seconds_per_step(estimator, n, gradient)


class Memory:
    """Bytes of an estimator by n."""

    params = [list(FORMS), sorted({n for sizes in MEMORY_SIZES.values() for n in sizes})]
    param_names = ["estimator", "n"]
    unit = "bytes"
    timeout = 600

    def setup(self, estimator, n):
        if n not in MEMORY_SIZES[estimator]:
            raise NotImplementedError("not one of the sizes of this estimator's exponent")

    def track_estimator(self, estimator, n):
        return float(measure.memory_bytes(estimator, n))


@target(4, lambda estimator, gradient: TIME_TARGETS.get(estimator), estimator=list(FORMS), gradient=list(GRADIENTS))
def track_exponent_of_time(estimator, gradient):
    """exponent of time"""
    return exponent_of_time(estimator, gradient)


@target(4, "at least 0.4", gradient=list(GRADIENTS))
def track_exponent_of_textbook_over_blocked(gradient):
    """exponent of textbook RTRL minus blocked RTRL's"""
    return exponent_of_time("rtrl-block1", gradient) - exponent_of_time("rtrl", gradient)


@target(4, None)
def track_exponent_of_reading_J():
    """exponent of reading J, as a gradient must"""
    found = {n: seconds_to_read_J(n) for n in TIME_SIZES["rtrl"]}
    rates = ", ".join(f"{4e-9 * n * n * (n + 17) / t:.0f}" for n, t in found.items())
    return measure.Figure(measure.exponent(list(found), list(found.values())), f"at {rates} GB/s")


def seconds_to_read_J(n):
    """Return the time of a gradient with one open step: a contraction of J (n, n, n + 17) and little else."""
    job = stream("rtrl", n, block=32)
    job.estimator.run(np.ones((33, 1, 16), np.float32))
    return measure.typical_seconds(lambda: job.estimator.gradient(job.dh, out=job.g))


@target(5, MEMORY_TARGETS.get, estimator=list(FORMS))
def track_exponent_of_memory(estimator):
    """exponent of memory"""
    sizes = MEMORY_SIZES[estimator]
    return measure.exponent(sizes, [measure.memory_bytes(estimator, n) for n in sizes])
