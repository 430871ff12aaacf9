"""Call everything public with random and boundary arguments; what is refused must have changed nothing.

    python -m tests.campaigns.fuzz --calls 100000

The calls are read off the package: the methods and settable properties of its objects, its functions and its
constructors. Arguments are made by name, in `GOOD` and in the subjects: a new argument needs a line there. A call may
return finite numbers, or raise one of `REFUSALS`. Then every array of the object, and every argument, must be bitwise
what it was. A process of its own makes each part of the calls, so that a crash is found too.
"""

import argparse
import copy
import faulthandler
import fractions
import functools
import inspect
import os
import pickle
import secrets
import subprocess
import sys
import tempfile
import traceback
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

import okcore
from okcore import estimators, kron, tasks
from okcore.cells import CELLS
from okcore.estimators import ESTIMATORS
from okcore.optimizers import OPTIMIZERS
from okcore.runs import checkpoint

REFUSALS = ValueError, TypeError, FloatingPointError, RuntimeError, MemoryError, OSError
PART = 5000              # calls per process
CALLS_PER_SUBJECT = 40
MEMORY = 4 * 2**30       # bytes a process may take: what asks for more must fail, not fill the machine
TIMEOUT = 600            # seconds for a part

# Not called: `testing`, `show_config` and `load_runs` take classes and files; `pointwise`, carries and the base classes
# Cell, Task and Readout are called by the package, not by users; `python_docs` and `get_include` take no argument;
# `reference` does not check any, and `cython_kernels` is not Python's.
LEFT_OUT = {
    "testing", "show_config", "load_runs", "pointwise", "Cell", "Task", "Readout", "Optimizer", "python_docs",
    "get_include", "reference", "cython_kernels",
}  # fmt: skip

# After FloatingPointError from these the step may have been taken, or credits dropped, as their docstrings say. The
# parameters must still be as they were, but for those of `fit`, which updates at every step.
PARTIAL = {"step", "accumulate", "flush", "late_gradient", "run", "reset", "partial_fit", "predict", "fit"}
# These change nothing even where they succeed
PURE = {
    "gradient", "influence", "clone", "state_dict", "get state", "get stats", "pickle", "deepcopy", "evaluate_bits",
    "bits", "loss", "outputs", "check_targets", "save",
}  # fmt: skip


class Failure(Exception):
    """A call that did what it should not."""


# ---- bad arguments ---------------------------------------------------------------------------------------------------

JUNK = [
    None, True, False, 0, 1, 2, -1, 3.5, 2**31 - 1, 2**31, 2**63, 2**64, -(2**63), 10**400, fractions.Fraction(1, 3),
    fractions.Fraction(10**400), np.nan, np.inf, -np.inf, 1e308, -1e308, 1e-320, 0.0, -0.0, 1j, "", "ok", "nonsense",
    "float32", b"", b"bytes\0", bytearray(b"to be"), [], (), {}, {"x": 1}, {1: 2}, set(), [1.0, [2.0]], [[0, 1]],
    range(3), slice(None), ..., int, np.float32, np.dtype("f"), np.float32(np.nan), np.float64(2), np.int64(3),
    np.uint64(2**63), np.array(3), np.array(None), np.array("text"), np.datetime64("NaT"), np.zeros(0, "f"),
    np.zeros((0, 0)), np.zeros((2, 0, 3), "f"), np.longdouble(1), np.clongdouble(1j), np.zeros(3, "V8"),
    np.ma.masked, np.ma.masked_array([1.0], [True]), np.ones(2, [("a", "f4")]), np.array(["a", "b"]), object(),
]  # fmt: skip


def strided(a):
    """Return equal values with gaps between them."""
    wide = np.repeat(a, 2, axis=-1) if a.ndim else a
    return wide[..., ::2] if a.ndim else wide


def misaligned(a):
    """Return equal values at an odd address."""
    room = np.empty(a.nbytes + 1, np.uint8)[1:]
    room[...] = np.frombuffer(a.tobytes(), np.uint8)
    return room.view(a.dtype).reshape(a.shape)


