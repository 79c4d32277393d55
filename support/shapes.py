"""Units that matter in a pruned network, and widths that follow one on the other. None of this is in the paper."""

import math
from fractions import Fraction

import numpy as np


def alive(connections):
    """Which units of each hidden layer still lie on a path of nonzero weights from an input to an output.

    Args:
        connections: for each layer, [units in, units out]: not 0 where a weight joins the two.

    Returns:
        bool [units] for each hidden layer.
    """
    joined = [layer != 0 for layer in connections]
    reached = [np.ones(joined[0].shape[0], bool)]
    for layer in joined:
        reached.append(layer[reached[-1]].any(axis=0))
    used = [np.ones(joined[-1].shape[1], bool)]
    for layer in reversed(joined):
        used.append(layer[:, used[-1]].any(axis=1))
    used.reverse()
    return [r & u for r, u in zip(reached[1:-1], used[1:-1], strict=True)]


def input_shares(connections):
    """How much of a network passes through each input: the magnitudes along all paths from it to the outputs, as shares.

    Args:
        connections: for each layer, the sums of magnitudes [units in, units out].

    Returns:
        float64 [inputs] with the sum 1; 0 for an input from which no path of nonzero weights leads to an output.
    """
    strength = np.ones(connections[-1].shape[1])
    for layer in reversed(connections):
        strength = layer @ strength
        strength = strength / max(strength.sum(), np.finfo(float).tiny)
    return strength


def strongest_units(connections, widths):
    """The units of each hidden layer through which most passes: magnitudes of the weights into it times those out of it.

    Args:
        connections: for each layer, the sums of magnitudes [units in, units out].
        widths: how many units of each hidden layer.

    Returns:
        Indices in order, int [width] for each hidden layer. Of equal units the one further to the front comes first.
    """
    chosen = []
    for into, out, live, width in zip(connections, connections[1:], alive(connections), widths, strict=False):
        strength = into.sum(axis=0) * out.sum(axis=1) * live
        chosen.append(np.sort(np.argsort(-strength, kind="stable")[:width]))
    return chosen


def whole(weights):
    """A number of weights that was a share of others, as the integer that it is but for rounding."""
    return math.floor(weights + 1e-6)


def scaled(units):
    """`units` times one factor, rounded down, at least 1, for every factor from 1 down that makes a difference."""
    factors = {Fraction(part, full) for full in units for part in range(1, full + 1)}
    for factor in sorted(factors, reverse=True):
        yield tuple(max(1, math.floor(factor * full)) for full in units)


def trimmed(units, count):
    """`units`, and then always one unit fewer, the one that frees most weights for its share of its layer's units.

    Shares are taken in the logarithm: so of all widths with about as many weights those of the largest product are left,
    and the layers with most weights, as after a flattening, become narrow first.
    """
    units = tuple(max(1, layer) for layer in units)
    while max(units, default=1) > 1:
        yield units
        weights = sum(count(units))
        shares = {
            (*units[:i], layer - 1, *units[i + 1 :]): math.log(layer / (layer - 1))
            for i, layer in enumerate(units)
            if layer > 1
        }
        units = max(shares, key=lambda fewer: (weights - sum(count(fewer))) / shares[fewer])


def joined_at(layer, sizes):
    """Sizes of layers, the two around a hidden layer counted as one."""
    return [*sizes[:layer], sizes[layer] + sizes[layer + 1], *sizes[layer + 2 :]]


def widths_between(smaller, larger, count):
    """Widths about half-way (in the logarithm of the weights) between two networks, or None if nothing lies between.

    Args:
        smaller, larger: units of each hidden layer; none of `smaller` above that of `larger`.
        count: widths -> number of weights of each layer.
    """
    path, current = [], list(smaller)
    while current != list(larger):
        ratios = [full / units for units, full in zip(current, larger, strict=True)]
        current[ratios.index(max(ratios))] += 1
        path.append(tuple(current))
    path = path[:-1]
    middle = math.sqrt(sum(count(smaller)) * sum(count(larger)))
    return min(path, key=lambda widths: abs(math.log(sum(count(widths)) / middle)), default=None)
