"""Playing: a policy acts in copies of an environment side by side."""

import math
from functools import partial
from typing import NamedTuple

import gymnasium
import numpy as np

from pops.configs import is_atari
from pops.support.environments import make_environments
from pops.support.errors import RunFailed
from pops.support.forward import network_policy
from pops.support.rewards import reward_statistics
from pops.support.rules import VARIATIONS
from pops.support.seeds import action_generator


def select_actions(outputs, acting, generator=None, epsilon=None, bounds=(), factors=()):
    """Actions, int64 [...], from a policy's outputs, float32 [..., actions].

    Args:
        acting: "greedy" (the largest output) or "sample" (from the softmax of the outputs).
        generator: NumPy generator, which greedy actions do not need.
        epsilon: share of actions drawn uniformly instead; None for none.
        bounds: least and greatest values, each [actions], of continuous actions, which are float32 [..., actions]: the
            outputs, kept within these.
        factors: of several discrete actions at once, how many outputs belong to each; actions are int64 [..., factors].
    """
    if len(factors):
        parts = np.split(outputs, np.cumsum(factors)[:-1], axis=-1)
        return np.stack([select_actions(part, acting, generator, epsilon) for part in parts], axis=-1)
    *shape, count = outputs.shape
    if len(bounds):
        actions = np.clip(outputs, *np.float32(bounds))
    elif acting == "sample":  # the Gumbel-max trick
        actions = np.argmax(outputs + generator.gumbel(size=outputs.shape), axis=-1)
    else:
        actions = np.argmax(outputs, axis=-1)
    if epsilon is not None:
        changed = generator.random(shape) < epsilon
        if len(bounds):
            actions[changed] = generator.uniform(*np.float32(bounds), [np.count_nonzero(changed), count])
        else:
            actions[changed] = generator.integers(count, size=np.count_nonzero(changed))
    return actions


class Step(NamedTuple):
    """One step of all copies that a Player plays, as NumPy arrays over [members * copies].

    Attributes:
        observations: what the policy saw, [..., *observation_shape].
        outputs: what it gave, float32 [..., actions].
        actions, rewards, terminated, truncated: what followed.
        ended: terminated or truncated.
        over: the episode had ended before: the environment only starts the next one, and no action is taken.
    """

    observations: np.ndarray
    outputs: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    over: np.ndarray

    @property
    def ended(self):
        return self.terminated | self.truncated


class Player:
    """Lets a policy play copies of an environment side by side.

    A policy is a function: observations [members, copies, *observation_shape] -> outputs [members, copies, actions].

    Args:
        settings: the configuration's group `environment`.
        copies: copies of the environment for each member.
        acting, epsilon: see `select_actions`.
        noise: standard deviation of the relative error with which the policy sees each number of an observation.
        members: policies that play side by side.
        autoreset: whether the copies start over after their end; see `make_environments`.

    Attributes:
        observations: the present ones, [members * copies, *observation_shape].
        played: after `evaluate`, numbers that tell episodes apart whose discrete actions differ, uint64 [members * copies].
    """

    def __init__(self, settings, copies, acting, epsilon=None, members=1, autoreset=False, noise=0.0):
        self.shape, self.name, self.autoreset = (members, copies), settings["id"], autoreset
        self.noise = noise
        self.environments = make_environments(settings, members * copies, autoreset)
        actions = self.environments.single_action_space
        continuous = isinstance(actions, gymnasium.spaces.Box)
        bounds = (actions.low, actions.high) if continuous else ()
        factors = () if continuous or not actions.shape else tuple(actions.nvec)
        self.action_shape = actions.shape
        self._select = partial(select_actions, acting=acting, epsilon=epsilon, bounds=bounds, factors=factors)

    def play(self, policy, seed, on_step, go_on=False):
        """Plays until `on_step` says no.

        Args:
            seed: seed of the environments and of random actions.
            on_step: Step -> whether to play another one.
            go_on: from where the last play ended; otherwise from environments freshly seeded.
        """
        if not go_on:
            self._start(seed)
        generator, going = action_generator(seed), True
        while going:
            before = self._seen(generator)
            outputs = self._outputs(policy, before)
            actions = self._select(outputs, generator=generator)
            self.observations, *results, _ = self.environments.step(actions)
            self.steps += 1
            self._check_finite(results[0])
            step = Step(before, outputs, actions, *results, self.over)
            self.over, going = step.ended, on_step(step)

    def _seen(self, generator):
        """The observations as the policy sees them."""
        if not self.noise:
            return self.observations
        errors = generator.normal(1, self.noise, self.observations.shape)
        return (self.observations * errors).astype(self.observations.dtype)

    def _outputs(self, policy, seen):
        """The policy's outputs, float32 [members * copies, actions]; zeros for copies in which no member plays any more."""
        observations = seen.reshape(*self.shape, *seen.shape[1:])
        going = ~self.over.reshape(self.shape).all(axis=0)
        if self.autoreset or going.all():
            outputs = np.asarray(policy(observations))
        else:
            found = np.asarray(policy(observations[:, going]))
            outputs = np.zeros([*self.shape, found.shape[-1]], found.dtype)
            outputs[:, going] = found
        return outputs.reshape(len(seen), -1)

    def _check_finite(self, rewards):
        """Raises RunFailed where a reward or an observation is no number."""
        for what, array in (("reward", rewards), ("observation", self.observations)):
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                copy, *place = np.argwhere(~np.isfinite(array))[0]
                value, where = array[(copy, *place)], f", number {place[0]}" if place else ""
                raise RunFailed(f"{self.name}: step {self.steps} of copy {copy}: the {what}{where} is {value}")

    def _start(self, seed):
        self.observations, _ = self.environments.reset(seed=seed)
        self.steps = 0
        self.over = np.zeros(len(self.observations), bool)

    def retrace(self, seed, actions):
        """Brings the environments to where they were some actions after a `play` from freshly seeded ones.

        Args:
            actions: int [steps, members * copies].
        """
        self._start(seed)
        for now in actions.astype(np.int64):
            self.observations, _, terminated, truncated, _ = self.environments.step(now)
            self.over = terminated | truncated

    def close(self):
        """Frees the environments."""
        self.environments.close()

    def evaluate(self, policy, seed, visited=None, watch=None):
        """Plays one whole episode in every copy.

        Args:
            visited: called with the observations [n, *observation_shape] that the policy acts on, in every step.
            watch: called with the number of episodes that are over, in every step.

        Returns:
            Sums of raw rewards, float64 [members, copies].
        """
        sums = np.zeros(math.prod(self.shape))
        playing = np.ones(sums.shape, bool)
        self.played = np.zeros(sums.shape, np.uint64)

        def on_step(step):
            if visited:
                visited(step.observations[playing])
            np.add(sums, step.rewards, out=sums, where=playing)
            if not self.action_shape:
                # A number for all actions of an episode, by a linear congruential generator.
                number = self.played * np.uint64(6364136223846793005) + (step.actions + 1).astype(np.uint64)
                np.copyto(self.played, number, where=playing)
            np.logical_and(playing, ~step.ended, out=playing)
            left = np.count_nonzero(playing)
            if watch:
                watch(len(playing) - left)
            return left > 0

        self.play(policy, seed, on_step)
        return sums.reshape(self.shape)


