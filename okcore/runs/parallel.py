"""Data-parallel training: the lanes of one batch spread over the ranks of MPI.

Every rank steps the whole task and takes the lanes that are its own. One Allreduce per step sums the gradients, the
loss and three flags, so that parameters stay identical on all ranks, and all stop, save and fail after the same step.
Rank 0 alone touches the run's folder and prints; a checkpoint holds the whole batch, whatever the number of ranks.

Nothing here imports mpi4py unless ``python -m mpi4py`` has.
"""

import functools
import hashlib
import os
import sys
import traceback

import numpy as np

from okcore import _validation
from okcore.estimators import Estimator
from okcore.trainer import OnlineTrainer

LOSS, FAILED, STOP, SAVE = range(-4, 0)  # places at the end of what is summed


class ParametersDiffer(Exception):
    """The ranks' parameters are no longer identical."""


class StepsDiffer(ValueError):
    """The ranks' lanes are not at the same step: one of them failed in it."""


class OneProcess:
    """A run in one process, with nobody to agree with: what `Ranks` does for several."""

    leader = True        # whether this process writes to the folder and prints
    size = 1

    def lanes(self, batch_size):
        """Return the lanes of this rank."""
        return range(batch_size)

    def make_trainer(self, batch_size, *arguments):
        """Return a trainer of the rank's lanes, of `batch_size` in all."""
        return OnlineTrainer(*arguments)

    def share(self, task, estimator):
        """Return the task for the rank's lanes."""
        return task

    def lead(self, function, *arguments):
        """Return function(*arguments), called on rank 0 alone; what it raises is raised on all ranks."""
        return function(*arguments)

    def each(self, function, *arguments):
        """Return function(*arguments), called on each rank; what one of them raises is raised on all."""
        return function(*arguments)

    def agree(self, stop, save):
        """Return whether to stop and whether to save, the same on all ranks, from what each wants."""
        return stop, save

    def collect(self, items):
        """Return the items of all ranks in one list."""
        return items

    def join(self, groups):
        """Return the trainer's state with the lanes of all ranks, on rank 0; other ranks get no groups."""
        return groups

    def take(self, read):
        """Return the groups of a checkpoint with the rank's lanes; ``read()`` returns the whole, or None."""
        return read()

    def check(self, trainer):
        """Raise ParametersDiffer if the ranks' parameters are not identical."""

    def share_failure(self, error):
        """Return whether an exception was raised on all ranks."""
        return True

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        pass


ONE_PROCESS = OneProcess()


class Ranks(OneProcess):
    """The ranks of an MPI communicator, seen from one of them.

    Parameters
    ----------
    comm : mpi4py.util.pkl5.Intracomm
        It sends what is larger than 2 GB, too.
    """

    def __init__(self, comm):
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.leader = self.rank == 0
        self.wanted = self.agreed = (False, False)  # to stop, to save
        self.failures = []  # the exceptions that were raised on all ranks
        if not self.leader:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def lanes(self, batch_size, rank=None):
        if batch_size < self.size:
            raise ValueError(f"--batch must be at least {self.size}, the number of MPI processes, got {batch_size}")
        rank = self.rank if rank is None else rank
        return range(rank * batch_size // self.size, (rank + 1) * batch_size // self.size)

    def make_trainer(self, batch_size, *arguments):
        return RankTrainer(self, batch_size, *arguments)

    def share(self, task, estimator):
        return TaskShare(task, estimator, self.lanes(task.batch_size))

    def lead(self, function, *arguments):
        result = error = None
        if self.leader:
            try:
                result = function(*arguments)
            except (Exception, SystemExit) as caught:
                error = caught
        result, error = self.comm.bcast((result, error))
        if error is not None:
            self.fail(error)
        return result

    def each(self, function, *arguments):
        result = error = None
        try:
            result = function(*arguments)
        except Exception as caught:
            error = caught
        self.raise_first(error)
        return result

    def raise_first(self, error=None):
        """Raise on all ranks the exception of the first that has one, if any has."""
        if error is not None:
            error.add_note(f"on rank {self.rank}:\n" + "".join(traceback.format_exception(error)))
        for other in self.comm.allgather(error):
            if other is not None:
                self.fail(other)

    def fail(self, error):
        """Raise what is raised on all ranks; rank 0 alone will report it."""
        self.failures.append(error)
        if not self.leader:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())
        raise error

    def sum_(self, buffer, error=None):
        """Sum an array over ranks, in place. What it ends with says what each rank wants, and whether it failed."""
        buffer[FAILED], (buffer[STOP], buffer[SAVE]) = error is not None, self.wanted
        self.comm.Allreduce(_mpi().IN_PLACE, buffer)
        self.agreed = bool(buffer[STOP]), bool(buffer[SAVE])
        if buffer[FAILED]:
            self.raise_first(error)

    def agree(self, stop, save):
        self.wanted = stop, save and not self.agreed[1]  # what is being done is not asked for again
        return self.agreed

    def collect(self, items):
        return [item for part in self.comm.allgather(items) for item in part]

    def join(self, groups):
        # Credits were scaled by each rank's share of the batch, so what has been summed of them adds up.
        parts = self.comm.gather((groups["estimator"], groups["trainer"]["readout_gradient"]))
        joined = {}

        def put_together():
            states, gradients = zip(*parts, strict=True)
            trainer = groups["trainer"] | {"readout_gradient": sum(gradients)}
            try:
                estimator = Estimator.join_lanes(states)
            except ValueError as error:
                raise StepsDiffer(str(error)) from None
            joined.update(groups | {"trainer": trainer, "estimator": estimator})

        self.lead(put_together)
        return joined

    def take(self, read):
        parts = []

        def split():
            groups = read()
            if groups is None:
                return None
            state = _validation.as_dict("estimator", groups.pop("estimator", None))
            batch_size = _validation.as_int("batch_size", state.get("batch_size"), self.size)
            for rank in range(self.size):
                lanes = self.lanes(batch_size, rank)
                parts.append(Estimator.take_lanes(state, lanes.start, len(lanes)))
            return groups

        groups = self.lead(split)
        if groups is None:
            return None
        groups["estimator"] = self.comm.scatter(parts if self.leader else None)
        trainer = groups.get("trainer", {})
        if not self.leader and "readout_gradient" in trainer:  # a sum over lanes, with which rank 0 goes on
            trainer["readout_gradient"] = np.zeros_like(trainer["readout_gradient"])
        return groups

    def check(self, trainer):
        digest = hashlib.blake2b(trainer.cell.theta, digest_size=16)
        digest.update(trainer.readout.weights)
        digests = self.comm.allgather(digest.digest())
        for rank, other in enumerate(digests):
            if other != digests[0]:
                self.fail(ParametersDiffer(
                    f"the parameters of rank {rank} differ from those of rank 0 at step {trainer.steps} (all ranks "
                    "need the same versions, BLAS and kind of processor)"
                ))  # fmt: skip

    def share_failure(self, error):
        return any(error is failure for failure in self.failures)

    def __exit__(self, kind, error, trace):
        if error is None or self.share_failure(error):  # otherwise mpi4py ends the ranks that go on
            _mpi().Finalize()