def read_only(a):
    a = a.copy()
    a.flags.writeable = False
    return a


def filled(value):
    """Return a function that puts `value` somewhere into an array."""

    def fill(a, rng):
        a = a.copy()
        if a.size and a.dtype.kind in "fiu":
            with np.errstate(all="ignore"):
                a.flat[rng.integers(a.size)] = np.array(value).astype(a.dtype)
        return a

    return fill


def scaled(factor):
    def scale(a, rng):
        with np.errstate(all="ignore"):
            return (a * factor).astype(a.dtype)

    return scale


# Other arrays in place of a good one; the first few hold the same values in another layout
LAYOUTS = [strided, misaligned, read_only, np.asfortranarray, lambda a: a[::-1][::-1] if a.ndim else a, copy.copy]
CHANGES = [
    *(lambda a, rng, layout=layout: layout(a) for layout in LAYOUTS),
    *map(filled, (np.nan, np.inf, -np.inf, 1e300, 3.4e38, -3.4e38, 1e-320, -1, 2**31 - 1, -(2**31))),
    *map(scaled, (0, -1, 1e30, 1e38, 1e300, 1e-30)),
    *(lambda a, rng, t=t: a.astype(t) for t in ("f2", "f4", "f8", "g", "i4", "i8", "u1", "?", "O", "U8")),
    *(lambda a, rng, t=t: a.astype(a.dtype.newbyteorder(t)) for t in "<>"),
    lambda a, rng: a.astype("F") * (1 + 1j),
    lambda a, rng: a[..., None], lambda a, rng: a[None], lambda a, rng: a.T, lambda a, rng: a.ravel(),
    lambda a, rng: a[:0], lambda a, rng: a[..., :0] if a.ndim else a, lambda a, rng: a[:-1],
    lambda a, rng: a[0] if len(a) else a, lambda a, rng: np.concatenate([a, a]),
    lambda a, rng: np.broadcast_to(a.ravel()[:1], a.shape) if a.size else a,
    lambda a, rng: a.tolist(), lambda a, rng: np.ma.masked_array(a), lambda a, rng: a.view(np.recarray),
]  # fmt: skip


def spoil(rng, value):
    """Return something else in place of a good argument."""
    if isinstance(value, np.ndarray) and value.ndim and rng.random() < 0.75:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                return CHANGES[rng.integers(len(CHANGES))](value, rng)
            except (ValueError, TypeError, OverflowError):
                pass
    if isinstance(value, dict) and value and rng.random() < 0.8:
        value = dict(value)
        names = list(value)
        name = names[rng.integers(len(names))]
        kind = rng.random()
        if kind < 0.1:
            del value[name]
        elif kind < 0.2:
            value["spam"] = 1
        else:
            value[name] = spoil(rng, value[name])
        return value
    if isinstance(value, tuple) and value and rng.random() < 0.7:
        where = rng.integers(len(value))
        return (*value[:where], spoil(rng, value[where]), *value[where + 1 :])
    junk = JUNK[rng.integers(len(JUNK))]
    return copy.copy(junk) if isinstance(junk, (np.ndarray, dict, list)) else junk


# ---- subjects: something to call, what its state is, and good arguments by name --------------------------------------


def public(thing):
    """Return {name: callable} of the methods and properties of an object."""
    calls = {}
    for name in dir(type(thing)):
        attribute = getattr(type(thing), name)
        if name in LEFT_OUT or (name.startswith("_") and name != "__next__"):
            continue
        if isinstance(attribute, property):
            calls[f"get {name}"] = named(functools.partial(getattr, thing, name))
            if attribute.fset:
                calls[f"set {name}"] = named(lambda value, name=name: setattr(thing, name, value), value=name)
        elif callable(attribute) and not inspect.isclass(attribute):
            calls[name] = getattr(thing, name)
    return calls


