"""Bad input is refused by every public call: the error names the argument, and nothing has changed."""

import io
import re

import numpy as np
import pytest

import okcore
from okcore import tasks
from okcore.runs import checkpoint

B, V, N, T = 2, 3, 4, 5  # lanes, inputs, hidden units, steps of run
OTHER = {np.float32: np.float64, np.float64: np.float32}
NAN, INF = np.nan, np.inf


def other(array):
    return array.astype(OTHER[array.dtype.type])


def spoil(array, value):
    array = array.copy()
    array.flat[-1] = value
    return array


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def strided(array):
    return np.repeat(array, 2, axis=-1)[:, ::2]


def changed(saved, /, **entries):
    return saved | {name.replace("__", "."): value for name, value in entries.items()}


def without(saved, name):
    return {key: value for key, value in saved.items() if key != name}


ESTIMATORS = {
    "TBPTT": lambda cell, **more: okcore.TBPTT(cell, horizon=3, batch_size=B, **more),
    "RTRL": lambda cell, **more: okcore.RTRL(cell, block=3, batch_size=B, **more),
    "UORO": lambda cell, **more: okcore.UORO(cell, batch_size=B, rng=0, **more),
    "KFRTRL": lambda cell, **more: okcore.KFRTRL(cell, copies=2, block=3, batch_size=B, rng=0, **more),
    "OK": lambda cell, **more: okcore.OK(cell, rank=2, block=3, batch_size=B, rng=0, **more),
}


def running(name, dtype=np.float32, cell=okcore.LSTM):
    """Return an estimator in the middle of a block, with a reset behind it and credits that wait."""
    estimator = ESTIMATORS[name](cell(V, N, dtype=dtype, rng=1))
    rng = np.random.default_rng(2)
    for t in range(5):
        h = estimator.step(rng.normal(size=(B, V)).astype(dtype), reset=np.array([t == 3, False]))
        estimator.accumulate(h)
    return estimator


def assert_same_state(state, before):
    assert state.keys() == before.keys()
    for name, value in before.items():
        assert np.array_equal(state[name], value), name
        assert np.asarray(state[name]).dtype == np.asarray(value).dtype, name


def refuses(expression, names, error, word):
    with pytest.raises(error, match=rf"(?s)\b{re.escape(word)}\b"):
        eval(expression, globals() | names)


# ---- sizes: every integer argument of every constructor -----------------------------------------

CELL = okcore.RNN(V, N, rng=0)
SHARED = ("batch_size", "n_threads", "update_every")
SIZED = {
    "RNN": (okcore.RNN, {"n_in": 3, "n_hidden": 4}, ("n_in", "n_hidden")),
    "RHN": (okcore.RHN, {"n_in": 3, "n_hidden": 4}, ("n_in", "n_hidden")),
    "LSTM": (okcore.LSTM, {"n_in": 3, "n_hidden": 4}, ("n_in", "n_hidden")),
    "GRU": (okcore.GRU, {"n_in": 3, "n_hidden": 4}, ("n_in", "n_hidden")),
    "TBPTT": (okcore.TBPTT, {"cell": CELL, "horizon": 2}, ("horizon", *SHARED)),
    "RTRL": (okcore.RTRL, {"cell": CELL}, ("block", *SHARED)),
    "UORO": (okcore.UORO, {"cell": CELL}, SHARED),
    "KFRTRL": (okcore.KFRTRL, {"cell": CELL}, ("copies", "block", *SHARED)),
    "OK": (okcore.OK, {"cell": CELL, "rank": 2}, ("rank", "block", *SHARED)),
    "SoftmaxReadout": (okcore.SoftmaxReadout, {"n_hidden": 4, "n_out": 3}, ("n_hidden", "n_out")),
    "LinearReadout": (okcore.LinearReadout, {"n_hidden": 4, "n_out": 3}, ("n_hidden", "n_out")),
    "Copy": (tasks.Copy, {"batch_size": 2}, ("batch_size", "length")),
    "Text": (tasks.Text, {"source": b"to be or not to be", "batch_size": 2}, ("batch_size", "reset_every")),
}
WRONG_SIZES = [
    (0, ValueError), (-1, ValueError), (True, TypeError), (np.True_, TypeError), (1.5, TypeError),
    (NAN, TypeError), ([2], TypeError), (None, TypeError),
]
SIZES = [(kind, argument) for kind, (_, _, arguments) in SIZED.items() for argument in arguments]


@pytest.mark.parametrize("bad, error", WRONG_SIZES, ids=repr)
@pytest.mark.parametrize("kind, argument", SIZES, ids=str)
def test_sizes(kind, argument, bad, error):
    make, valid, _ = SIZED[kind]
    with pytest.raises(error, match=rf"\b{argument}\b"):
        make(**valid | {argument: bad})


HINTS = "n_threads", "update_every"
ALLOCATED = [row for row in SIZES if row[0] in {*ESTIMATORS, "RNN"} and row[1] not in HINTS]


@pytest.mark.parametrize("kind, argument", ALLOCATED)
def test_sizes_beyond_a_c_int(kind, argument):
    make, valid, _ = SIZED[kind]
    with pytest.raises(ValueError, match=rf"\b{argument}\b"):
        make(**valid | {argument: 2**40})


# ---- everything that needs no estimator in the middle of a run ----------------------------------

U, A, VECTOR, H = np.ones((5, 3)), np.ones((5, 4, 6)), np.ones(4), np.ones((4, 4))

