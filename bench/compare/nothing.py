"""Do nothing: walk over the data, which is what the loop around a job costs by itself."""


class Nothing:
    name = "nothing"

    def __init__(self, job):
        self.job = job

    def __call__(self):
        for _ in zip(self.job.xs, self.job.dhs, strict=True):
            pass