def copies(thing, state):
    """Return the calls that copy an object, which must come out the same."""

    def same(twin):
        if not equal(state(twin), state(thing)):
            raise Failure("the copy is another")

    def by_pickle():
        same(pickle.loads(pickle.dumps(thing)))

    def by_deepcopy():
        same(copy.deepcopy(thing))

    return {"pickle": by_pickle, "deepcopy": by_deepcopy}


def parameters_of(call):
    """Return [(name, has a default)] of a call."""
    if hasattr(call, "parameters"):
        return [(name, False) for name in call.parameters]
    return [
        (name, p.default is not p.empty)
        for name, p in inspect.signature(call).parameters.items()
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)
    ]


class Subject:
    """A thing to call: `calls`, good arguments by name, and what must not change."""

    def __init__(self, rng):
        self.rng = rng
        self.dtype = np.dtype(("f4", "f8")[rng.integers(2)])
        self.B, self.v, self.n, self.T, self.n_out = (int(rng.integers(1, 4)) for _ in range(5))
        self.good, self.calls, self.spoiled = {}, {}, False
        self.make()

    def state(self):
        """Return all that must not change, flat."""
        return {}

    def parameters(self):
        """Return what only optimizers and users change."""
        return {}

    def floats(self, *shape, scale=1.0):
        return (scale * self.rng.normal(size=shape)).astype(self.dtype)

    def mask(self, *shape):
        return self.rng.random(shape) < 0.3

    def inputs(self, *lead):
        if self.rng.random() < 0.5:
            return self.rng.integers(self.v, size=(*lead, self.B))
        return self.floats(*lead, self.B, self.v)

    def new_cell(self):
        cell = tuple(CELLS.values())[self.rng.integers(len(CELLS))]
        return cell(self.v, self.n, dtype=self.dtype, rng=int(self.rng.integers(99)))

    def new_estimator(self, cell):
        names = tuple(ESTIMATORS)
        options = {"rank": int(self.rng.integers(1, 4)), "block": int(self.rng.integers(1, 5)), "batch": self.B}
        options |= {"threads": int(self.rng.integers(1, 3)), "update_every": 1}
        return ESTIMATORS[names[self.rng.integers(len(names))]].from_options(cell, options, int(self.rng.integers(99)))

    def new_readout(self):
        make = (okcore.SoftmaxReadout, okcore.LinearReadout)[self.rng.integers(2)]
        return make(self.n, self.n_out, dtype=self.dtype, rng=int(self.rng.integers(99)))

    def new_optimizer(self):
        return tuple(OPTIMIZERS.values())[self.rng.integers(len(OPTIMIZERS))](10.0 ** self.rng.integers(-3, 1))

    def targets(self, readout):
        if isinstance(readout, okcore.SoftmaxReadout):
            return self.rng.integers(self.n_out, size=self.B)
        return self.floats(self.B, self.n_out)


