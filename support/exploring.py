"""Exploring: the environments that a teacher learns in, and what it sees there."""

import numpy as np

from pops.support.environments import make_environments
from pops.support.playing import Player
from pops.support.replay import FrameTransitions, Transitions


class Exploration:
    """The environments in which a teacher explores, and the replay memory that they fill.

    Args:
        config: the configuration.
        seeds: Seeds.

    Attributes:
        observations: the present ones, [environments, *observation_shape].
        replay: Transitions or FrameTransitions.
        restart_every: steps of all environments after which they start over.
    """

    def __init__(self, config, seeds):
        self.settings, self.seeds = config["teacher"], seeds
        count, shape = self.settings["environments"], config["model"]["observation_shape"]
        memory = FrameTransitions if len(shape) > 1 else Transitions
        self.replay = memory(config["replay"]["capacity"], shape, self.settings)
        self.restart_every = self.settings["restart_every"] // count
        self.environments = make_environments(config["environment"], count)
        self.seed = seeds.environment("train", "train_dqn")
        self.observations, info = self.environments.reset(seed=self.seed)
        self.lives, self.ended = info.get("lives"), np.zeros(count, bool)

    def step(self, index, actions):
        """Takes the index-th step of all environments, with these actions, int [environments]."""
        count, settings = len(actions), self.settings
        if index and index % self.restart_every == 0:
            following, info = self.environments.reset(seed=self.seeds.environment("train", "train_dqn", index))
            rewards, terminated, truncated = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
            self.ended = np.ones(count, bool)
        else:
            following, rewards, terminated, truncated, info = self.environments.step(actions.astype(np.int64))
        if (index + 1) % self.restart_every == 0:
            truncated = ~terminated
        learnt = np.sign(rewards) if settings["clip_rewards"] else rewards
        ends = terminated
        if settings["terminal"] == "point":
            ends = ends | (rewards != 0)
        if settings["terminal"] == "life":
            ends, self.lives = ends | (info["lives"] < self.lives), info["lives"]
        ended = terminated | truncated
        self.replay.add_step(self.observations, actions, learnt, following, ends, ended, over=self.ended)
        self.observations, self.ended = following, ended


class Rollouts:
    """Rollouts of an actor in many copies of the environment, which go on from one rollout to the next.

    Checkpoints hold the actions taken since the environments last started over: a resumed run takes them again, which
    brings back the environments.

    Attributes:
        observations: [steps + 1, copies, *observation_shape]; actions, rewards, terminated, ended: [steps, copies].
        taken: bool [steps, copies]; False where a step only started the next episode.
    """

    def __init__(self, config, seeds):
        settings, shape = config["teacher"], config["model"]["observation_shape"]
        copies, self.length = settings["environments"], settings["rollout"]
        self.seeds, self.restart_every = seeds, settings["restart_every"]
        self.observations = np.zeros([self.length + 1, copies, *shape], np.float32)
        self.actions = np.zeros([self.length, copies], np.int32)
        self.rewards, self.terminated, self.ended = (np.zeros([self.length, copies], np.float32) for _ in range(3))
        self.taken = np.zeros([self.length, copies], bool)
        self.history = np.zeros([self.restart_every, self.length, copies], np.int16)
        self.player = Player(config["environment"], copies, "sample", autoreset=True)

    def _seed(self, rollout):
        return self.seeds.environment("train", "train_actor_critic", rollout)

    def play(self, rollout, policy):
        """Plays the rollout of this number, from 0."""
        index, since_start = 0, rollout % self.restart_every

        def on_step(step):
            nonlocal index
            self.observations[index], self.actions[index] = step.observations, step.actions
            self.rewards[index], self.terminated[index] = step.rewards, step.terminated
            self.ended[index], self.taken[index] = step.ended, ~step.over
            index += 1
            return index < self.length

        self.player.play(policy, self._seed(rollout), on_step, go_on=since_start > 0)
        self.observations[-1] = self.player.observations
        self.history[since_start] = self.actions

    def before(self, rollout):
        """The actions since the environments started over, of the rollouts before this one."""
        return self.history[: rollout % self.restart_every]

    def retrace(self, rollout, before):
        """Brings the environments to where they were before a rollout."""
        self.history[: len(before)] = before
        if len(before):
            self.player.retrace(self._seed(rollout - len(before)), before.reshape(-1, before.shape[-1]))
