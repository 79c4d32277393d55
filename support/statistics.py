"""Statistics over seeds and environments, as Agarwal et al. (2021) recommend for reinforcement learning."""

import numpy as np
from scipy import stats

RESAMPLES = 2_000
CONFIDENCE = 0.95
LEAST = 5  # values of a group, below which there is no interval: it would hold the truth far too seldom


def interquartile_mean(values, axis=-1):
    """The mean of the middle half: a quarter of the values is left out at each end."""
    return stats.trim_mean(values, 0.25, axis=axis)


def interval(groups, statistic=interquartile_mean):
    """A statistic of all values, and its 95 % interval by a bootstrap that is stratified: each group is resampled apart.

    Args:
        groups: for each environment the values of its seeds.
        statistic: of values along an axis.

    Returns:
        (statistic, low, high). Where a group has less than `LEAST` values, there is no interval: both are nan.
    """
    groups = [np.asarray(group, float) for group in groups]

    def of_all(*samples, axis=-1):
        return statistic(np.concatenate(samples, axis=axis), axis=axis)

    return _bootstrap(groups, of_all)


def probability_of_improvement(better, worse):
    """The probability that a run of one method needs fewer weights than one of another (ties count half), averaged over
    environments, with its interval.

    Args:
        better, worse: for each environment the sizes of the method's seeds.
    """
    count = len(better)

    def probability(*samples, axis=-1):
        parts = []
        for ours, theirs in zip(samples[:count], samples[count:], strict=True):
            ours, theirs = np.moveaxis(ours, axis, -1)[..., :, None], np.moveaxis(theirs, axis, -1)[..., None, :]
            parts.append(((ours < theirs) + 0.5 * (ours == theirs)).mean(axis=(-2, -1)))
        return np.mean(parts, axis=0)

    return _bootstrap([np.asarray(group, float) for group in (*better, *worse)], probability)


def performance_profile(groups, thresholds):
    """Share of runs whose value is at most each threshold, the environments weighing alike."""
    return np.mean([(np.asarray(group)[:, None] <= thresholds).mean(axis=0) for group in groups], axis=0)


def _bootstrap(groups, statistic):
    value = float(statistic(*groups))
    if min(map(len, groups)) < LEAST:
        return value, np.nan, np.nan
    found = stats.bootstrap(
        groups,
        statistic,
        n_resamples=RESAMPLES,
        confidence_level=CONFIDENCE,
        method="percentile",
        vectorized=True,
        paired=False,
        rng=np.random.default_rng(0),
    )
    return value, float(found.confidence_interval.low), float(found.confidence_interval.high)