class AnEstimator(Subject):
    """A cell and an estimator in the middle of a run."""

    def make(self):
        self.cell = self.new_cell()
        self.estimator = e = self.new_estimator(self.cell)
        self.good = {
            "x": lambda: self.inputs(), "reset": lambda: self.mask(self.B), "mask": lambda: self.mask(self.B),
            "dh": lambda: self.floats(self.B, self.n), "xs": lambda: self.inputs(self.T),
            "dhs": lambda: self.floats(self.T, self.B, self.n), "resets": lambda: self.mask(self.T, self.B),
            "theta": lambda: self.floats(*self.cell.theta.shape, scale=10.0 ** self.rng.integers(-2, 3)),
            "saved": e.state_dict, "lane": lambda: int(self.rng.integers(self.B)),
            "new_state": lambda: self.floats(self.B, self.cell.state_size),
            "scale": lambda: 10.0 ** self.rng.integers(-3, 39),
            "on_overflow": lambda: ("raise", "forget")[self.rng.integers(2)],
            "cell": lambda: self.cell, "rng": lambda: 3,
            "options": lambda: {"rank": 2, "block": 2, "batch": 2, "threads": 1, "update_every": 1},
            "first_lane": lambda: int(self.rng.integers(3)), "per_lane": lambda: bool(self.rng.integers(2)),
            "states": lambda: [e.state_dict()], "state": e.state_dict, "first": lambda: 0, "count": lambda: 1,
        }  # fmt: skip

        def write_theta(scale):
            if not isinstance(scale, float):
                raise TypeError("only numbers are written")
            with np.errstate(all="ignore"):
                self.cell.theta[...] = scale if self.rng.random() < 0.1 else self.floats(*self.cell.theta.shape)
                self.cell.theta[self.rng.integers(len(self.cell.theta))] *= self.dtype.type(scale)

        calls = public(e) | public(self.cell) | copies(e, self.state_of)
        calls["set state"] = named(lambda value: setattr(e, "state", value), value="new_state")
        calls["set on_overflow"] = named(lambda value: setattr(e, "on_overflow", value), value="on_overflow")
        calls["load_state_dict"] = named(e.load_state_dict, state="saved")
        self.calls = calls | {"write theta": write_theta}

    out = {
        "step": lambda s: s.floats(s.B, s.n), "gradient": lambda s: s.floats(*s.cell.theta.shape),
        "input_gradient": lambda s: s.floats(s.B, s.v),
    }  # fmt: skip
    out["flush"] = out["late_gradient"] = out["gradient"]

    def state_of(self, estimator):
        return estimator.state_dict() | {"theta": estimator.cell.theta.copy()}

    def state(self):
        return self.state_of(self.estimator)

    def parameters(self):
        return {"theta": self.cell.theta.copy()}


class ATrainer(Subject):
    """A trainer with all its parts, and a task."""

    def make(self):
        self.cell, self.readout = self.new_cell(), self.new_readout()
        self.estimator, self.optimizer = self.new_estimator(self.cell), self.new_optimizer()
        clip, every = (None, 1.0)[self.rng.integers(2)], int(self.rng.integers(1, 4))
        self.trainer = t = okcore.OnlineTrainer(
            self.cell, self.estimator, self.readout, self.optimizer, clip=clip, update_every=every
        )
        self.folder = Path(tempfile.gettempdir()) / f"okcore-fuzz-{os.getpid()}"
        self.folder.mkdir(exist_ok=True)

        class Stream(tasks.Task):
            def __next__(stream):
                return self.inputs(), self.targets(self.readout), self.mask(self.B)

        symbols = min(self.v, self.n_out)
        self.good = {
            "x": lambda: self.inputs(), "y": lambda: self.targets(self.readout), "reset": lambda: self.mask(self.B),
            "task": Stream, "steps": lambda: int(self.rng.integers(4)), "progress": lambda: False,
            "callback": lambda: lambda trainer, loss: self.rng.random() < 0.2, "chunk": lambda: 2,
            "symbols": lambda: self.rng.integers(symbols, size=4), "saved": t.state_dict,
            "path": lambda: self.folder / "checkpoint.npz",
        }  # fmt: skip
        t.save(self.folder / "checkpoint.npz")
        self.calls = public(t) | copies(t, self.state_of)
        self.calls["load_state_dict"] = named(self.load, state="saved")
        for name in ("save", "load"):  # a file's name from here on, so that junk is not written into this folder
            self.calls[name] = named(functools.partial(self.file, name), path="path")

    def load(self, state):
        if isinstance(state, dict):  # spoil a group as often as the whole
            groups = [name for name, group in state.items() if isinstance(group, dict)]
            if groups and self.rng.random() < 0.5:
                name = groups[self.rng.integers(len(groups))]
                state = state | {name: spoil(self.rng, state[name])}
        self.trainer.load_state_dict(state)

    def file(self, name, path):
        if isinstance(path, (str, bytes, bytearray, int)):  # descriptors and the working folder are this process's own
            raise TypeError("not tried")
        getattr(self.trainer, name)(path)

    def state_of(self, trainer):
        return checkpoint.flatten(trainer.state_dict())

    def state(self):
        return self.state_of(self.trainer)

    def parameters(self):
        state = self.trainer.state_dict()
        names = "theta", "weights"
        return {name: state["trainer"][name] for name in names} | state["optimizer"]


