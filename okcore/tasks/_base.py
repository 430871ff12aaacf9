"""What a trainer and a run expect of a task, and the register of tasks."""

from okcore.readouts import SoftmaxReadout

# By the name on the command line. Its commands and help, and what a run reports, follow it.
TASKS = {}


def task(name):
    """Register a task under its name on the command line."""

    def register(cls):
        TASKS[name] = cls
        return cls

    return register


class Task:
    """Base class: an endless iterator of ``(x, y, reset)``, each with the lane as first axis.

    A subclass sets ``n_in``, ``n_out`` and ``batch_size`` and defines ``__next__``. It may define `observe` to
    receive each loss, and `state_dict` and `load_state_dict` so that training can be resumed. The rest is for tasks of
    the command line, registered by ``@task(name)``.
    """

    n_in = n_out = batch_size = None
    readout = SoftmaxReadout

    # What a run reports beside the loss: its name in metrics.jsonl, and in words; its unit if the words leave it open;
    # whether a larger value is better; how many times per run it is evaluated (None: with each line of metrics).
    measure = None
    words = None
    unit = None
    larger_is_better = True
    evaluations = None

    # The defaults of a run's options, and those of --preset paper
    defaults = {}
    paper = None
    # The task's own options: {name: arguments of argparse's add_argument}; a name without dashes is an argument
    options = {}
    examples = ""
    # Hints after a run: (command, meaning); {folder} is the run's folder
    next_steps = (("train copy", "a task where long memory matters"),)

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

    @staticmethod
    def resolve(options):
        """Complete the task's own options, in place, before a run starts."""

    @classmethod
    def from_options(cls, options, rng):
        """Make the task from the options of a run: ``batch``, ``dtype`` and its own."""
        return cls(options["batch"], rng=rng)

    def description(self):
        """Return what ``run.json`` says of the task, for programs that read a run without its data."""
        return {}

    def evaluate(self, trainer):
        """Return the measure of what the trainer has learned."""
        return getattr(self, self.measure)

    def summary(self, value):
        """Return what a measure of `value` means, for a newcomer: it follows "After 1,000 steps (7 s) "."""
        return f"the {self.words} is {value:.4g}."