CALLS = [
    # cells
    ("okcore.RNN(3, 4, dtype='int32')", TypeError, "dtype"),
    ("okcore.RNN(3, 4, dtype=np.float16)", TypeError, "dtype"),
    ("okcore.RNN(3, 4, dtype='>f4')", TypeError, "dtype"),
    ("okcore.RNN(3, 4, dtype='nonsense')", TypeError, "dtype"),
    ("okcore.RNN(3, 4, dtype=None)", TypeError, "dtype"),
    ("okcore.RNN(3, 4, init='xavier')", ValueError, "init"),
    ("okcore.RNN(3, 4, init=None)", ValueError, "init"),
    ("okcore.RNN(3, 4, init='normal', scale=-1)", ValueError, "scale"),
    ("okcore.RNN(3, 4, init='normal', scale=NAN)", ValueError, "scale"),
    ("okcore.RNN(3, 4, init='normal', scale='1')", TypeError, "scale"),
    ("okcore.RNN(3, 4, rng=-1)", ValueError, "rng"),
    ("okcore.RNN(3, 4, rng=0.5)", TypeError, "rng"),
    ("okcore.RNN(3, 4, rng='seed')", TypeError, "rng"),
    ("setattr(cell, 'theta', other(cell.theta))", TypeError, "theta"),
    ("setattr(cell, 'theta', cell.theta[:-1])", ValueError, "theta"),
    ("setattr(cell, 'theta', cell.theta[0])", ValueError, "theta"),
    ("setattr(cell, 'theta', spoil(cell.theta, NAN))", ValueError, "theta"),
    ("setattr(cell, 'theta', spoil(cell.theta, INF))", ValueError, "theta"),
    ("setattr(cell, 'theta', None)", TypeError, "theta"),
    # estimators
    ("okcore.TBPTT(None, 2)", TypeError, "cell"),
    ("okcore.RTRL('rnn')", TypeError, "cell"),
    ("okcore.UORO(okcore.RNN)", TypeError, "cell"),
    ("okcore.KFRTRL(cell.theta)", TypeError, "cell"),
    ("okcore.OK(None, 2)", TypeError, "cell"),
    ("okcore.RTRL(cell, block='fast')", ValueError, "block"),
    ("okcore.OK(cell, 2, block='fast')", ValueError, "block"),
    ("okcore.OK(cell, 2, mixing='noise')", ValueError, "mixing"),
    ("okcore.OK(cell, 2, mixing=None)", ValueError, "mixing"),
    ("okcore.UORO(cell, rng=-1)", ValueError, "rng"),
    ("okcore.KFRTRL(cell, rng='seed')", TypeError, "rng"),
    ("okcore.OK(cell, 2, rng=1.5)", TypeError, "rng"),
    ("okcore.Estimator(cell, None, 1)", TypeError, "carry"),
    ("okcore.Estimator(cell, okcore.Carry(okcore.RNN(5, 9), 1), 1)", ValueError, "carry"),
    ("okcore.Carry(cell, 0)", ValueError, "batch_size"),
    # kron: u and A, wherever they come
    *(
        (call, error, word)
        for function in (
            "okcore.kron.to_dense({u}, {A})", "okcore.kron.contract(VECTOR, {u}, {A})",
            "okcore.kron.reduce({u}, {A}, 2)",
        )
        for call, error, word in [
            (function.format(u="U[0]", A="A"), ValueError, "u"),
            (function.format(u="U[:-1]", A="A"), ValueError, "u"),
            (function.format(u="U[:, :0]", A="A"), ValueError, "u"),
            (function.format(u="other(U)", A="A"), TypeError, "u"),
            (function.format(u="U.astype(int)", A="A"), TypeError, "u"),
            (function.format(u="spoil(U, NAN)", A="A"), ValueError, "u"),
            (function.format(u="spoil(U, INF)", A="A"), ValueError, "u"),
            (function.format(u="[[1.0], [1.0, 2.0]]", A="A"), TypeError, "u"),
            (function.format(u="U", A="A[0]"), ValueError, "A"),
            (function.format(u="U[:0]", A="A[:0]"), ValueError, "A"),
            (function.format(u="U", A="A[:, :0]"), ValueError, "A"),
            (function.format(u="U", A="A.astype(int)"), TypeError, "A"),
            (function.format(u="U", A="A.astype(np.float16)"), TypeError, "A"),
            (function.format(u="U", A="spoil(A, NAN)"), ValueError, "A"),
            (function.format(u="U", A="spoil(A, -INF)"), ValueError, "A"),
            (function.format(u="U", A="[[1.0], [1.0, 2.0]]"), TypeError, "A"),
            (function.format(u="U", A="None"), TypeError, "A"),
        ]
    ),
    ("okcore.kron.contract(VECTOR[:3], U, A)", ValueError, "v"),
    ("okcore.kron.contract(VECTOR[None], U, A)", ValueError, "v"),
    ("okcore.kron.contract(other(VECTOR), U, A)", TypeError, "v"),
    ("okcore.kron.contract(spoil(VECTOR, NAN), U, A)", ValueError, "v"),
    ("okcore.kron.contract([1, 2, 3, 4], U, A)", TypeError, "v"),
    ("okcore.kron.left_multiply(H[:, :3], A)", ValueError, "H"),
    ("okcore.kron.left_multiply(H[0], A)", ValueError, "H"),
    ("okcore.kron.left_multiply(H[:0], A)", ValueError, "H"),
    ("okcore.kron.left_multiply(other(H), A)", TypeError, "H"),
    ("okcore.kron.left_multiply(spoil(H, INF), A)", ValueError, "H"),
    ("okcore.kron.left_multiply([[1.0], [1.0, 2.0]], A)", TypeError, "H"),
    ("okcore.kron.left_multiply(H, A[0])", ValueError, "A"),
    ("okcore.kron.left_multiply(H, A.astype(int))", TypeError, "A"),
    ("okcore.kron.left_multiply(H, spoil(A, NAN))", ValueError, "A"),
    ("okcore.kron.reduce(U, A, 0)", ValueError, "rank"),
    ("okcore.kron.reduce(U, A, -3)", ValueError, "rank"),
    ("okcore.kron.reduce(U, A, True)", TypeError, "rank"),
    ("okcore.kron.reduce(U, A, 2.0)", TypeError, "rank"),
    ("okcore.kron.reduce(U, A, 2, rng='seed')", TypeError, "rng"),
    ("okcore.kron.reduce(U, A, 2, rng=-1)", ValueError, "rng"),
    ("okcore.kron.reduce(U, A, 2, mixing='noise')", ValueError, "mixing"),
    ("okcore.kron.reduce(U, A, 2, signs=np.ones(4))", ValueError, "signs"),
    ("okcore.kron.reduce(U, A, 2, signs=np.ones((5, 1)))", ValueError, "signs"),
    ("okcore.kron.reduce(U, A, 2, signs=np.zeros(5))", ValueError, "signs"),
    ("okcore.kron.reduce(U, A, 2, signs=np.full(5, NAN))", ValueError, "signs"),
    ("okcore.kron.reduce(U, A, 2, signs='+-+-+')", (TypeError, ValueError), "signs"),
    ("okcore.kron.reduce(U, A, 2, signs=[[1], [1, 2]])", (TypeError, ValueError), "signs"),
    ("okcore.kron.reduce(U, A, 2, start=0.5)", ValueError, "start"),
    ("okcore.kron.reduce(U, A, 2, mixing='sampling', signs=np.ones(5))", ValueError, "signs"),
    ("okcore.kron.reduce(U, A, 2, mixing='sampling', start=1)", ValueError, "start"),
    ("okcore.kron.reduce(U, A, 2, mixing='sampling', start=-0.1)", ValueError, "start"),
    ("okcore.kron.reduce(U, A, 2, mixing='sampling', start=NAN)", ValueError, "start"),
    ("okcore.kron.reduce(U, A, 2, mixing='sampling', start='0')", TypeError, "start"),
    # readouts
    ("okcore.SoftmaxReadout(4, 3, dtype=int)", TypeError, "dtype"),
    ("okcore.LinearReadout(4, 3, init='xavier')", ValueError, "init"),
    ("okcore.LinearReadout(4, 3, init='normal', scale=INF)", ValueError, "scale"),
    ("okcore.SoftmaxReadout(4, 3, rng='seed')", TypeError, "rng"),
    *(
        (f"{readout}.{call}", error, word)
        for readout, y in (("softmax", "[0, 1]"), ("linear", "np.ones((2, 3), np.float32)"))
        for call, error, word in [
            ("predict(other(h))", TypeError, "h"),
            ("predict(h[:, :2])", ValueError, "h"),
            ("predict(np.float32(1))", ValueError, "h"),
            ("predict(spoil(h, NAN))", ValueError, "h"),
            (f"loss(other(h), {y})", TypeError, "h"),
            (f"loss(h[:, :2], {y})", ValueError, "h"),
            (f"loss(spoil(h, INF), {y})", ValueError, "h"),
        ]
    ),
    ("softmax.loss(h, [0, 3])", ValueError, "y"),
    ("softmax.loss(h, [0, -1])", ValueError, "y"),
    ("softmax.loss(h, [0])", ValueError, "y"),
    ("softmax.loss(h, [0.0, 1.0])", TypeError, "y"),
    ("softmax.loss(h, [True, False])", TypeError, "y"),
    ("softmax.bits(h, [0, 3])", ValueError, "y"),
    ("softmax.bits(h, [0, -1])", ValueError, "y"),
    ("softmax.bits(other(h), [0, 1])", TypeError, "h"),
    ("linear.loss(h, np.ones((2, 3)))", TypeError, "y"),
    ("linear.loss(h, np.ones((2, 1), np.float32))", ValueError, "y"),
    ("linear.loss(h, np.full((2, 3), NAN, np.float32))", ValueError, "y"),
    # optimizers
    ("okcore.SGD(0)", ValueError, "learning_rate"),
    ("okcore.SGD(-1e-3)", ValueError, "learning_rate"),
    ("okcore.SGD(NAN)", ValueError, "learning_rate"),
    ("okcore.SGD('1e-3')", TypeError, "learning_rate"),
    ("okcore.SGD(True)", TypeError, "learning_rate"),
    ("okcore.Adam(INF)", ValueError, "learning_rate"),
    ("okcore.Adam(beta1=1)", ValueError, "beta1"),
    ("okcore.Adam(beta2=-0.1)", ValueError, "beta2"),
    ("okcore.Adam(eps=0)", ValueError, "eps"),
    ("adam.update('a', h.copy(), h[:1])", ValueError, "gradient"),
    ("adam.update('a', h.copy(), other(h))", TypeError, "gradient"),
    ("adam.update('a', h.copy(), spoil(h, NAN))", ValueError, "gradient"),
    ("okcore.SGD(1).update('a', h.copy(), spoil(h, INF))", ValueError, "gradient"),
    ("adam.update('a', np.ones(3, int), np.ones(3, int))", TypeError, "parameter"),
    ("adam.load_state_dict(None, {})", TypeError, "state"),
    ("adam.load_state_dict({}, {})", ValueError, "optimizer"),
    ("adam.load_state_dict(okcore.SGD(1).state_dict(), {})", ValueError, "optimizer"),
    ("adam.load_state_dict({'kind': 'Adam', 'a.count': -1}, {'a': h})", ValueError, "a.count"),
    ("adam.load_state_dict({'kind': 'Adam', 'a.count': 1}, {'a': h})", ValueError, "a.mean"),
    ("adam.load_state_dict({'kind': 'Adam', 'a.count': 1, 'a.mean': h[0]}, {'a': h})", ValueError, "a.mean"),
    # tasks
    ("tasks.Copy(2, rng='seed')", TypeError, "rng"),
    ("copy.observe(NAN)", ValueError, "loss_bits"),
    ("copy.observe('0.1')", TypeError, "loss_bits"),
    ("copy.load_state_dict(None)", TypeError, "state"),
    ("copy.load_state_dict({})", ValueError, "state"),
    ("copy.load_state_dict(text.state_dict())", ValueError, "state"),
    ("copy.load_state_dict(tasks.Copy(3).state_dict())", ValueError, "state"),
    ("copy.load_state_dict(without(copy.state_dict(), 'rng'))", ValueError, "rng"),
    ("copy.load_state_dict(changed(copy.state_dict(), length=0))", ValueError, "length"),
    ("copy.load_state_dict(changed(copy.state_dict(), running_loss=NAN))", ValueError, "running_loss"),
    ("copy.load_state_dict(changed(copy.state_dict(), position=np.array([9, 99])))", ValueError, "position"),
    ("text.load_state_dict(None)", TypeError, "state"),
    ("text.load_state_dict(copy.state_dict())", ValueError, "state"),
    ("text.load_state_dict(tasks.Text(b'another text', 2).state_dict())", ValueError, "state"),
    ("text.load_state_dict(without(text.state_dict(), 'position'))", ValueError, "position"),
    ("text.load_state_dict(changed(text.state_dict(), position=np.array([1])))", ValueError, "position"),
    ("text.load_state_dict(changed(text.state_dict(), position=np.array([1, 99])))", ValueError, "position"),
    ("text.load_state_dict(changed(text.state_dict(), position=np.ones(2)))", TypeError, "position"),
    *(
        row
        for argument, call in (
            ("source", "tasks.Text({}, 2)"), ("valid", "tasks.Text(b'to be or not', 2, valid={})")
        )
        for row in [
            (call.format("here / 'missing.txt'"), FileNotFoundError, argument),
            (call.format("str(here / 'missing.txt')"), FileNotFoundError, argument),
            (call.format("here"), (FileNotFoundError, ValueError), argument),
            (call.format("here / 'empty.txt'"), ValueError, argument),
            (call.format("here / 'binary.txt'"), ValueError, argument),
            (call.format("b''"), ValueError, argument),
            (call.format("b'a'"), ValueError, argument),
            (call.format("b'to be' + bytes(1)"), ValueError, argument),
            (call.format("7"), TypeError, argument),
        ]
    ),
    ("tasks.Text(None, 2)", TypeError, "source"),
    ("tasks.Text(b'abc', 2)", ValueError, "source"),
]