class AReadout(Subject):
    """A readout by itself."""

    def make(self):
        self.readout = r = self.new_readout()
        self.good = {
            "h": lambda: self.floats(self.B, self.n), "y": lambda: self.targets(r), "batch_size": lambda: self.B
        }  # fmt: skip
        self.calls = public(r) | copies(r, lambda readout: {"weights": readout.weights.copy()})

    def state(self):
        return {"weights": self.readout.weights.copy()}


class AnOptimizer(Subject):
    """An optimizer, with a parameter of its own."""

    def make(self):
        self.optimizer = o = self.new_optimizer()
        self.theta = {name: self.floats(3, 2) for name in "ab"}
        self.good = {
            "name": lambda: ("a", "b")[self.rng.integers(2)], "parameter": lambda: self.theta["a"],
            "gradient": lambda: self.floats(3, 2, scale=10.0 ** self.rng.integers(-3, 3)),
            "updates": lambda: {name: (array, self.floats(3, 2)) for name, array in self.theta.items()},
            "saved": o.state_dict, "parameters": lambda: dict(self.theta),
        }  # fmt: skip
        self.calls = public(o) | copies(o, lambda optimizer: optimizer.state_dict())
        self.calls["load_state_dict"] = named(o.load_state_dict, state="saved", parameters="parameters")

    def state(self):
        return self.optimizer.state_dict() | {name: array.copy() for name, array in self.theta.items()}


class ATask(Subject):
    """A task."""

    def make(self):
        names = [name for name in tasks.__all__ if inspect.isclass(getattr(tasks, name)) and name not in LEFT_OUT]
        make = getattr(tasks, names[self.rng.integers(len(names))])
        given = {name: CONSTRUCTOR[name](self) for name, default in parameters_of(make) if not default}
        self.task = t = make(**given)
        self.good = {"loss_bits": lambda: self.rng.random(), "saved": t.state_dict}
        of_runs = "resolve", "from_options", "evaluate", "summary"  # called with options that were resolved
        self.calls = {name: call for name, call in public(t).items() if name not in of_runs}
        self.calls |= copies(t, lambda task: task.state_dict())
        self.calls["load_state_dict"] = named(t.load_state_dict, state="saved")

    def state(self):
        return self.task.state_dict()


class Functions(Subject):
    """The functions on sums of Kronecker products."""

    def make(self):
        S, P, m, N = 2, 3, self.v, int(self.rng.integers(1, 5))
        scale = 10.0 ** self.rng.integers(-20, 20) if self.rng.random() < 0.3 else 1.0
        self.good = {
            "u": lambda: self.floats(N, m, scale=scale), "A": lambda: self.floats(N, S, P, scale=scale),
            "v": lambda: self.floats(S), "H": lambda: self.floats(4, S), "rank": lambda: int(self.rng.integers(1, 5)),
            "rng": lambda: 3, "mixing": lambda: ("signs", "sampling")[self.rng.integers(2)],
            "signs": lambda: np.where(self.mask(N), 1.0, -1.0), "start": lambda: self.rng.random(),
            "tolerance": lambda: (None, 0.1)[self.rng.integers(2)],
        }  # fmt: skip
        self.calls = {name: getattr(kron, name) for name in kron.__all__}


class Forgets(okcore.Carry):
    """The least that a carry can be."""

    def absorb(self, lane, Phi, u, A):
        pass

    def contract(self, delta):
        return np.zeros(self.cell.theta.shape, self.cell.dtype)


