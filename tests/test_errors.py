"""Bad input is refused by every public call: the error names the argument, and nothing has changed.

The tables below are data. A case is (call, error, word): `call(c)` must raise `error` with `word` in its message, where
`c` is what the calls of a section work on. `argument` and `keyword` make most cases, from lists of bad values.
"""

import re
import subprocess
import sys
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

import okcore
from okcore import estimators, kron, tasks
from okcore.runs import checkpoint
from tests.conftest import CELLS, ESTIMATORS, arguments_of, maker
from tests.helpers import assert_same_state, flat_state, other, spoil

B, V, N, T = 2, 3, 4, 5  # lanes, inputs, hidden units, steps of run
NAN, INF = np.nan, np.inf
TYPE_OR_VALUE = TypeError, ValueError
RAGGED = [[1.0], [1.0, 2.0]]


# ---- bad values: {what is wrong: (how to make it from a good one, the error)} --------------------


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def without(table, name):
    return {key: value for key, value in table.items() if key != name}


def spell(index):
    """Spell an index as it is written: [0], [:1], [..., :2]."""

    def part(item):
        if isinstance(item, slice):
            return ":".join("" if end is None else str(end) for end in (item.start, item.stop))
        return "..." if item is Ellipsis else str(item)

    return f"[{', '.join(map(part, index if isinstance(index, tuple) else (index,)))}]"


def shapes(*indices):
    """Parts of a good array, or one with an axis more: not of its shape."""
    return {spell(index): (lambda good, index=index: good[index], ValueError) for index in indices}


def values(error, *bad):
    """Values that are bad whatever a good one is."""
    return {repr(value): (lambda _, value=value: value, error) for value in bad}


NOT_FINITE = {
    "with a NaN": (lambda good: spoil(good, NAN), ValueError),
    "with an Inf": (lambda good: spoil(good, INF), ValueError),
    "with a -Inf": (lambda good: spoil(good, -INF), ValueError),
}
OTHER_FLOATS = {
    "in the other dtype": (other, TypeError),
    "in float16": (lambda good: good.astype(np.float16), TypeError),
}
NO_FLOATS = {
    "as integers": (lambda good: np.ones(good.shape, int), TypeError),
    "complex": (lambda good: good.astype(complex), TypeError),
    "bool": (lambda good: good > 0, TypeError),
    **values(TypeError, None, "nonsense", RAGGED),
}
NO_ARRAYS = values(TYPE_OR_VALUE, None, "nonsense")  # where the shape is looked at before the dtype
FLOATS = {**OTHER_FLOATS, **NO_FLOATS, **NOT_FINITE}
GRADIENTS = FLOATS | {name: (make, FloatingPointError) for name, (make, _) in NOT_FINITE.items()}
INPUTS = without(FLOATS, "as integers")  # those would be symbols
MASKS = {
    "as integers": (lambda good: good.astype(int), TypeError),
    "as floats": (lambda good: good.astype(np.float32), TypeError),
    **values(TypeError, "nonsense"),
}
OUTPUTS = {
    "a row short": (lambda good: good[:-1].copy(), ValueError),
    "one row": (lambda good: good[0].copy(), ValueError),
    "in the other dtype": (other, TypeError),
    "read-only": (read_only, ValueError),
    "strided": (lambda good: np.repeat(good, 2, axis=-1)[:, ::2], ValueError),
    "a list": (lambda good: good.tolist(), TypeError),
}
INTEGERS = values(ValueError, 0, -1) | values(TypeError, True, np.True_, 1.5, NAN, [2], None)
REALS = values(ValueError, -1, NAN, INF, 10**400) | values(TypeError, True, "1e-3", None, [1.0])
POSITIVE = values(ValueError, 0) | REALS
SEEDS = values(ValueError, -1) | values(TypeError, 0.5, "seed", [1.0])
STREAMS = {  # what no PCG64 stream's position holds: with an increment of 0 a draw may never end
    "of zeros": (np.zeros_like, ValueError),
    "with an even increment": (lambda rng: rng - np.uint64([0, 0, 0, 1, 0, 0]), ValueError),
    "with a flag of 2": (lambda rng: rng | np.uint64([0, 0, 0, 0, 2, 0]), ValueError),
    "with a half word beyond 32 bits": (lambda rng: spoil(rng, 2**32), ValueError),
    "as int64": (lambda rng: rng.astype(np.int64), TypeError),
}
DTYPE = values(TypeError, int, "int32", np.float16, ">f4", "nonsense", None)


# ---- cases ---------------------------------------------------------------------------------------


def case(title, call, error, word):
    return pytest.param(call, error, word, id=title)


def argument(title, word, call, *bad, like=None):
    """A case for every bad value, `call(c, value)`, made from the good one: `like(c)` or what `c` has by that name."""

    def made(c, make):
        good = like(c) if callable(like) else getattr(c, like or word, None)
        return call(c, make(good))

    kinds = {name: row for table in bad for name, row in table.items()}
    return [
        case(f"{title}({word}) {name}", partial(made, make=make), error, word) for name, (make, error) in kinds.items()
    ]


