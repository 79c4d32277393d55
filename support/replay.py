"""Replay memories: rings of preallocated arrays."""

import math

import numpy as np


class ReplayMemory:
    """A ring of preallocated arrays, one for each field; the newest entries replace the oldest.

    Args:
        capacity: entries that fit.
        fields: {name: (shape, dtype)}.
    """

    def __init__(self, capacity, fields):
        self.arrays = {name: np.zeros((capacity, *shape), dtype) for name, (shape, dtype) in fields.items()}
        self.capacity, self.size, self.next = capacity, 0, 0

    def entry_bytes(self):
        return sum(array.nbytes for array in self.arrays.values()) // self.capacity

    def add(self, **batch):
        """Adds entries: {name: array [n, *shape]}, at most `capacity` of them."""
        count = len(next(iter(batch.values())))
        positions = (self.next + np.arange(count)) % self.capacity
        for name, array in self.arrays.items():
            array[positions] = batch[name]
        self.next = (self.next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def skip(self, count):
        """Goes on as if `count` entries had been added, all of which will be replaced before any is drawn."""
        self.next = (self.next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, generator, updates, batch_size):
        """Minibatches for a block of updates: a list of arrays [updates, batch_size, *shape], in the fields' order."""
        rows = self.rows(generator, (updates, batch_size))
        return [np.take(array, rows, axis=0) for array in self.arrays.values()]

    def rows(self, generator, shape):
        """Draws entries: integers [*shape]."""
        return generator.integers(self.size, size=shape, dtype=np.int32)


class Transitions(ReplayMemory):
    """What a teacher learns from by Q-learning: single transitions.

    Args:
        capacity: transitions that fit.
        shape: of an observation.
        settings: the configuration's group `teacher`.
    """

    history = math.inf  # steps of all copies that build it anew

    def __init__(self, capacity, shape, settings):
        self.discount = np.float32(settings["discount"])
        fields = {
            "observations": (shape, np.float32),
            "actions": ([], np.int32),
            "rewards": ([], np.float32),
            "next_observations": (shape, np.float32),
            "terminated": ([], np.float32),
        }
        super().__init__(capacity, fields)

    def add_step(self, observations, actions, rewards, following, terminated, ended, over):
        """Adds a step of all copies, arrays [copies, ...].

        Args:
            over: the episode had ended before, so that the step only started the next one.
        """
        kept = ~over
        self.add(
            observations=observations[kept],
            actions=actions[kept],
            rewards=rewards[kept],
            next_observations=following[kept],
            terminated=terminated[kept],
        )

    def sample(self, generator, updates, batch_size):
        """Observations, actions, rewards, observations that follow, and the factors with which their values count."""
        *batches, terminated = super().sample(generator, updates, batch_size)
        return *batches, self.discount * (1 - terminated)


class FrameTransitions(ReplayMemory):
    """The same for observations that are stacks of frames: keeps each frame once, and learns over several steps.

    Rows follow one another in steps of all copies. A row is a state with the action taken there and what came of it.

    Args:
        capacity, shape, settings: see Transitions.
    """

    def __init__(self, capacity, shape, settings):
        self.copies, self.steps, self.discount = settings["environments"], settings["n_steps"], settings["discount"]
        self.stack, *frame = shape
        fields = {
            "frames": (frame, np.uint8),  # the newest of the stack
            "first": ([], bool),  # in its episode
            "actions": ([], np.int32),
            "rewards": ([], np.float32),
            "terminated": ([], bool),
            "ended": ([], bool),
            "over": ([], bool),  # the episode's end: no action was taken here
        }
        self.history = capacity // self.copies
        super().__init__(self.history * self.copies, fields)
        self.over = np.ones(self.copies, bool)  # before the first step

    def add_step(self, observations, actions, rewards, following, terminated, ended, over):
        self.add(
            frames=observations[:, -1],
            first=self.over,
            actions=actions,
            rewards=rewards,
            terminated=terminated,
            ended=ended,
            over=over,
        )
        self.over = over

    def sample(self, generator, updates, batch_size):
        oldest = self.next - self.size
        low = self.stack * self.copies if self.size == self.capacity else 0  # their older frames are gone
        high = self.size - self.steps * self.copies
        rows = np.zeros((updates, batch_size), np.int64)
        wanted = np.ones(rows.shape, bool)
        while count := np.count_nonzero(wanted):
            rows[wanted] = (oldest + generator.integers(low, high, count)) % self.capacity
            wanted = self.arrays["over"][rows]
        rewards, factors = np.zeros(rows.shape, np.float32), np.full(rows.shape, self.discount**self.steps, np.float32)
        following, going = self._later(rows, self.steps), np.ones(rows.shape, bool)
        for step in range(self.steps):
            here = self._later(rows, step)
            rewards += np.where(going, np.float32(self.discount**step) * self.arrays["rewards"][here], 0)
            terminated, ended = (going & self.arrays[name][here] for name in ("terminated", "ended"))
            factors[ended] = self.discount ** (step + 1)
            factors[terminated] = 0
            following = np.where(ended, self._later(here, 1), following)
            going &= ~(terminated | ended)
        return self._stacks(rows), self.arrays["actions"][rows], rewards, self._stacks(following), factors

    def _later(self, rows, steps):
        return (rows + steps * self.copies) % self.capacity

    def _stacks(self, rows):
        """Stacked frames, uint8 [*rows.shape, stack, height, width]; black where the episode had not begun."""
        places, begun = np.empty((2, *rows.shape, self.stack), np.int64)
        now = np.ones(rows.shape, np.int64)
        for place in reversed(range(self.stack)):
            places[..., place], begun[..., place] = rows, now
            now &= ~self.arrays["first"][rows]
            rows = self._later(rows, -1)
        result = np.take(self.arrays["frames"], places, axis=0)
        result[begun == 0] = 0
        return result