@pytest.mark.parametrize("expression, error, word", CALLS, ids=[row[0] for row in CALLS])
def test_calls(expression, error, word, tmp_path):
    (tmp_path / "empty.txt").write_bytes(b"")
    (tmp_path / "binary.txt").write_bytes(b"\x7fELF\0\1\2\3" * 9)
    names = {
        "here": tmp_path,
        "cell": okcore.RNN(V, N, rng=0),
        "softmax": okcore.SoftmaxReadout(N, 3, rng=0),
        "linear": okcore.LinearReadout(N, 3, rng=0),
        "h": np.ones((2, N), np.float32),
        "adam": okcore.Adam(),
        "copy": tasks.Copy(2, rng=0),
        "text": tasks.Text(b"to be or not to be, that is", 2),
    }
    next(names["copy"])
    before = names["cell"].theta.copy(), *(names[task].state_dict() for task in ("copy", "text"))
    refuses(expression, names, error, word)
    assert np.array_equal(names["cell"].theta, before[0])
    assert_same_state(names["copy"].state_dict(), before[1])
    assert_same_state(names["text"].state_dict(), before[2])


# ---- estimators in the middle of a run ----------------------------------------------------------


def bad_floats(call, name, shape_too):
    """Rows for a call with an array of floats in place of {}: `shape_too` are expressions of wrong shape."""
    return [
        *((call.format(expression), ValueError, name) for expression in shape_too),
        (call.format(f"other({name})"), TypeError, name),
        (call.format(f"{name}.astype(np.float16)"), TypeError, name),
        (call.format(f"{name}.astype(complex)"), TypeError, name),
        (call.format(f"{name} > 0"), TypeError, name),
        (call.format("None"), TypeError, name),
        (call.format("'nonsense'"), TypeError, name),
        (call.format("[[1.0], [1.0, 2.0]]"), TypeError, name),
        (call.format(f"spoil({name}, NAN)"), ValueError, name),
        (call.format(f"spoil({name}, -INF)"), ValueError, name),
    ]