def keyword(make, word, *bad):
    """One case for every bad value: `make(word=value)`, where `make` is a partial call of something public."""
    return argument(make.func.__name__, word, lambda c, value: make(**{word: value}), *bad)


def entry(target, name, *bad):
    """One case for every bad value of an entry of what `c.target.load_state_dict` is given, and one without it."""

    def saved(c):
        return getattr(c, target).state_dict()

    def load(c, value):
        getattr(c, target).load_state_dict(saved(c) | {name: value})

    def load_without(c):
        getattr(c, target).load_state_dict(without(saved(c), name))

    def good(c):
        value = saved(c)[name]
        return value if np.size(value) else pytest.skip(f"{name} is empty: a local rule keeps no tape")

    title = f"{target}.load_state_dict"
    return [
        *argument(title, name, load, *bad, like=good),
        case(f"{title} without {name}", load_without, ValueError, name),
    ]


def states(target, *bad):
    """One case for every thing that is no state of `c.target`."""

    def load(c, state):
        getattr(c, target).load_state_dict(state)

    return argument(f"{target}.load_state_dict", "state", load, *bad)


def refuses(call, c, error, word):
    with pytest.raises(error, match=rf"(?s)\b{re.escape(word)}\b"):
        call(c)


# ---- sizes: every integer argument of every constructor ------------------------------------------

CELL = okcore.RNN(V, N, rng=0)
HINTS = "n_threads", "update_every"


def options_of(name):
    """Return the integer arguments that only this estimator has."""
    return [argument for argument, _ in estimators.ESTIMATORS[name].options.values() if argument != "tolerance"]


SIZED = {
    **{name: (partial(make, n_in=3, n_hidden=4), ("n_in", "n_hidden")) for name, make in CELLS.items()},
    **{
        name: (partial(cls, CELL, **dict.fromkeys(options_of(name), 2)), (*options_of(name), "batch_size", *HINTS))
        for name, cls in estimators.ESTIMATORS.items()
    },
    **{
        make.__name__: (partial(make, n_hidden=4, n_out=3), ("n_hidden", "n_out"))
        for make in (okcore.SoftmaxReadout, okcore.LinearReadout)
    },
    "Copy": (partial(tasks.Copy, batch_size=2), ("batch_size", "length")),
    "Text": (partial(tasks.Text, b"to be or not to be", batch_size=2), ("batch_size", "reset_every")),
}
SIZES = [row for make, words in SIZED.values() for word in words for row in keyword(make, word, INTEGERS)]
# What is asked of memory: counts beyond a C int are refused before anything is allocated
ALLOCATED = [
    row
    for name in (*CELLS, *ESTIMATORS)
    for word in SIZED[name][1]
    if word not in HINTS
    for row in keyword(SIZED[name][0], word, values(ValueError, 2**40))
]


@pytest.mark.parametrize("call, error, word", SIZES + ALLOCATED)
def test_sizes(call, error, word):
    refuses(call, None, error, word)


# ---- everything that needs no estimator in the middle of a run -----------------------------------


def cell_cases(make):
    new = partial(make, 3, 4)
    return [
        *keyword(new, "dtype", DTYPE),
        *keyword(new, "init", values(ValueError, "xavier", None)),
        *keyword(partial(make, 3, 4, init="normal"), "scale", REALS),
        *keyword(new, "rng", SEEDS),
    ]


def estimator_cases(name):
    cls = estimators.ESTIMATORS[name]
    new = partial(cls, CELL, **dict.fromkeys(options_of(name), 2))
    arguments = arguments_of(ESTIMATORS[name])
    rest = dict.fromkeys(options_of(name), 2)
    cases = argument(
        cls.__name__, "cell", lambda c, value: cls(value, **rest),
        values(TypeError, None, "rnn", okcore.RNN, 7), {"theta": (lambda cell: cell.theta, TypeError)},
    )  # fmt: skip
    if "block" in arguments:
        cases += keyword(new, "block", values(TYPE_OR_VALUE, "fast"))
    small = {"rank": 2, "block": 2, "batch": 2, "threads": 1, "update_every": 1}
    cases += argument(f"{cls.__name__}.from_options", "options", lambda c, options: cls.from_options(CELL, options),
                      values(TypeError, None, 7, [1]), values(ValueError, {}, without(small, "batch")))
    if "mixing" in arguments:
        cases += keyword(new, "mixing", values(ValueError, "noise", None))
    if "tolerance" in arguments:
        cases += keyword(new, "tolerance", without(REALS, "None"))
    if "rng" in arguments:
        cases += keyword(new, "rng", SEEDS)
    return cases