# At most this many episodes of a network are played side by side; a copy of an environment can take 100 KiB.
EVALUATION_COPIES = 1000


def varied(config, variation):
    """The configuration for another way to play, one of `VARIATIONS`."""
    return config | {group: config[group] | changes for group, changes in VARIATIONS[variation].items()}


def evaluation_player(config, episodes, members=1, autoreset=False):
    """A Player that acts as the configuration says for evaluations."""
    settings = config["evaluation"]
    acting, epsilon = settings["acting"], settings["epsilon"] or None
    return Player(config["environment"], episodes, acting, epsilon, members, autoreset, settings["noise"])


def evaluate_network(network, config, seeds, episodes, use, *purpose, watch=None):
    """Rewards of a plain network, float64 [episodes], on episodes of one of the `Seeds.USES`.

    Args:
        watch: called with (episodes that are over, episodes), in every step.
    """
    return play_episodes(network, config, seeds, episodes, use, *purpose, watch=watch)[0]


def play_episodes(network, config, seeds, episodes, use, *purpose, watch=None):
    """The same, and numbers that tell different episodes apart (see `Player.played`)."""
    copies = min(episodes, EVALUATION_COPIES)
    policy, player = network_policy(network), evaluation_player(config, copies)
    seed, results = seeds.environment(use, *purpose), []
    for first in range(0, episodes, copies):
        over = watch and (lambda count, first=first: watch(min(first + count, episodes), episodes))
        results.append((player.evaluate(policy, seed + first, watch=over)[0], player.played))
    player.close()
    rewards, played = (np.concatenate(parts)[:episodes] for parts in zip(*results, strict=True))
    return rewards, played


def report_rewards(network, config, seeds, episodes, *purpose, watch=None):
    """Statistics of the rewards of a plain network over fresh episodes, as they are reported: of Gymnasium itself."""
    config = config | {"environment": config["environment"] | {"simulator": "gymnasium"}}
    rewards, played = play_episodes(network, config, seeds, episodes, "report", *purpose, watch=watch)
    # Elsewhere episodes start from many states, so that the same actions do not mean the same episode.
    return reward_statistics(rewards, played if is_atari(config["environment"]) else None)


def way_to_act(config):
    """How the configuration's evaluations choose actions, in words."""
    settings = config["evaluation"]
    name = {"greedy": "greedy", "sample": "sampled"}[settings["acting"]]
    name += f" but for {100 * settings['epsilon']:g} % of random actions" if settings["epsilon"] else ""
    return name + (f", observations {100 * settings['noise']:g} % off" if settings["noise"] else "")
