"""Augmented random search: a linear policy that learns from rewards alone (Mania et al., 2018, version V2-t)."""

import numpy as np

from pops.model import FRESH
from pops.support.forward import student_policy
from pops.support.playing import evaluation_player, varied

DIRECTIONS = 32  # tried in an iteration, each forwards and backwards
BEST = 16  # of them count
NOISE = 0.1  # of the weights that are tried (ν)
STEP = 0.05  # α
EPISODES = 2  # for each policy tried
ITERATIONS = 10  # in a part of the search, between two looks at the policy


class Search:
    """Augmented random search for a linear policy of a kind of student.

    Args:
        student: a student of model.py of the environment.
        task: Task, of which it uses the configuration, the seeds and the run. It never asks the teacher.
    """

    def __init__(self, student, task):
        self.task = task
        kind, settings = type(student), student.settings | FRESH
        self.one, self.tried = kind(settings, ()), kind(settings, (), 2 * DIRECTIONS)
        self.policy = student_policy(self.tried)
        self.masks = self.tried.full_masks()
        inputs, actions = self.one.kernel_shapes()[0][1:]
        # The weights on normalised observations, and what the normalisation is made of.
        self.state = np.zeros((inputs, actions)), 0, np.zeros(inputs), np.zeros(inputs)

    def go_on(self, part):
        """Makes some iterations more. A resumed run remembers them."""
        self.state = self.task.run.once(("random search", part), self._iterations, part)

    def network(self):
        """The present policy as a plain network."""
        kernel, bias = self._folded(self.state[0])
        # Sampled actions are nearly the greedy ones that it learnt with.
        scale = 100.0 if self.task.config["evaluation"]["acting"] == "sample" else 1.0
        return self.one.plain_network("student", [scale * kernel, scale * bias])

    def _folded(self, weights):
        """Kernels and biases for observations as they are, from weights [..., inputs, actions] for normalised ones."""
        _, count, mean, squares = self.state
        deviation = np.sqrt(squares / max(1, count - 1)) if count > 1 else np.ones_like(mean)
        kernel = weights / np.where(deviation > 1e-7, deviation, np.inf)[:, None]
        return kernel.astype(np.float32), -(mean @ kernel).astype(np.float32)

    def _iterations(self, part):
        config = varied(self.task.config, "greedy")
        player = evaluation_player(config, EPISODES, 2 * DIRECTIONS)
        generator = self.task.seeds.generator("random search", part)
        for iteration in range(ITERATIONS):
            weights, count, mean, squares = self.state
            noise = generator.normal(size=(DIRECTIONS, *weights.shape))
            kernels, biases = self._folded(np.concatenate([weights + NOISE * noise, weights - NOISE * noise]))
            policy, seen = self.policy([kernels, biases[:, None]], self.masks), []
            seed = self.task.seeds.environment("train", "random search", part, iteration)
            rewards = player.evaluate(policy, seed, visited=seen.append).mean(axis=1)
            forwards, backwards = rewards[:DIRECTIONS], rewards[DIRECTIONS:]
            best = np.argsort(-np.maximum(forwards, backwards), kind="stable")[:BEST]
            spread = np.concatenate([forwards[best], backwards[best]]).std()
            gradient = np.tensordot(forwards[best] - backwards[best], noise[best], axes=1)
            weights = weights + STEP / (BEST * max(spread, 1e-6)) * gradient
            seen = np.concatenate(seen).reshape(-1, len(mean)).astype(float)
            total, shift = count + len(seen), seen.mean(axis=0) - mean
            squares = squares + ((seen - seen.mean(axis=0)) ** 2).sum(axis=0) + shift**2 * count * len(seen) / total
            self.state = weights, total, mean + shift * len(seen) / total, squares
        player.close()
        return self.state
