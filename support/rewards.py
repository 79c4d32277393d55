"""Statistics of rewards, and rewards and sizes in words."""

import math
from typing import NamedTuple

import numpy as np


def standard_error(rewards):
    """Standard error of the mean along the last axis."""
    return rewards.std(axis=-1, ddof=1) / np.sqrt(rewards.shape[-1])


def worst_tenth(rewards):
    """Mean of the lowest tenth of rewards, at least of one."""
    return float(np.sort(rewards, axis=None)[: math.ceil(rewards.size / 10)].mean())


def reward_statistics(rewards, played=None):
    """Episodes, mean, standard error, lowest, mean of the worst tenth: how every reward is reported.

    Args:
        played: a Player's; adds the number of different episodes where some are the same.
    """
    distinct = len(np.unique(played)) if played is not None else rewards.size
    return {
        "episodes": int(rewards.size),
        "reward_mean": float(rewards.mean()),
        "reward_stderr": float(standard_error(rewards.reshape(-1))),
        "reward_min": float(rewards.min()),
        "reward_worst_tenth": worst_tenth(rewards),
        **({"distinct": distinct} if distinct < rewards.size else {}),
    }


def reward_line(report):
    """A policy's size and reward in words."""
    size = f"{report['weights']:,} weights"
    if report["nonzero"] < report["weights"]:
        size = f"{report['nonzero']:,} of {size}"
    return f"{size} ({shares(report)}), reward {rewards_text(report)}"


def shape_text(widths):
    """Units of the hidden layers in words."""
    return "-".join(map(str, widths)) or "none"


def shares(report):
    """Size in percent of the original: of the nonzero weights where some are zero."""
    return f"{report['percent'] * report['nonzero'] / report['weights']:.3g} %"


def rewards_text(report):
    """Mean and standard error in words, with one decimal, or more where the error needs them for two digits."""
    error = report["reward_stderr"]
    decimals = 1 if error == 0 or error >= 0.05 else min(6, 1 - math.floor(math.log10(error)))
    text = f"{report['reward_mean']:.{decimals}f} ± {error:.{decimals}f}"
    return f"{text} ({report['distinct']} different)" if "distinct" in report else text


def lower_confidence(rewards, confidence):
    """The mean less `confidence` standard errors, along the last axis."""
    return rewards.mean(axis=-1) - confidence * standard_error(rewards)


def matches(rewards, others, margin):
    """Whether rewards are as good as another policy's on the same episodes: the mean difference is at most a margin, or one
    standard error of the differences if that is more, below zero. Without a margin, enough episodes would tell any two
    policies apart."""
    difference = rewards - others
    return bool(difference.mean() >= -max(margin, standard_error(difference)))


class Reference(NamedTuple):
    """The rewards of the policy that a run was given, with which students are compared on the same episodes.

    Attributes:
        mean: its reported reward if the objective follows from it; None if the settings say the objective.
        confirm: on the episodes that confirm a student, float64 [episodes]; None if it was not played on these.
        choose: on those that tell whether a student matches it, float64 [episodes].
        margin: how far below it a student may be that matches it, in rewards.
        robust: what a student has to reach in other ways to play, {name: {"students" or "choose": float64 [episodes]}}.
    """

    mean: float | None
    confirm: np.ndarray | None
    choose: np.ndarray
    margin: float
    robust: dict

    def adjusted(self, rewards):
        """Rewards in confirming episodes, as they are compared with the objective.

        An objective that follows from the policy's own reward asks how far below it a student may be. So the paired
        differences count, added to that reward, and not whether the episodes are easy ones.
        """
        return rewards if self.mean is None else rewards - self.confirm + self.mean