def terms_cases(title, call):
    """Cases for u and A wherever they come in a sum of Kronecker products."""
    return [
        *argument(title, "u", lambda c, u: call(c, u, c.A),
                  FLOATS, NO_ARRAYS, shapes(0, np.s_[:-1], np.s_[:, :0])),
        *argument(
            title, "A", lambda c, A: call(c, c.u, A),
            without(OTHER_FLOATS, "in the other dtype"), NO_FLOATS, NOT_FINITE, shapes(0, np.s_[:, :0]),
        ),
        case(f"{title} no terms", lambda c: call(c, c.u[:0], c.A[:0]), ValueError, "A"),
    ]  # fmt: skip


KRON = [
    *terms_cases("to_dense", lambda c, u, A: kron.to_dense(u, A)),
    *terms_cases("contract", lambda c, u, A: kron.contract(c.v, u, A)),
    *terms_cases("reduce", lambda c, u, A: kron.reduce(u, A, 2)),
    *argument(
        "contract", "v", lambda c, v: kron.contract(v, c.u, c.A),
        FLOATS, shapes(np.s_[:3], None), values(TypeError, [1, 2, 3, 4]),
    ),
    *argument("left_multiply", "H", lambda c, H: kron.left_multiply(H, c.A),
              FLOATS, NO_ARRAYS, shapes(0, np.s_[:0], np.s_[:, :3])),
    *argument("left_multiply", "A", lambda c, A: kron.left_multiply(c.H, A), NO_FLOATS, NOT_FINITE, shapes(0)),
    *argument("reduce", "rank", lambda c, rank: kron.reduce(c.u, c.A, rank), INTEGERS, values(TypeError, 2.0)),
    *argument("reduce", "rng", lambda c, rng: kron.reduce(c.u, c.A, 2, rng=rng), SEEDS),
    *argument("reduce", "mixing", lambda c, mixing: kron.reduce(c.u, c.A, 2, mixing=mixing),
              values(ValueError, "noise", None)),
    *argument("reduce", "tolerance", lambda c, tolerance: kron.reduce(c.u, c.A, 2, tolerance=tolerance),
              without(REALS, "None")),
    *argument(
        "reduce", "signs", lambda c, signs: kron.reduce(c.u, c.A, 2, signs=signs),
        shapes(np.s_[:4], np.s_[:, None]), NOT_FINITE,
        {"of 0": (np.zeros_like, ValueError)}, values(TYPE_OR_VALUE, "+-+-+", [[1], [1, 2]]),
    ),
    *argument(
        "reduce by sampling", "start", lambda c, start: kron.reduce(c.u, c.A, 2, mixing="sampling", start=start),
        values(ValueError, 1, -0.1, NAN), values(TypeError, "0", True),
    ),
    case("reduce by signs with a start", lambda c: kron.reduce(c.u, c.A, 2, start=0.5), ValueError, "start"),
    case("reduce by sampling with signs", lambda c: kron.reduce(c.u, c.A, 2, mixing="sampling", signs=c.signs),
         ValueError, "signs"),
]  # fmt: skip


def readout_cases(make):
    title, new = make.__name__, partial(make, 4, 3)
    readout = "softmax" if make is okcore.SoftmaxReadout else "linear"
    h = FLOATS | shapes(np.s_[:, :2])
    return [
        *keyword(new, "dtype", DTYPE),
        *keyword(new, "init", values(ValueError, "xavier", None)),
        *keyword(partial(make, 4, 3, init="normal"), "scale", REALS),
        *keyword(new, "rng", SEEDS),
        *argument(f"{title}.predict", "h", lambda c, h: getattr(c, readout).predict(h), h,
                  values(ValueError, np.float32(1))),
        *argument(f"{title}.loss", "h", lambda c, h: getattr(c, readout).loss(h, getattr(c, readout + "_y")), h),
    ]  # fmt: skip


SYMBOLS_OUT_OF_RANGE = values(ValueError, [0, 3], [0, -1])
SYMBOLS = SYMBOLS_OUT_OF_RANGE | values(ValueError, [0], [[0, 1]]) | values(
    TypeError, [0.0, 1.0], [True, False], [[0], [1, 2]], None, "nonsense"
)  # fmt: skip
TARGETS = FLOATS | shapes(np.s_[:1], np.s_[:, :1], 0)
READOUTS = [
    *readout_cases(okcore.SoftmaxReadout),
    *readout_cases(okcore.LinearReadout),
    *argument("SoftmaxReadout.loss", "y", lambda c, y: c.softmax.loss(c.h, y), SYMBOLS),
    *argument("SoftmaxReadout.bits", "y", lambda c, y: c.softmax.bits(c.h, y), SYMBOLS),
    *argument("SoftmaxReadout.bits", "h", lambda c, h: c.softmax.bits(h, [0, 1]), FLOATS),
    *argument("LinearReadout.loss", "y", lambda c, y: c.linear.loss(c.h, y), TARGETS, like="linear_y"),
]

def load_adam(c, state):
    c.adam.load_state_dict(state, {"a": c.h})


