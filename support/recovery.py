"""What the profile `fast` does where a pruned student falls; the paper's own answer is `prune.Freeze`."""

from pops.support.run import Resumable
from pops.support.updates import TrainingState


class Rollback(Resumable):
    """Our answer to a bad score: go back to the last good state and prune half as fast.

    Hidden weights get no gradient, so a network that has collapsed at a sparsity does not recover while it is frozen there.
    """

    rate_factor = 1.0

    def __init__(self, settings, state):
        self.patience, self.left = settings["patience"], settings["rollbacks"]
        self.end = settings["end"]
        self.speed = 1.0
        self.good, self.below, self.done = state, 0, False

    def after_evaluation(self, state, met, below):
        self.below = self.below + 1 if below else 0
        if met:
            self.good = state
            self.done = float(state.clock) >= self.end  # as sparse as the schedule goes
        if self.below >= self.patience:
            self.below = 0
            self.done = self.left == 0
            self.left -= 1
            self.speed /= 2
            state = TrainingState(*self.good)  # a checkpoint gives it back as a plain tuple
        return state, self.done

    def after_iteration(self, below, sparsity):
        return self.done
