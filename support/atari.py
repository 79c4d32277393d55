"""Copies of an Atari game, each in a thread of its own in C++ (ale-py)."""

import atexit
import itertools
import json
import weakref
from concurrent.futures import ThreadPoolExecutor

import gymnasium
import numpy as np

from pops.support.vector import copied, cores, room_for_results

_games = weakref.WeakSet()  # all AtariEnvironments

_unused_games = {}  # settings as JSON -> copies that nobody uses any more; making one takes as long as 200 steps


@atexit.register
def _free_games():
    """Frees all copies before Python ends, after which ale-py would list them as leaked."""
    for environments in _games:
        environments.copies.clear()
    _unused_games.clear()


class AtariEnvironments:
    """Copies of an Atari game as the paper plays it, stepped together, each in a thread of its own in C++ (ale-py).

    Up to 30 steps without an action at the start, 4 frames a step with the maximum of the last two, 84 x 84 grey, 4 frames
    stacked, the oldest first. Rewards are raw. `step` gives the lives that are left as `info["lives"]`. Copy i starts from
    seed + i.
    """

    FRAMES = 4  # a step

    def __init__(self, settings, count, autoreset=True, **changes):
        unused = _unused_games.setdefault(json.dumps([settings, changes]), [])
        self.copies = [unused.pop() if unused else self._make(settings, changes) for _ in range(count)]
        self.close = weakref.finalize(self, unused.extend, self.copies)
        _games.add(self)
        self.autoreset = autoreset
        self.actions = np.array(settings["actions"] or range(self.copies[0].single_action_space.n))
        self.single_observation_space = self.copies[0].single_observation_space
        self.single_action_space = gymnasium.spaces.Discrete(len(self.actions))
        self.results = room_for_results(count, self.single_observation_space)
        self.lives = np.zeros(count, int)

    def _make(self, settings, changes):
        return gymnasium.make_vec(
            settings["id"],
            1,
            vectorization_mode="vector_entry_point",
            frameskip=self.FRAMES,
            max_num_frames_per_episode=self.FRAMES * settings["max_episode_steps"],
            repeat_action_probability=settings["sticky"],
            reward_clipping=False,
            num_threads=1,
            **changes,
        )

    def reset(self, seed):
        with ThreadPoolExecutor(cores()) as pool:
            starts = list(pool.map(lambda copy, index: copy.reset(seed=seed + index), self.copies, itertools.count()))
        self.results[:] = 0
        for index, (observation, info) in enumerate(starts):
            self.results["observation"][index], self.lives[index] = observation[0], info["lives"][0]
        return self.results["observation"].copy(), {"lives": self.lives.copy()}

    def step(self, actions):
        over = self.results["terminated"] | self.results["truncated"]
        playing = np.flatnonzero(~over | self.autoreset)
        try:
            for index in playing:
                self.copies[index].send(self.actions[actions[index]][None])
            for index in playing:
                *result, info = self.copies[index].recv()
                self.results[index] = tuple(part[0] for part in result)
                self.lives[index] = info["lives"][0]
        except BaseException:
            self.close.detach()  # an answer may be left unread, which the next user would take for its own
            raise
        return *copied(self.results), {"lives": self.lives.copy()}