def bad_out(call, valid):
    return [
        (call.format(f"{valid}[:-1].copy()"), ValueError, "out"),
        (call.format(f"{valid}[0].copy()"), ValueError, "out"),
        (call.format(f"other({valid})"), TypeError, "out"),
        (call.format(f"read_only({valid})"), ValueError, "out"),
        (call.format(f"strided({valid})"), ValueError, "out"),
        (call.format(f"{valid}.tolist()"), TypeError, "out"),
    ]


def bad_mask(call, name, shape_too):
    return [
        *((call.format(expression), ValueError, name) for expression in shape_too),
        (call.format(f"{name}.astype(int)"), TypeError, name),
        (call.format(f"{name}.astype(np.float32)"), TypeError, name),
        (call.format("'nonsense'"), TypeError, name),
    ]


ESTIMATOR_CALLS = [
    *bad_floats("est.step({})", "x", ("x[0]", "x[:1]", "x[:, :2]", "x[None]", "x[:, :0]")),
    ("est.step([0, 3])", ValueError, "x"),
    ("est.step([0, -1])", ValueError, "x"),
    ("est.step([0])", ValueError, "x"),
    ("est.step([[0, 1]])", ValueError, "x"),
    ("est.step(0)", ValueError, "x"),
    ("est.step([True, False])", TypeError, "x"),
    ("est.step(np.array([0, 2**63], np.uint64))", ValueError, "x"),
    *bad_mask("est.step(x, {})", "reset", ("True", "reset[:1]", "reset[None]")),
    *bad_out("est.step(x, out={})", "hidden"),
    *bad_floats("est.gradient({})", "dh", ("dh[0]", "dh[:1]", "dh[:, :3]", "dh[None]", "np.tile(dh, 2)")),
    *bad_out("est.gradient(dh, out={})", "est.cell.theta"),
    *bad_floats("est.accumulate({})", "dh", ("dh[0]", "dh[:1]", "dh[:, :3]", "dh[None]")),
    *bad_out("est.flush(out={})", "est.cell.theta"),
    *bad_floats("est.run({})", "xs", ("xs[0]", "xs[:, :1]", "xs[..., :2]", "xs[None]")),
    ("est.run([[0, 1], [0, 3]])", ValueError, "xs"),
    ("est.run([[0, 1], [-1, 0]])", ValueError, "xs"),
    ("est.run([[0], [1]])", ValueError, "xs"),
    ("est.run([0, 1])", ValueError, "xs"),
    ("est.run(0)", ValueError, "xs"),
    *(row for row in bad_floats("est.run(xs, {})", "dhs", ("dhs[1:]", "dhs[:, :1]", "dhs[..., :3]", "dhs[0]"))
      if "None" not in row[0]),  # no credits at all is allowed
    *bad_mask("est.run(xs, dhs, {})", "resets", ("resets[0]", "resets[1:]", "resets[:, :1]")),
    *bad_mask("est.reset({})", "mask", ("True", "mask[:1]", "mask[None]")),
    *bad_floats("setattr(est, 'state', {})", "state", ("state[0]", "state[:1]", "state[:, :4]", "[state]")),
    ("est.load_state_dict(None)", TypeError, "state"),
    ("est.load_state_dict([1])", TypeError, "state"),
    ("est.load_state_dict({})", ValueError, "state"),
    ("est.load_state_dict(changed(saved, spam=1))", ValueError, "spam"),
    ("est.load_state_dict(foreign)", ValueError, "state"),
    *(
        (f"est.load_state_dict(without(saved, '{name}'))", ValueError, name)
        for name in ("algorithm", "steps", "state", "u_hat", "w_slot", "cut", "credit", "pending", "rng")
    ),
    *(
        (f"est.load_state_dict(changed(saved, {name}={value}))", ValueError, name)
        for name, value in (
            ("algorithm", "'SGD'"), ("cell", "'RNN'"), ("dtype", "'float16'"), ("n_in", "7"),
            ("n_hidden", "7"), ("batch_size", "7"), ("block", "7"), ("steps", "-1"), ("open_steps", "-1"),
            ("open_steps", "99"),
        )
    ),
    ("est.load_state_dict(changed(saved, block=np.array([3, 3])))", (TypeError, ValueError), "block"),
    ("est.load_state_dict(changed(saved, steps=True))", TypeError, "steps"),
    ("est.load_state_dict(changed(saved, open_steps=1.0))", TypeError, "open_steps"),
    ("est.load_state_dict(changed(saved, credited='yes'))", (TypeError, ValueError), "credited"),
    ("est.load_state_dict(changed(saved, state=other(saved['state'])))", TypeError, "state"),
    ("est.load_state_dict(changed(saved, state=saved['state'][:1]))", ValueError, "state"),
    ("est.load_state_dict(changed(saved, state=spoil(saved['state'], NAN)))", ValueError, "state"),
    ("est.load_state_dict(changed(saved, u_hat=saved['u_hat'][1:]))", ValueError, "u_hat"),
    ("est.load_state_dict(changed(saved, d=other(saved['d'])))", TypeError, "d"),
    ("est.load_state_dict(changed(saved, c=spoil(saved['c'], INF)))", ValueError, "c"),
    ("est.load_state_dict(changed(saved, w=np.zeros((9, 9))))", (TypeError, ValueError), "w"),
    ("est.load_state_dict(changed(saved, w_slot=spoil(saved['w_slot'], 9)))", ValueError, "w_slot"),
    ("est.load_state_dict(changed(saved, w_slot=spoil(saved['w_slot'], -1)))", ValueError, "w_slot"),
    ("est.load_state_dict(changed(saved, pending=spoil(saved['pending'], NAN)))", ValueError, "pending"),
    ("est.load_state_dict(changed(saved, rng=saved['rng'][:1]))", ValueError, "rng"),
    ("est.load_state_dict(changed(saved, rng=saved['rng'].astype(np.int64)))", TypeError, "rng"),
]
CARRY_CALLS = [
    ("RTRL", "carry__influence=saved['carry.influence'][:1]", "carry.influence"),
    ("UORO", "carry__w=spoil(saved['carry.w'], NAN)", "carry.w"),
    ("OK", "carry__A=spoil(saved['carry.A'], NAN)", "carry.A"),
    ("OK", "carry__active=np.int32([2, 99])", "carry.active"),
    ("KFRTRL", "carry__active=np.int32([-1, 2])", "carry.active"),
]