# Good arguments of every constructor, by name
CONSTRUCTOR = {
    "n_in": lambda s: s.v, "n_hidden": lambda s: s.n, "n_out": lambda s: s.n_out, "dtype": lambda s: s.dtype,
    "rng": lambda s: (1, None, np.random.SeedSequence(3), np.random.default_rng(3))[s.rng.integers(4)],
    "init": lambda s: ("uniform", "normal", "zeros")[s.rng.integers(3)], "scale": lambda s: 0.1,
    "cell": lambda s: s.cell, "batch_size": lambda s: s.B, "n_threads": lambda s: 2, "update_every": lambda s: 2,
    "block": lambda s: (2, "auto")[s.rng.integers(2)], "horizon": lambda s: 2, "rank": lambda s: 2,
    "copies": lambda s: 2, "mixing": lambda s: "sampling", "tolerance": lambda s: 0.1, "first_lane": lambda s: 1,
    "learning_rate": lambda s: 0.1, "beta1": lambda s: 0.5, "beta2": lambda s: 0.5, "eps": lambda s: 1e-8,
    "estimator": lambda s: s.new_estimator(s.cell), "readout": lambda s: s.new_readout(),
    "optimizer": lambda s: s.new_optimizer(), "clip": lambda s: 1.0, "late_carry": lambda s: bool(s.rng.integers(2)),
    "carry": lambda s: Forgets(s.cell, s.B),
    "delay": lambda s: 2, "values": lambda s: np.sin(np.arange(20.0)), "length": lambda s: 2,
    "source": lambda s: b"to be or not to be", "valid": lambda s: b"to be",
    "reset_every": lambda s: 3,
}  # fmt: skip


class Constructors(Subject):
    """Everything public that is made."""

    def make(self):
        self.cell = self.new_cell()
        self.good = {name: functools.partial(make, self) for name, make in CONSTRUCTOR.items()}
        places = (okcore, okcore.__all__), (tasks, tasks.__all__), (estimators, estimators.__all__)
        self.calls = {
            name: getattr(place, name)
            for place, names in places
            for name in names
            if name not in LEFT_OUT and inspect.isclass(getattr(place, name))
        }

    def state(self):
        return {"theta": self.cell.theta.copy()}


SUBJECTS = [  # estimators and trainers more often
    AnEstimator, AnEstimator, AnEstimator, ATrainer, ATrainer, AReadout, AnOptimizer, ATask, Functions, Constructors,
]  # fmt: skip


# ---- a call ----------------------------------------------------------------------------------------------------------


def named(call, **names):
    """Return `call` with its arguments made under other names: {argument: good value}."""

    def renamed(**arguments):
        return call(**{argument: arguments[good] for argument, good in names.items()})

    renamed.parameters = tuple(names.values())
    return renamed


def equal(a, b):
    """Compare two flat states to the last bit."""
    return a.keys() == b.keys() and all(
        np.asarray(a[name]).dtype == np.asarray(b[name]).dtype
        and np.asarray(a[name]).shape == np.asarray(b[name]).shape
        and np.asarray(a[name]).tobytes() == np.asarray(b[name]).tobytes()
        for name in a
    )


def difference(a, b):
    """Name what differs between two flat states."""
    return sorted(name for name in a.keys() | b.keys() if not equal({0: a.get(name)}, {0: b.get(name)}))


def arrays_in(value):
    """Yield every array and float inside a value."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from arrays_in(part)
    elif isinstance(value, (np.ndarray, float, np.floating)):
        yield np.asarray(value)


def finite(value):
    """Return whether all floats inside a value are."""
    return all(np.isfinite(array).all() for array in arrays_in(value) if array.dtype.kind in "fc")


def bits(value):
    """Return a value's arrays as bytes, for a comparison."""
    return [array.tobytes() for array in arrays_in(value) if array.dtype.kind != "O"]


