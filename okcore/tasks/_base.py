"""The interface that a trainer expects of a task."""


class Task:
    """Base class: an endless iterator of ``(x, y, reset)``, each with the lane as first axis.

    A subclass sets ``n_in``, ``n_out`` and ``batch_size`` and defines ``__next__``. It may define `observe` to
    receive each loss, and `state_dict` and `load_state_dict` so that a run can be resumed.
    """

    n_in = n_out = batch_size = None

    def __iter__(self):
        return self

    def __next__(self):
        raise NotImplementedError(f"{type(self).__name__} must define __next__")

    def observe(self, loss_bits):
        """Receive the loss of the last step in bits, averaged over lanes."""

    def state_dict(self):
        """Return the position in the stream as arrays and plain scalars."""
        return {}

    def load_state_dict(self, state):
        """Restore a position that `state_dict` returned."""