OPTIMIZERS = [
    *keyword(partial(okcore.SGD), "learning_rate", POSITIVE),
    *keyword(partial(okcore.Adam), "learning_rate", POSITIVE),
    *keyword(partial(okcore.Adam), "beta1", REALS, values(ValueError, 1, -0.1)),
    *keyword(partial(okcore.Adam), "beta2", REALS, values(ValueError, 1, -0.1)),
    *keyword(partial(okcore.Adam), "eps", POSITIVE),
    *argument("Adam.update", "gradient", lambda c, gradient: c.adam.update("a", c.h.copy(), gradient),
              GRADIENTS, shapes(np.s_[:1]), like="h"),
    *argument("SGD.update", "gradient", lambda c, gradient: c.sgd.update("a", c.h.copy(), gradient),
              GRADIENTS, shapes(np.s_[:1]), like="h"),
    *argument("SGD.update", "parameter", lambda c, parameter: c.sgd.update("a", parameter, c.h),
              {"read-only": (read_only, ValueError)}, like="h"),
    *argument("SGD.update", "name", lambda c, name: c.sgd.update(name, c.h, c.h), values(TypeError, 1, None)),
    *argument("SGD.update_all", "updates", lambda c, updates: c.sgd.update_all(updates),
              values(TypeError, None, 7, {"a": 1}, {"a": (1, 2, 3)})),
    case("SGD.update_all with a read-only parameter after another",
         lambda c: c.sgd.update_all({"a": (c.h, c.h), "b": (read_only(c.h), c.h)}), ValueError, "parameter"),
    *argument("Adam.load_state_dict", "parameters", lambda c, value: c.adam.load_state_dict(c.adam_state, value),
              values(TypeError, None, 1.0)),
    *argument("Adam.load_state_dict", "parameter", lambda c, value: c.adam.load_state_dict(c.adam_state, {"a": value}),
              values(TypeError, None, 1.0, [1.0])),
    *argument("Adam.update", "parameter", lambda c, parameter: c.adam.update("a", parameter, parameter),
              without(OTHER_FLOATS, "in the other dtype"), NO_FLOATS, like="h"),
    *argument("Adam.load_state_dict", "state", load_adam, values(TypeError, None)),
    *argument("Adam.load_state_dict", "optimizer", load_adam, values(ValueError, {}, {"kind": "SGD"})),
    *argument("Adam.load_state_dict", "a.count", lambda c, count: load_adam(c, c.adam_state | {"a.count": count}),
              values(ValueError, -1), values(TypeError, 1.0, True)),
    *argument("Adam.load_state_dict", "a.mean", lambda c, mean: load_adam(c, c.adam_state | {"a.mean": mean}),
              FLOATS, shapes(0), like="h"),
    case("Adam.load_state_dict without a.mean", lambda c: load_adam(c, without(c.adam_state, "a.mean")),
         ValueError, "a.mean"),
]  # fmt: skip

# What is no text to train on; and in a folder with an empty file and a binary one
NO_TEXTS = {
    "a path that is missing": (lambda here: here / "missing.txt", FileNotFoundError),
    "a name that is missing": (lambda here: str(here / "missing.txt"), FileNotFoundError),
    "a folder": (lambda here: here, (FileNotFoundError, ValueError)),
    "an empty file": (lambda here: here / "empty.txt", ValueError),
    "a binary file": (lambda here: here / "binary.txt", ValueError),
    **values(ValueError, b"", b"a", b"to be\0"),
    **values(TypeError, 7),
}
TASKS = [
    *keyword(partial(tasks.Copy, 2), "rng", SEEDS),
    *argument("Copy.observe", "loss_bits", lambda c, loss: c.copy.observe(loss),
              values(ValueError, NAN), values(TypeError, "0.1")),
    *states("copy", values(TypeError, None), values(ValueError, {}), {
        "of a text": (lambda _: a_text().state_dict(), ValueError),
        "of three lanes": (lambda _: tasks.Copy(3).state_dict(), ValueError),
    }),
    *entry("copy", "rng", STREAMS),
    *entry("delay", "rng", STREAMS),
    *argument("Series", "values", lambda c, values: tasks.Series(values, 2), {
        "whose variance overflows": (lambda _: np.linspace(-1e300, 1e300, 30), ValueError),
        "whose end overflows float32": (lambda _: np.r_[np.sin(np.arange(27.0)), 1e300, 0, 0], ValueError),
        "that do not vary": (lambda _: np.ones(30), ValueError),
    }),
    *entry("copy", "length", values(ValueError, 0, 2**31 - 1)),
    *keyword(partial(tasks.Copy, 2), "length", values(ValueError, 2**31 - 1)),
    *entry("copy", "running_loss", values(ValueError, NAN)),
    *entry("copy", "position", {"out of range": (lambda _: np.array([9, 99]), ValueError)}),
    *states("text", values(TypeError, None), {
        "of a copy": (lambda _: tasks.Copy(2, rng=0).state_dict(), ValueError),
        "of another text": (lambda _: tasks.Text(b"another text", 2).state_dict(), ValueError),
    }),
    *entry("text", "position", shapes(np.s_[:1]), {
        "out of range": (lambda _: np.array([1, 99]), ValueError), "as floats": (lambda _: np.ones(2), TypeError),
    }),
    *argument("Text", "source", lambda c, source: tasks.Text(source, 2),
              NO_TEXTS, values(TypeError, None), values(ValueError, b"abc"), like="here"),
    *argument("Text", "valid", lambda c, valid: tasks.Text(b"to be or not", 2, valid=valid), NO_TEXTS, like="here"),
]  # fmt: skip
CALLS = [
    *(row for make in CELLS.values() for row in cell_cases(make)),
    *argument("set", "theta", lambda c, theta: setattr(c.cell, "theta", theta), FLOATS,
              shapes(np.s_[:-1], 0), like=lambda c: c.cell.theta),
    *(row for name in ESTIMATORS for row in estimator_cases(name)),
    *argument("Estimator", "carry", lambda c, carry: okcore.Estimator(CELL, carry, 1), values(TypeError, None), {
        "of another cell": (lambda _: okcore.Carry(okcore.RNN(5, 9), 1), ValueError),
    }),
    *keyword(partial(okcore.Carry, CELL), "batch_size", values(ValueError, 0)),
    *argument("Carry", "cell", lambda c, cell: okcore.Carry(cell, 1), values(TypeError, None, 7, okcore.RNN)),
    *KRON, *READOUTS, *OPTIMIZERS, *TASKS,
]  # fmt: skip


