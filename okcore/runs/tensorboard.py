"""The numbers of metrics.jsonl as TensorBoard's event files."""


def summary_writer():
    """Return the class that writes event files."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        raise ValueError('--tensorboard needs tensorboardX: pip install "okcore[tensorboard]"') from None
    return SummaryWriter


def open_events(folder, steps):
    """Return a writer of a new event file in the folder of a run that has taken `steps` steps.

    What earlier files hold of later steps, from a run that was killed after its last checkpoint, TensorBoard drops.
    """
    # Files are named by the second: without the suffix, a run that is resumed at once would overwrite what it wrote
    return summary_writer()(
        str(folder / "tensorboard"), purge_step=steps + 1, flush_secs=1, filename_suffix=f".{steps:010}"
    )


def add_line(events, line):
    """Write the numbers of a line of metrics."""
    for name, value in line.items():
        parts = value.items() if isinstance(value, dict) else [("", value)]
        for part, number in parts:
            if name != "step" and number is not None:
                events.add_scalar(f"{name}/{part}".rstrip("/"), number, line["step"])