def assert_estimator_refuses(name, dtype, expression, error, word):
    estimator = running(name, dtype)
    saved, theta = estimator.state_dict(), estimator.cell.theta.copy()
    rng = np.random.default_rng(3)
    names = {"est": estimator, "saved": estimator.state_dict()}
    for argument, shape in {
        "x": (B, V), "dh": (B, N), "hidden": (B, N), "xs": (T, B, V), "dhs": (T, B, N), "state": (B, 2 * N)
    }.items():
        names[argument] = rng.normal(size=shape).astype(dtype)
    for argument, shape in {"reset": (B,), "mask": (B,), "resets": (T, B)}.items():
        names[argument] = rng.random(shape) < 0.5
    names["foreign"] = running("UORO" if name != "UORO" else "OK", dtype).state_dict()
    refuses(expression, names, error, word)
    assert_same_state(estimator.state_dict(), saved)
    assert np.array_equal(estimator.cell.theta, theta)


@pytest.mark.parametrize("expression, error, word", ESTIMATOR_CALLS, ids=[row[0] for row in ESTIMATOR_CALLS])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_calls(name, expression, error, word):
    assert_estimator_refuses(name, np.float32, expression, error, word)


@pytest.mark.parametrize("expression, error, word", [row for row in ESTIMATOR_CALLS if "other(" in row[0]])
def test_float32_for_a_float64_cell(expression, error, word):
    assert_estimator_refuses("OK", np.float64, expression, error, word)


