"""Seeds: every random number follows from the run's one seed."""

import zlib

import numpy as np


class Seeds:
    """Every random number of a run, derived from its one seed and from what the number is for."""

    # Environments of different uses get seeds from ranges that do not meet: what training or the choice within an epoch has
    # seen does not confirm that choice, and what any choice has seen is not reported.
    USES = ("train", "select", "confirm", "report")
    RANGE = 2**29
    COPIES = 10_000  # the seeds of an environment's copies follow on one another

    def __init__(self, seed):
        self.seed = seed

    def generator(self, *purpose):
        """A NumPy generator for one purpose, for example ("minibatches", "prune", step, iteration)."""
        key = [zlib.crc32(part.encode()) if isinstance(part, str) else part for part in purpose]
        return np.random.default_rng([self.seed, *key])

    def environment(self, use, *purpose):
        """An environment seed for one of the `USES`."""
        number = int(self.generator(use, *purpose).integers(self.RANGE))
        return self.USES.index(use) * self.RANGE + min(number, self.RANGE - self.COPIES)


def action_generator(seed):
    """A NumPy generator for the random actions in environments of this seed.

    Gymnasium starts an environment's own numbers from the seed alone, and with the same ones actions would follow from the
    first observation.
    """
    return np.random.default_rng([seed, 1])