class TaskShare:
    """A task for the lanes of one rank; the whole of it is stepped."""

    def __init__(self, task, estimator, lanes):
        self.task, self.estimator = task, estimator
        self.lanes = slice(lanes.start, lanes.stop)

    def __iter__(self):
        return self

    def __next__(self):
        x, y, reset = next(self.task)
        if reset is not None:
            self.estimator.block_goes_on = not np.all(reset)
            reset = reset[self.lanes]
        return x[self.lanes], y[self.lanes], reset

    def observe(self, loss_bits):
        """Pass on the loss, which is that of all lanes."""
        self.task.observe(loss_bits)


class RankTrainer(OnlineTrainer):
    """An `OnlineTrainer` of one rank's lanes: losses and gradients are means over the lanes of all ranks."""

    def __init__(self, ranks, batch_size, cell, estimator, *arguments):
        super().__init__(cell, estimator, *arguments)
        self.ranks = ranks
        self._share = estimator.batch_size / batch_size
        self._summed = np.zeros(cell.theta.size + self.readout.weights.size - LOSS, cell.dtype)
        self._gradient = self._summed[: cell.theta.size].reshape(cell.theta.shape)
        self._sum_of_readouts = self._summed[cell.theta.size : LOSS].reshape(self.readout.weights.shape)
        self._has_summed = False

    def _loss(self, h, y):
        loss, dh, readout_gradient = super()._loss(h, y)
        self._summed[LOSS] = loss * self._share
        share = self.cell.dtype.type(self._share)
        return loss, dh * share, readout_gradient * share

    def partial_fit(self, x, y, reset=None):
        updates = (self.steps + 1) % self.update_every == 0
        buffer = self._summed if updates else self._summed[LOSS:]
        self._has_summed = False
        try:
            super().partial_fit(x, y, reset)
            if not updates:
                self._sum(buffer)
        except Exception as error:
            if not self._has_summed:  # the other ranks wait for this one
                if isinstance(error, FloatingPointError):
                    where = f"on rank {self.ranks.rank}, whose lane 0 is the batch's {self.estimator.first_lane}"
                    error = FloatingPointError(f"{error} ({where})")
                buffer[...] = 0
                self._sum(buffer, error)
            raise
        return float(self._summed[LOSS])

    def _update(self, readout_gradient):
        np.copyto(self._sum_of_readouts, readout_gradient)
        self._sum(self._summed)
        try:
            super()._update(self._sum_of_readouts)
        except FloatingPointError as error:  # the same on all ranks
            self.ranks.fail(error)

    def _sum(self, buffer, error=None):
        self._has_summed = True
        self.ranks.sum_(buffer, error)


def _mpi():
    from mpi4py import MPI

    return MPI


@functools.cache
def ranks():
    """Return the processes of this run: MPI's, if there are several and Python was started by ``python -m mpi4py``."""
    if "mpi4py" not in sys.modules or _mpi().COMM_WORLD.size == 1:
        return ONE_PROCESS
    from mpi4py.util import pkl5

    return Ranks(pkl5.Intracomm(_mpi().COMM_WORLD))
