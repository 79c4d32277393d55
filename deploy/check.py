"""The check of an exported policy: it must act and play as the Keras model does."""

import numpy as np
import tensorflow as tf

from pops.support.console import log
from pops.support.errors import RunFailed
from pops.support.playing import report_rewards, varied, way_to_act
from pops.support.rewards import rewards_text

TIE = 1e-5  # outputs that lie this close, relative to the largest of all, may come in another order in another runtime

ROWS = 1000  # observations that a runtime gets at once


def check_actions(run, observations, expected, exact):
    """Compares actions with the Keras model's, and prints the result.

    Args:
        run: observations -> outputs and actions, as the `..._runtime` functions give it.
        observations: [n, *observation_shape].
        expected: the Keras model's outputs for them, float32 [n, actions].
        exact: whether they must be the same but for ties, where the Keras model itself hardly prefers one.

    Raises:
        RunFailed: they must be the same, and are not.
    """
    results = [run(observations[first : first + ROWS]) for first in range(0, len(observations), ROWS)]
    outputs, actions = (np.concatenate(parts) for parts in zip(*results, strict=True))
    same = actions == expected.argmax(-1)
    lost = expected.max(-1) - np.take_along_axis(expected, actions[:, None].astype(np.int64), -1)[:, 0]
    ties = ~same & (lost <= TIE * np.abs(expected).max(-1))
    different = len(same) - np.count_nonzero(same | ties)
    share = "" if exact else f" ({100 * same.mean():.4g} %)"
    log(
        f"actions: {np.count_nonzero(same):,} of {len(same):,}{share} are the Keras model's, "
        f"{np.count_nonzero(ties):,} ties, {different:,} different; "
        f"outputs differ by {np.abs(outputs - expected).max():.2g} at most, of up to {np.abs(expected).max():.3g}"
    )
    if exact and different:
        raise RunFailed(f"{different:,} of {len(same):,} actions are not the Keras model's")


def check_numbers(run, observations, expected, bounds, exact):
    """The same as `check_actions` for continuous actions, which must be the same but for rounding.

    Args:
        bounds: least and greatest values of actions. A runtime that gives only outputs leaves these to its user.
    """
    results = [run(observations[first : first + ROWS]) for first in range(0, len(observations), ROWS)]
    outputs, actions = (np.concatenate(parts) for parts in zip(*results, strict=True))
    if actions.shape != outputs.shape:
        actions = np.clip(outputs, *bounds)
    error, largest = np.abs(actions - np.clip(expected, *bounds)).max(), np.abs(bounds).max()
    log(
        f"actions: of {len(outputs):,}, none differs from the Keras model's by more than {error:.2g}, "
        f"of up to {largest:.3g}"
    )
    if exact and error > 1e-4 * largest:
        raise RunFailed(f"the actions differ from the Keras model's by up to {error:.2g}")


def check_reward(run, network, config, seeds, episodes):
    """Lets the exported policy and the Keras model play the same fresh episodes, and prints their rewards.

    Where actions are sampled, the exported policy also plays greedily, as C's `policy_act` does.

    Raises:
        RunFailed: the exported policy does not reach the objective, or where the environment has none, the Keras model's
            reward less one standard error.
    """

    def exported(observations):
        observations = tf.cast(observations, network.inputs[0].dtype)
        outputs = tf.numpy_function(lambda batch: run(batch)[0], [observations], tf.float32)
        return tf.ensure_shape(outputs, [observations.shape[0], config["model"]["actions"]])

    ours, theirs = (report_rewards(policy, config, seeds, episodes, "export") for policy in (exported, network))
    limit, name = config["evaluation"]["objective"], "objective"
    if limit is None:
        limit = float(np.nextafter(theirs["reward_mean"] - theirs["reward_stderr"], -np.inf))
        name = "Keras model's less one standard error"
    log(
        f"reward over {episodes} episodes ({way_to_act(config)}): {rewards_text(ours)}, "
        f"the Keras model's {rewards_text(theirs)}; {name} {limit:g}"
    )
    if config["evaluation"]["acting"] == "sample":
        largest = report_rewards(exported, varied(config, "greedy"), seeds, episodes, "export")
        log(f"reward over {episodes} episodes (greedy, the action of the largest output): {rewards_text(largest)}")
    if not ours["reward_mean"] > limit:
        raise RunFailed(f"the exported policy's reward, {rewards_text(ours)}, is not above the {name}, {limit:g}")