@pytest.mark.parametrize("name, entry, word", CARRY_CALLS)
def test_carries(name, entry, word):
    expression = f"est.load_state_dict(changed(saved, {entry}))"
    assert_estimator_refuses(name, np.float32, expression, ValueError, word)


# ---- the trainer --------------------------------------------------------------------------------


def make_trainer(optimizer=None, readout=okcore.SoftmaxReadout):
    estimator = running("OK")
    trainer = okcore.OnlineTrainer(
        estimator.cell, estimator, readout(N, V, rng=0), optimizer or okcore.Adam(), clip=1.0, update_every=3
    )
    targets = [0, 1] if readout is okcore.SoftmaxReadout else np.ones((B, V), np.float32)
    for _ in range(5):
        trainer.partial_fit([0, 2], targets)
    return trainer


def flat_state(trainer):
    return checkpoint.flatten(trainer.state_dict())


PARTS = "est.cell, est, readout, okcore.SGD(1)"
WITH_READOUT = "okcore.OnlineTrainer(est.cell, est, okcore.{}, okcore.SGD(1))"
TRAINER_CALLS = [
    ("okcore.OnlineTrainer(None, est, readout, okcore.SGD(1))", TypeError, "cell"),
    ("okcore.OnlineTrainer(est.cell, None, readout, okcore.SGD(1))", TypeError, "estimator"),
    ("okcore.OnlineTrainer(est.cell, est, None, okcore.SGD(1))", TypeError, "readout"),
    ("okcore.OnlineTrainer(est.cell, est, readout, 1e-3)", TypeError, "optimizer"),
    ("okcore.OnlineTrainer(okcore.LSTM(V, N), est, readout, okcore.SGD(1))", ValueError, "estimator"),
    (WITH_READOUT.format("SoftmaxReadout(N + 1, V)"), ValueError, "readout"),
    (WITH_READOUT.format("SoftmaxReadout(N, V, dtype='d')"), ValueError, "readout"),
    (f"okcore.OnlineTrainer({PARTS}, clip=0)", ValueError, "clip"),
    (f"okcore.OnlineTrainer({PARTS}, clip=-1)", ValueError, "clip"),
    (f"okcore.OnlineTrainer({PARTS}, clip=NAN)", ValueError, "clip"),
    (f"okcore.OnlineTrainer({PARTS}, clip=True)", TypeError, "clip"),
    (f"okcore.OnlineTrainer({PARTS}, update_every=0)", ValueError, "update_every"),
    (f"okcore.OnlineTrainer({PARTS}, update_every=1.5)", TypeError, "update_every"),
    ("trainer.partial_fit([0, 3], [0, 1])", ValueError, "x"),
    ("trainer.partial_fit(np.ones((B, V)), [0, 1])", TypeError, "x"),
    ("trainer.partial_fit(np.full((B, V), NAN, np.float32), [0, 1])", ValueError, "x"),
    ("trainer.partial_fit([0, 1], [0, 3])", ValueError, "y"),
    ("trainer.partial_fit([0, 1], [0, -1])", ValueError, "y"),
    ("trainer.partial_fit([0, 1], [0])", ValueError, "y"),
    ("trainer.partial_fit([0, 1], [0.0, 1.0])", TypeError, "y"),
    ("trainer.partial_fit([0, 1], [[0], [1, 2]])", TypeError, "y"),
    ("trainer.partial_fit([0, 1], None)", TypeError, "y"),
    ("trainer.partial_fit([0, 1], [0, 1], reset=[0, 1])", TypeError, "reset"),
    ("trainer.partial_fit([0, 1], [0, 1], reset=[True])", ValueError, "reset"),
    ("linear.partial_fit([0, 1], np.ones((B, V)))", TypeError, "y"),
    ("linear.partial_fit([0, 1], np.ones((B, 1), np.float32))", ValueError, "y"),
    ("linear.partial_fit([0, 1], np.full((B, V), INF, np.float32))", ValueError, "y"),
    ("trainer.predict([0, 3])", ValueError, "x"),
    ("trainer.predict([0, 1], reset=[1, 0])", TypeError, "reset"),
    ("trainer.fit(task, -1)", ValueError, "steps"),
    ("trainer.fit(task, 1.0)", TypeError, "steps"),
    ("trainer.fit(task, True)", TypeError, "steps"),
    ("trainer.fit(7, 2)", TypeError, "task"),
    ("trainer.evaluate_bits(np.array([], int))", ValueError, "symbols"),
    ("trainer.evaluate_bits(np.array([1]))", ValueError, "symbols"),
    ("trainer.evaluate_bits(np.array([0, 3, 1]))", ValueError, "symbols"),
    ("trainer.evaluate_bits(np.array([0, 1, 3]))", ValueError, "symbols"),
    ("trainer.evaluate_bits(np.array([0, 1, -1]))", ValueError, "symbols"),
    ("trainer.evaluate_bits(np.array([[0, 1]]))", ValueError, "symbols"),
    ("trainer.evaluate_bits(np.array([0.0, 1.0]))", TypeError, "symbols"),
    ("trainer.evaluate_bits(np.array([0, 1]), chunk=0)", ValueError, "chunk"),
    ("trainer.save(here / 'missing' / 'x.npz')", FileNotFoundError, "missing"),
    ("trainer.load(here / 'missing.npz')", FileNotFoundError, "missing.npz"),
    ("trainer.load(here)", (OSError, ValueError), "checkpoint"),
    ("trainer.load_state_dict(None)", TypeError, "state"),
    ("trainer.load_state_dict({})", ValueError, "state"),
    ("trainer.load_state_dict(saved | {'trainer': 1})", (TypeError, ValueError), "trainer"),
    ("trainer.load_state_dict(saved | {'trainer': {}})", (TypeError, ValueError), "readout"),
    ("trainer.load_state_dict(saved | {'trainer': without(own, 'theta')})", (TypeError, ValueError), "theta"),
    ("trainer.load_state_dict(saved | {'trainer': own | {'steps': -1}})", ValueError, "steps"),
    ("trainer.load_state_dict(saved | {'optimizer': without(adam, 'theta.mean')})", ValueError, "theta.mean"),
    ("trainer.load_state_dict(saved | {'estimator': {}})", ValueError, "state"),
]