def drawn(subject, name):
    """Return the arguments of a call: most of them good."""
    rng, arguments, call = subject.rng, {}, subject.calls[name]
    for parameter, optional in parameters_of(call):
        if optional and rng.random() < 0.5:
            continue
        if parameter == "out":
            good = subject.out[name](subject)
            if rng.random() < 0.1:  # the parameters themselves, or another argument
                others = [subject.cell.theta, *(a for a in arguments.values() if isinstance(a, np.ndarray))]
                good = others[rng.integers(len(others))]
        else:
            good = subject.good[parameter]()
        bad = spoil(rng, good) if rng.random() < 0.25 else good
        arguments[parameter] = good if parameter == "callback" and callable(bad) else bad  # what it raises is its own
    return arguments


def check(subject, name, arguments):
    """Make a call and raise Failure if it did what it should not; return the kind of what it raised, or None."""
    before, parameters = subject.state(), subject.parameters()
    own = {key: value for key, value in arguments.items() if key not in ("out", "parameter", "updates")}
    out = arguments.get("out")
    if isinstance(out, np.ndarray):
        own = {
            key: value for key, value in own.items()
            if not (isinstance(value, np.ndarray) and np.may_share_memory(out, value))
        }  # fmt: skip
    given, written = bits(own), bits(out)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            result, error = subject.calls[name](**arguments), None
        except REFUSALS as caught:
            result, error = None, caught
    after = subject.state()
    if bits(own) != given:
        raise Failure("an argument was written into")
    into_parameters = isinstance(out, np.ndarray) and any(
        np.may_share_memory(out, a) for a in vars(subject).values() if isinstance(a, np.ndarray)
    )
    into_parameters |= isinstance(out, np.ndarray) and hasattr(subject, "cell") and np.may_share_memory(
        out, subject.cell.theta
    )
    if error is None:
        # Users may write into theta what they like, and a state that is cut or joined is checked when it is loaded
        if not finite(result) and name not in ("get theta", "take_lanes", "join_lanes"):
            raise Failure("a result that is not finite, and no error")
        if name in PURE and not into_parameters and not equal(before, after):
            raise Failure(f"it changed {difference(before, after)}")
    elif isinstance(error, FloatingPointError) and (name in PARTIAL or into_parameters):
        if name != "fit" and not into_parameters and not equal(parameters, subject.parameters()):
            raise Failure(f"refused ({error!r}), it moved {difference(parameters, subject.parameters())}") from error
    elif not equal(before, after):
        raise Failure(f"refused ({error!r}), it changed {difference(before, after)}") from error
    elif not isinstance(error, FloatingPointError) and bits(out) != written:
        raise Failure(f"refused ({error!r}), it wrote into out") from error
    # A theta that overflows is the user's. A unit may saturate, so that the step is taken, with diagonals that are not
    # finite; the gradient then says so.
    subject.spoiled |= any(not np.abs(value).max() < 1e30 for key, value in after.items() if key.endswith("theta"))
    bad = [key for key, value in after.items() if not finite(value)]
    if bad and not subject.spoiled:
        raise Failure(f"the state is not finite in {bad}")
    return type(error).__name__ if error is not None else None


def spell(subject, name, arguments):
    """Describe a call."""
    with np.printoptions(threshold=20, precision=4):
        words = ", ".join(f"{key}={value!r}"[:300] for key, value in arguments.items())
    things = [repr(thing) for thing in (getattr(subject, key, None) for key in ("estimator", "cell")) if thing]
    return f"{type(subject).__name__} {subject.dtype} {things[:1]}: {name}({words})"