@pytest.fixture
def context(tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.txt").write_bytes(b"\x7fELF\0\1\2\3" * 9)
    c = SimpleNamespace(
        here=tmp_path, cell=okcore.RNN(V, N, rng=0), theta=None,
        u=np.ones((5, 3)), A=np.ones((5, 4, 6)), v=np.ones(4), H=np.ones((4, 4)), signs=np.ones(5),
        softmax=okcore.SoftmaxReadout(N, 3, rng=0), softmax_y=[0, 1],
        linear=okcore.LinearReadout(N, 3, rng=0), linear_y=np.ones((2, 3), np.float32), h=np.ones((2, N), np.float32),
        adam=okcore.Adam(), sgd=okcore.SGD(1), copy=tasks.Copy(2, rng=0), delay=tasks.Delay(2, rng=0),
        text=a_text(),
    )  # fmt: skip
    c.adam_state = {"kind": "Adam", "a.count": 1, "a.mean": c.h, "a.square": c.h}
    next(c.copy)
    return c


def a_text():
    return tasks.Text(b"to be or not to be, that is", 2)


@pytest.mark.parametrize("call, error, word", CALLS)
def test_calls(call, error, word, context):
    def state():
        arrays = {name: getattr(context, name).copy() for name in ("u", "A", "v", "H", "signs", "h", "linear_y")}
        arrays |= {name: getattr(context, name).weights.copy() for name in ("softmax", "linear")}
        owners = {name: getattr(context, name).state_dict() for name in ("adam", "sgd", "copy", "delay", "text")}
        return checkpoint.flatten({"arrays": arrays, "cell": {"theta": context.cell.theta.copy()}} | owners)

    before = state()
    refuses(call, context, error, word)
    assert_same_state(state(), before)


# ---- estimators in the middle of a run -----------------------------------------------------------

LONG = {kind: maker(kind, rank=2, block=3) for kind in ESTIMATORS}


def running(name, dtype="float32", cell=okcore.LSTM):
    """Return an estimator in the middle of a block, with a reset behind it and credits that wait."""
    estimator = LONG[name](cell(V, N, dtype=dtype, rng=1), B)
    rng = np.random.default_rng(2)
    for t in range(5):
        h = estimator.step(rng.normal(size=(B, V)).astype(dtype), reset=np.array([t == 3, False]))
        estimator.accumulate(h)
    return estimator


STEPS = [
    *argument("step", "x", lambda c, x: c.est.step(x),
              INPUTS, shapes(0, np.s_[:1], np.s_[:, :2], None, np.s_[:, :0]),
              SYMBOLS_OUT_OF_RANGE, values(ValueError, [0], [[0, 1]], 0), values(TypeError, [True, False]),
              {"beyond int64": (lambda _: np.array([0, 2**63], np.uint64), ValueError)}),
    *argument("step", "reset", lambda c, reset: c.est.step(c.x, reset),
              MASKS, shapes(np.s_[:1], None), values(ValueError, True)),
    *argument("step", "out", lambda c, out: c.est.step(c.x, out=out), OUTPUTS, like="hidden"),
    *argument("gradient", "dh", lambda c, dh: c.est.gradient(dh),
              FLOATS, shapes(0, np.s_[:1], np.s_[:, :3], None),
              {"twice as wide": (lambda dh: np.tile(dh, 2), ValueError)}),
    *argument("gradient", "out", lambda c, out: c.est.gradient(c.dh, out=out), OUTPUTS, like="theta"),
    *argument("gradient per lane", "out", lambda c, out: c.est.gradient(c.dh, out=out, per_lane=True),
              OUTPUTS, {"summed": (lambda good: good[0], ValueError)}, like="thetas"),
    *argument("gradient", "out", lambda c, out: c.est.gradient(c.dh, out=out),
              {"per lane": (lambda good: good, ValueError)}, like="thetas"),
    *argument("gradient", "per_lane", lambda c, per_lane: c.est.gradient(c.dh, per_lane=per_lane),
              values(TypeError, 1, None, "yes", [True])),
    *argument("input_gradient", "dh", lambda c, dh: c.est.input_gradient(dh),
              FLOATS, shapes(0, np.s_[:1], np.s_[:, :3], None)),
    *argument("input_gradient", "out", lambda c, out: c.est.input_gradient(c.dh, out=out), OUTPUTS, like="x"),
    *argument("accumulate", "dh", lambda c, dh: c.est.accumulate(dh),
              FLOATS, shapes(0, np.s_[:1], np.s_[:, :3], None)),
    *argument("flush", "out", lambda c, out: c.est.flush(out=out), OUTPUTS, like="theta"),
    *argument("run", "xs", lambda c, xs: c.est.run(xs),
              INPUTS, shapes(0, np.s_[:, :1], np.s_[..., :2], None),
              values(ValueError, [[0, 1], [0, 3]], [[0, 1], [-1, 0]], [[0], [1]], [0, 1], 0)),
    *argument("run", "dhs", lambda c, dhs: c.est.run(c.xs, dhs),
              without(FLOATS, "None"),  # no credits at all are allowed
              shapes(np.s_[1:], np.s_[:, :1], np.s_[..., :3], 0)),
    *argument("run", "resets", lambda c, resets: c.est.run(c.xs, c.dhs, resets),
              MASKS, shapes(0, np.s_[1:], np.s_[:, :1])),
    *argument("reset", "mask", lambda c, mask: c.est.reset(mask),
              MASKS, shapes(np.s_[:1], None), values(ValueError, True)),
    *argument("set", "state", lambda c, state: setattr(c.est, "state", state),
              FLOATS, shapes(0, np.s_[:1], np.s_[:, :4]), {"in a list": (lambda state: [state], ValueError)}),
]  # fmt: skip
LOADS = [
    *states("est", values(TypeError, None, [1]), values(ValueError, {})),
    case("est.load_state_dict of another algorithm", lambda c: c.est.load_state_dict(c.foreign), ValueError, "state"),
    case("est.load_state_dict with more", lambda c: c.est.load_state_dict(c.est.state_dict() | {"spam": 1}),
         ValueError, "spam"),
    *entry("est", "algorithm", values(ValueError, "SGD")),
    *entry("est", "cell", values(ValueError, "RNN")),
    *entry("est", "dtype", values(ValueError, "float16")),
    *(row for name in ("n_in", "n_hidden", "batch_size") for row in entry("est", name, values(ValueError, 7))),
    *entry("est", "block", values(ValueError, 7), {"an array": (lambda _: np.array([3, 3]), TYPE_OR_VALUE)}),
    *(case(f"est.load_state_dict with a tolerance of {value}",
           lambda c, value=value: c.est.load_state_dict(c.est.state_dict() | {"argument.tolerance": value}),
           ValueError, "tolerance") for value in (0.1, 0.0, NAN)),
    *entry("est", "steps", values(ValueError, -1), values(TypeError, True)),
    *entry("est", "open_steps", values(ValueError, -1, 99), values(TypeError, 1.0)),
    *entry("est", "credited", values(TYPE_OR_VALUE, "yes")),
    *(row for name in ("state", "u_hat", "d", "c", "credit", "pending", "input_d", "input_w")
      for row in entry("est", name, FLOATS, shapes(np.s_[1:]))),
    *entry("est", "w", {"of another shape": (lambda _: np.zeros((9, 9)), TYPE_OR_VALUE)}),
    *entry("est", "w_slot", {f"with {value}": (lambda slot, v=value: spoil(slot, v), ValueError) for value in (9, -1)}),
    *entry("est", "cut"),
    *entry("est", "rng", shapes(np.s_[:1]), STREAMS),
]  # fmt: skip


def estimator_context(name, dtype="float32"):
    rng, estimator = np.random.default_rng(3), running(name, dtype)
    floats = {"x": (B, V), "dh": (B, N), "hidden": (B, N), "xs": (T, B, V), "dhs": (T, B, N), "state": (B, 2 * N)}
    masks = {"reset": (B,), "mask": (B,), "resets": (T, B)}
    another = next(kind for kind in LONG if kind != name)
    return SimpleNamespace(
        est=estimator, theta=estimator.cell.theta.copy(), thetas=np.stack([estimator.cell.theta] * B),
        foreign=running(another, dtype).state_dict(),
        **{word: rng.normal(size=shape).astype(dtype) for word, shape in floats.items()},
        **{word: rng.random(shape) < 0.5 for word, shape in masks.items()},
    )  # fmt: skip


def assert_estimator_refuses(c, call, error, word):
    before, theta = c.est.state_dict(), c.est.cell.theta.copy()
    refuses(call, c, error, word)
    assert_same_state(c.est.state_dict(), before)
    assert np.array_equal(c.est.cell.theta, theta)


@pytest.mark.parametrize("call, error, word", STEPS + LOADS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_calls(name, call, error, word):
    assert_estimator_refuses(estimator_context(name), call, error, word)


@pytest.mark.parametrize("call, error, word", [row for row in STEPS + LOADS if "other dtype" in row.id])
def test_float32_for_a_float64_cell(call, error, word):
    assert_estimator_refuses(estimator_context("ok", "float64"), call, error, word)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_carries(name):
    for kept, array in estimator_context(name).est.carry.arrays.items():
        bad = shapes(np.s_[:1]) | {"as text": (lambda good: good.astype(str), TypeError)}
        if array.dtype == np.float32:
            bad = bad | OTHER_FLOATS | NOT_FINITE
        for row in entry("est", f"carry.{kept}", bad):
            assert_estimator_refuses(estimator_context(name), *row.values)


@pytest.mark.parametrize("active", [[2, 99], [-1, 2]], ids=str)
@pytest.mark.parametrize("name", [kind for kind in ESTIMATORS if "active" in running(kind).carry.arrays])
def test_counts_of_active_terms(name, active):
    (row, _) = entry("est", "carry.active", {str(active): (lambda _: np.int32(active), ValueError)})
    assert_estimator_refuses(estimator_context(name), *row.values)


# ---- the trainer ---------------------------------------------------------------------------------


def make_trainer(optimizer=None, readout=okcore.SoftmaxReadout):
    estimator = running("ok")
    trainer = okcore.OnlineTrainer(
        estimator.cell, estimator, readout(N, V, rng=0), optimizer or okcore.Adam(), clip=1.0, update_every=3
    )
    targets = [0, 1] if readout is okcore.SoftmaxReadout else np.ones((B, V), np.float32)
    for _ in range(5):
        trainer.partial_fit([0, 2], targets)
    return trainer


def new_trainer(c, **other_parts):
    """Make a trainer of the context's parts, but for those that are given."""
    parts = {"cell": c.est.cell, "estimator": c.est, "readout": c.trainer.readout, "optimizer": okcore.SGD(1)}
    return okcore.OnlineTrainer(**parts | other_parts)


def part(word, *bad):
    return argument("OnlineTrainer", word, lambda c, value: new_trainer(c, **{word: value}), *bad, like="est")


def group(name, entry, *bad):
    """Cases for an entry of a group of the trainer's state: bad values, and without it."""

    def load(c, value):
        c.trainer.load_state_dict(c.saved | {name: c.saved[name] | {entry: value}})

    def load_without(c):
        c.trainer.load_state_dict(c.saved | {name: without(c.saved[name], entry)})

    title = f"trainer.load_state_dict of {name}"
    return [
        *argument(title, entry, load, *bad, like=lambda c: c.saved[name][entry]),
        case(f"{title} without {entry}", load_without, TYPE_OR_VALUE, entry),
    ]


TRAINER_CALLS = [
    *part("cell", values(TypeError, None)),
    *part("estimator", values(TypeError, None), {"of another cell": (lambda _: running("ok"), ValueError)}),
    *part("readout", values(TypeError, None), {
        "of another size": (lambda _: okcore.SoftmaxReadout(N + 1, V), ValueError),
        "in the other dtype": (lambda _: okcore.SoftmaxReadout(N, V, dtype="d"), ValueError),
    }),
    *part("optimizer", values(TypeError, 1e-3, None)),
    *part("clip", values(ValueError, 0, -1, NAN), values(TypeError, True, "1")),
    *part("update_every", INTEGERS),
    case("OnlineTrainer of another cell", lambda c: new_trainer(c, cell=okcore.LSTM(V, N)), ValueError, "estimator"),
    *argument("partial_fit", "x", lambda c, x: c.trainer.partial_fit(x, [0, 1]),
              INPUTS, SYMBOLS_OUT_OF_RANGE, like="ones"),
    *argument("partial_fit", "y", lambda c, y: c.trainer.partial_fit([0, 1], y), SYMBOLS),
    *argument("partial_fit of a linear readout", "y", lambda c, y: c.linear.partial_fit([0, 1], y),
              TARGETS, like="ones"),
    *argument("partial_fit", "reset", lambda c, reset: c.trainer.partial_fit([0, 1], [0, 1], reset),
              values(TypeError, [0, 1]), values(ValueError, [True])),
    *argument("predict", "x", lambda c, x: c.trainer.predict(x), INPUTS, SYMBOLS_OUT_OF_RANGE, like="ones"),
    *argument("predict", "reset", lambda c, reset: c.trainer.predict([0, 1], reset=reset), values(TypeError, [1, 0])),
    *argument("fit", "steps", lambda c, steps: c.trainer.fit(c.task, steps), without(INTEGERS, "0")),
    *argument("fit", "callback", lambda c, callback: c.trainer.fit(c.task, 2, callback=callback),
              values(TypeError, 7, "nonsense")),
    *argument("fit", "task", lambda c, task: c.trainer.fit(task, 2), values(TypeError, 7, None, [1, 2])),
    *argument("evaluate_bits", "symbols", lambda c, symbols: c.trainer.evaluate_bits(np.array(symbols)),
              values(ValueError, [1], [0, 3, 1], [0, 1, 3], [0, 1, -1], [[0, 1]]), values(TypeError, [0.0, 1.0])),
    *argument("evaluate_bits", "symbols", lambda c, symbols: c.trainer.evaluate_bits(symbols),
              {"none": (lambda _: np.array([], int), ValueError)}),
    *argument("evaluate_bits", "chunk", lambda c, chunk: c.trainer.evaluate_bits(np.array([0, 1]), chunk), INTEGERS),
    case("save into a folder that is missing", lambda c: c.trainer.save(c.here / "missing" / "x.npz"),
         FileNotFoundError, "missing"),
    case("load of a file that is missing", lambda c: c.trainer.load(c.here / "missing.npz"),
         FileNotFoundError, "missing.npz"),
    case("load of a folder", lambda c: c.trainer.load(c.here), (OSError, ValueError), "checkpoint"),
    *states("trainer", values(TypeError, None), values(ValueError, {})),
    *(case(f"trainer.load_state_dict {name} {state}",
           lambda c, name=name, state=state: c.trainer.load_state_dict(c.saved | {name: state}), TYPE_OR_VALUE, word)
      for name, state, word in (("trainer", 1, "trainer"), ("trainer", {}, "readout"), ("optimizer", 1, "state"),
                                ("optimizer", {}, "optimizer"), ("estimator", 1, "state"), ("estimator", {}, "state"))),
    *(row for name in ("theta", "weights", "readout_gradient")
      for row in group("trainer", name, FLOATS, shapes(np.s_[:1]))),
    *group("trainer", "readout", values(ValueError, "Readout")),
    *group("trainer", "steps", values(ValueError, -1), values(TypeError, True, 1.5)),
    *group("optimizer", "theta.mean", FLOATS, shapes(np.s_[:1])),
]  # fmt: skip


@pytest.mark.parametrize("call, error, word", TRAINER_CALLS)
def test_trainer_calls(call, error, word, tmp_path):
    trainer, linear = make_trainer(), make_trainer(readout=okcore.LinearReadout)
    c = SimpleNamespace(
        trainer=trainer, linear=linear, est=trainer.estimator, task=tasks.Copy(B, rng=0), saved=trainer.state_dict(),
        here=tmp_path, ones=np.ones((B, V), np.float32),
    )  # fmt: skip
    before = flat_state(trainer), flat_state(linear)
    refuses(call, c, error, word)
    assert_same_state(flat_state(trainer), before[0])
    assert_same_state(flat_state(linear), before[1])


# ---- what no table holds ---------------------------------------------------------------------------


def test_a_tape_whose_zero_blocks_are_not_zero_is_refused():
    estimator = okcore.RTRL(okcore.LSTM(2, 3, rng=0), 4)
    estimator.run(np.ones((2, 1, 2), np.float32))
    for name, where in (("d", np.s_[:, :, 0, 1, 3]), ("c", np.s_[:, :, 0, 0]), ("c", np.s_[:, :, 1, 0])):
        state = estimator.state_dict()
        assert not state[name][where].any()
        state[name] = state[name].copy()
        state[name][where] = 7
        with pytest.raises(ValueError, match=f"{name} is no tape of LSTM"):
            estimator.load_state_dict(state)


def test_factors_too_large_to_count_are_refused():
    A = np.broadcast_to(np.float32(1), (2, 2**16, 2**15))
    with pytest.raises(ValueError, match="S P below"):
        okcore.kron.left_multiply(np.ones((1, 2**16), np.float32), A)


def test_run_takes_nothing_for_an_array_that_is_none():
    # In a process of its own: what looks into such an object as if it were an array may well crash.  The memory of this
    # one, read as an array's, holds a number of axes and an address that is none.
    program = """
import numpy as np
import okcore
estimator = okcore.RTRL(okcore.RNN(3, 4, rng=0), block=3, batch_size=2)
for bad in (np.clongdouble(1 + 1j), 1j, "nonsense", [[1.0], [1.0, 2.0]], (), {}, 0):
    for call in (estimator.step, estimator.run, estimator.gradient, estimator.accumulate):
        try:
            call(bad)
        except (TypeError, ValueError):
            continue
        raise AssertionError(f"{call} took {bad!r}")
assert estimator.run([[0, 1], [2, 0]])[0].shape == (2, 2, 4)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, (done.returncode, done.stderr)
