"""Statistics of rewards, and rewards and sizes in words."""

import numpy as np


def standard_error(rewards):
    """Standard error of the mean along the last axis."""
    return rewards.std(axis=-1, ddof=1) / np.sqrt(rewards.shape[-1])


def reward_statistics(rewards, played=None):
    """Episodes, mean, standard error, lowest: how every reward is reported.

    Args:
        played: a Player's; adds the number of different episodes where some are the same.
    """
    distinct = len(np.unique(played)) if played is not None else rewards.size
    return {
        "episodes": int(rewards.size),
        "reward_mean": float(rewards.mean()),
        "reward_stderr": float(standard_error(rewards.reshape(-1))),
        "reward_min": float(rewards.min()),
        **({"distinct": distinct} if distinct < rewards.size else {}),
    }


def reward_line(report):
    """A policy's size and reward in words."""
    size = f"{report['weights']:,} weights"
    if report["nonzero"] < report["weights"]:
        size = f"{report['nonzero']:,} of {size}"
    return f"{size} ({shares(report)}), reward {rewards_text(report)}"


def shares(report):
    """Size in percent of the original: of the nonzero weights where some are zero."""
    return f"{report['percent'] * report['nonzero'] / report['weights']:.3g} %"


def rewards_text(report):
    text = f"{report['reward_mean']:.1f} ± {report['reward_stderr']:.1f}"
    return f"{text} ({report['distinct']} different)" if "distinct" in report else text


def lower_confidence(rewards, confidence):
    """The mean less `confidence` standard errors, along the last axis."""
    return rewards.mean(axis=-1) - confidence * standard_error(rewards)


def matches(rewards, others):
    """Whether rewards are as good as others: their mean at most one standard error (of the difference) below."""
    error = np.hypot(standard_error(rewards), standard_error(others))
    return bool(rewards.mean() >= others.mean() - error)