@pytest.mark.parametrize("expression, error, word", TRAINER_CALLS, ids=[row[0] for row in TRAINER_CALLS])
def test_trainer_calls(expression, error, word, tmp_path):
    trainer, linear = make_trainer(), make_trainer(readout=okcore.LinearReadout)
    names = {
        "trainer": trainer, "linear": linear, "est": trainer.estimator, "readout": trainer.readout,
        "task": tasks.Copy(B, rng=0), "saved": trainer.state_dict(), "here": tmp_path,
    }
    names |= {"own": names["saved"]["trainer"], "adam": names["saved"]["optimizer"]}
    before = flat_state(trainer), flat_state(linear)
    refuses(expression, names, error, word)
    assert_same_state(flat_state(trainer), before[0])
    assert_same_state(flat_state(linear), before[1])


# ---- checkpoints that are none ------------------------------------------------------------------


FORMAT = {"okcore/format": np.array(checkpoint.FORMAT)}


class Trap:
    def __reduce__(self):
        return pytest.fail, ("a checkpoint was unpickled",)


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


DAMAGE = {
    "empty": lambda good: b"",
    "one byte": lambda good: good[:1],
    "half": lambda good: good[: len(good) // 2],
    "all but a byte": lambda good: good[:-1],
    "first half zero": lambda good: bytes(len(good) // 2) + good[len(good) // 2 :],
    "text": lambda good: b"this is no checkpoint\n" * 99,
    "pickle": lambda good: npy(np.array([Trap()]))[-200:],
    "npy": lambda good: npy(np.ones(3)),
    "npy with a pickle": lambda good: npy(np.array([Trap()])),
    "npz with a pickle": lambda good: npz(**FORMAT, theta=np.array([Trap()])),
    "npz of somebody else": lambda good: npz(a=np.ones(3)),
    "npz of a later format": lambda good: npz(**{"okcore/format": np.array(999)}),
    "npz without its groups": lambda good: npz(**FORMAT),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoints(damage, tmp_path):
    path, trainer = tmp_path / "checkpoint.npz", make_trainer()
    trainer.save(path)
    trainer.partial_fit([1, 1], [0, 0])
    before = flat_state(trainer)
    path.write_bytes(DAMAGE[damage](path.read_bytes()))
    with pytest.raises(ValueError, match=r"checkpoint|state"):
        trainer.load(path)
    assert_same_state(flat_state(trainer), before)


def test_no_flipped_bit_goes_unnoticed(tmp_path):
    # Every bit of one entry of the zip's directory, and some of everywhere: refused, or read as written.
    path = tmp_path / "checkpoint.npz"
    checkpoint.write(path, {"trainer": {"theta": np.arange(6.0), "steps": 3}, "task": {"kind": "Copy"}})
    good, groups = path.read_bytes(), checkpoint.read(path)
    entry = good.rindex(b"PK\1\2", 0, good.rindex(b"PK\1\2"))
    places = [(place, bit) for place in range(entry, entry + 46) for bit in range(8)]
    places += [(place, place % 8) for place in range(0, len(good), 29)]
    for place, bit in places:
        damaged = bytearray(good)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        try:
            flat = checkpoint.flatten(checkpoint.read(path))
        except ValueError:
            continue
        assert_same_state(flat, checkpoint.flatten(groups))


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "checkpoint.npz"
    checkpoint.write(path, {"a": {"b": 1}})
    good = path.read_bytes()
    with pytest.raises(ValueError, match=r"pickle|Object"):
        checkpoint.write(path, {"a": {"b": object()}})
    assert path.read_bytes() == good
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


# ---- overflow -----------------------------------------------------------------------------------


class Linear(okcore.Cell):
    """h = W_x x + W_h h' + b, with a Jacobian of `slope` (1 is the true one)."""

    slope = 1

    def pointwise(self, pre, state):
        d = np.full((len(pre), 1, 1, 1, N), self.slope, self.dtype)
        return pre[:, 0].copy(), d, np.zeros((len(pre), 1, 1, N), self.dtype)


class Exploding(okcore.Cell):
    """A state that stays 0 while its Jacobian is `growth` times the input."""

    def pointwise(self, pre, state):
        growth = {np.float32: 1e20, np.float64: 1e160}[self.dtype.type]
        d = np.ones((len(pre), 1, 1, 1, N), self.dtype)
        return np.zeros_like(state), d, self.dtype.type(growth) * pre


def only_lane_one(cell):
    """Return inputs that are 0 in lane 0 and 1 in lane 1, and a theta that passes them on."""
    cell.theta[...] = 0
    cell.theta[:, 0] = 1
    x = np.zeros((B, V), cell.dtype)
    x[1, 0] = 1
    return x


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_state_that_overflows(name, dtype):
    cell = Linear(V, N, dtype=dtype, init="zeros")
    cell.slope = 0  # the state overflows, the influence does not
    x = only_lane_one(cell)
    estimator = ESTIMATORS[name](cell)
    cell.theta[:, V : V + N] = np.eye(N) * np.sqrt(np.finfo(dtype).max) * 2  # h: 1, 2 sqrt(max), infinite
    estimator.step(x)
    h = estimator.step(x)
    before = estimator.state_dict()
    with pytest.raises(FloatingPointError, match=r"state.*lane 1.*step 3"):
        estimator.step(x)
    if name != "UORO":  # with block 1 the step's block has closed already
        assert_same_state(estimator.state_dict(), before)
    assert np.array_equal(estimator.state, h)
    estimator.reset()
    assert np.isfinite(estimator.step(x)).all()


@pytest.mark.parametrize("value", [NAN, INF])
@pytest.mark.parametrize("cell", [okcore.RNN, okcore.RHN, okcore.LSTM, okcore.GRU])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_a_theta_that_is_not_finite(name, cell, value):
    estimator = ESTIMATORS[name](cell(V, N, rng=0))
    estimator.step([0, 1])
    good = estimator.cell.theta.copy()
    estimator.cell.theta[...] = value
    with pytest.raises(FloatingPointError, match=r"lane 0.*step 2"):
        estimator.step([0, 1])
    estimator.cell.theta[...] = good
    assert np.isfinite(estimator.step([0, 1])).all()


@pytest.mark.parametrize("block", [1, 3])
def test_steps_that_fail_leave_the_gradient(block):
    # However often a step fails, whatever theta it fails with, the last good step keeps its gradient.
    cell = okcore.RNN(V, N, dtype=np.float64, rng=0)
    estimator = okcore.RTRL(cell, block=block, batch_size=B)
    for _ in range(4):
        h = estimator.step([0, 1])
    expected, good = estimator.gradient(h), cell.theta.copy()
    for attempt in range(block + 1):
        cell.theta[...] = attempt
        cell.theta[:, -1] = NAN
        with pytest.raises(FloatingPointError):
            estimator.step([0, 1])
    cell.theta[...] = good
    assert np.abs(expected).max() > 0
    np.testing.assert_allclose(estimator.gradient(h), expected, rtol=1e-12)


BLOCKS = [
    ("RTRL", {"block": 1}), ("RTRL", {"block": 3}), ("UORO", {"rng": 0}),
    ("KFRTRL", {"block": 1, "rng": 0}), ("KFRTRL", {"copies": 3, "block": 3, "rng": 0}),
    ("OK", {"rank": 2, "block": 1, "rng": 0}), ("OK", {"rank": 2, "block": 3, "rng": 0}),
    ("OK", {"rank": 20, "block": 3, "rng": 0}),
    ("OK", {"rank": 2, "block": 3, "mixing": "sampling", "rng": 0}),
]
WINDOWS = [("TBPTT", {"horizon": 3}), ("TBPTT", {"horizon": 5})]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name, arguments", BLOCKS, ids=str)
def test_an_influence_that_overflows(name, arguments, dtype):
    cell = Exploding(V, N, dtype=dtype, init="zeros")
    x = only_lane_one(cell)
    estimator = getattr(okcore, name)(cell, batch_size=B, **arguments)
    with pytest.raises(FloatingPointError, match=r"influence of lane 1\b.*step \d+"):
        for _ in range(60):
            estimator.step(x)
    x[1] = 0  # this input's Jacobian is zero: both lanes go on, and nothing that is not finite is left behind
    estimator.reset(np.array([False, True]))
    for _ in range(5):
        h = estimator.step(x)
        assert np.isfinite(estimator.gradient(h + 1)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("read", ["gradient", "flush"])
@pytest.mark.parametrize("name, arguments", BLOCKS + WINDOWS, ids=str)
def test_a_gradient_that_overflows(name, arguments, read, dtype):
    cell = Exploding(V, N, dtype=dtype, init="zeros")
    x = only_lane_one(cell)
    estimator = getattr(okcore, name)(cell, batch_size=B, **arguments)
    dh = np.ones((B, N), dtype)
    with pytest.raises(FloatingPointError, match=r"influence of lane 1\b.*step \d+"):
        for _ in range(60):
            estimator.step(x)
            if read == "gradient":
                assert np.isfinite(estimator.gradient(dh)).all()
            else:
                estimator.accumulate(dh)
                assert np.isfinite(estimator.flush()).all()


# ---- users' own cells ---------------------------------------------------------------------------

OWN_CELLS = [
    (lambda s, d, c: s, TypeError, "pointwise"),
    (lambda s, d, c: (s, d), TypeError, "pointwise"),
    (lambda s, d, c: (s[:, 0], d, c), ValueError, "state"),
    (lambda s, d, c: (s, d[:, 0], c), ValueError, "d"),
    (lambda s, d, c: (s, d, c[:1]), ValueError, "c"),
    (lambda s, d, c: (s.astype(np.float64), d, c), TypeError, "state"),
    (lambda s, d, c: (s, d, c.astype(np.float64)), TypeError, "c"),
    (lambda s, d, c: (spoil(s, NAN), d, c), FloatingPointError, "lane 1"),
    (lambda s, d, c: (s, spoil(d, NAN), c), FloatingPointError, "lane 1"),
    (lambda s, d, c: (s, d, spoil(c, INF)), FloatingPointError, "lane 1"),
]


@pytest.mark.parametrize("spoiled, error, word", OWN_CELLS)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_own_cells_that_return_nonsense(name, spoiled, error, word):
    class Own(Linear):
        broken = False

        def pointwise(self, pre, state):
            results = super().pointwise(pre, state)
            return spoiled(*results) if self.broken else results

    cell = Own(V, N, rng=0)
    estimator = ESTIMATORS[name](cell)
    h = estimator.step([0, 1])
    cell.broken = True
    with pytest.raises(error, match=rf"\b{word}\b"):
        estimator.step([0, 1])
        estimator.gradient(h + 1)  # d and c are used no earlier
        estimator.step([0, 1])
        estimator.gradient(h + 1)


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