def part(calls, seed, log=None):
    """Make some calls; return ({(subject, call): {outcome: number}}, failures)."""
    rng, counts, failures = np.random.default_rng(seed), {}, {}
    subject, left = None, 0
    for number in range(calls):
        if left == 0:
            subject, left = SUBJECTS[rng.integers(len(SUBJECTS))](rng), CALLS_PER_SUBJECT
        left -= 1
        names = list(subject.calls)
        name = names[rng.integers(len(names))]
        arguments = drawn(subject, name)
        if log is not None:
            log.seek(0)
            log.truncate()
            log.write(f"call {number}: {spell(subject, name, arguments)}")
            log.flush()
        try:
            said = spell(subject, name, arguments)
            outcome = check(subject, name, arguments)
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind = (type(subject).__name__, name, type(error).__name__, where.lineno)
            cause = "".join(traceback.format_exception(error))
            failures.setdefault(kind, f"seed {seed}, call {number}: {said}\n{cause}")
            outcome, left = "FAILURE", 0
        row = counts.setdefault((type(subject).__name__, name), {})
        row[outcome or "done"] = row.get(outcome or "done", 0) + 1
    return counts, list(failures.values())


def limit_memory():
    """Make what asks for too much fail (the address sanitizer needs all addresses; it has a limit of its own)."""
    if "libasan" not in os.environ.get("LD_PRELOAD", ""):
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))


# ---- the campaign ----------------------------------------------------------------------------------------------------


def in_a_process(calls, seed):
    """Make a part in a process of its own; return (counts, failures)."""
    with (
        tempfile.NamedTemporaryFile("w+") as log, tempfile.NamedTemporaryFile() as result,
        tempfile.TemporaryDirectory(prefix="okcore-fuzz-") as scratch,
    ):  # fmt: skip
        words = [sys.executable, "-m", "tests.campaigns.fuzz", "--part", log.name, result.name]
        words += ["--calls", str(calls), "--seed", str(seed)]
        try:
            done = subprocess.run(
                words, capture_output=True, text=True, timeout=TIMEOUT, env=os.environ | {"TMPDIR": scratch}
            )
        except subprocess.TimeoutExpired:
            return {}, [f"seed {seed}: no end after {TIMEOUT} s in {Path(log.name).read_text()}"]
        if done.returncode != 0:
            last = Path(log.name).read_text()
            return {}, [f"seed {seed}: the process ended with {done.returncode} in {last}\n{done.stderr[-5000:]}"]
        return pickle.loads(Path(result.name).read_bytes())


def campaign(calls, seed, jobs=2):
    """Make `calls` calls in processes of PART each, with seeds from `seed` on; return (counts, failures)."""
    sizes = [min(PART, calls - start) for start in range(0, calls, PART)]
    counts, failures = {}, []
    with ThreadPoolExecutor(jobs) as pool:
        for found, failed in pool.map(in_a_process, sizes, range(seed, seed + len(sizes))):
            for key, row in found.items():
                total = counts.setdefault(key, {})
                for outcome, number in row.items():
                    total[outcome] = total.get(outcome, 0) + number
            failures += failed
    return counts, failures


def main():
    """Run the campaign, print a table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--part", nargs=2, metavar=("LOG", "RESULT"), help="for the campaign itself")
    arguments = parser.parse_args()
    if arguments.part is not None:
        faulthandler.enable()
        limit_memory()
        with open(arguments.part[0], "w") as log:
            found = part(arguments.calls, arguments.seed, log)
        Path(arguments.part[1]).write_bytes(pickle.dumps(found))
        return 0
    seed = secrets.randbelow(2**32) if arguments.seed is None else arguments.seed
    print(f"seed {seed}", flush=True)
    counts, failures = campaign(arguments.calls, seed, arguments.jobs)
    for failure in failures:
        print(failure, file=sys.stderr)
    outcomes = sorted({outcome for row in counts.values() for outcome in row})
    print(f"{'subject':<13}{'call':<18}" + "".join(f"{name.replace('Error', ''):>15}" for name in outcomes))
    for (subject, name), row in sorted(counts.items()):
        print(f"{subject:<13}{name:<18}" + "".join(f"{row.get(outcome, 0):>15}" for outcome in outcomes))
    total = sum(sum(row.values()) for row in counts.values())
    print(f"{total} calls, {len(failures)} kinds of failures; seed {seed}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
