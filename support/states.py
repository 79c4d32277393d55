"""The states that students learn from: those of the teacher's games, and those of their own (DAgger)."""

import math
from functools import cached_property

import numpy as np

from pops.support.checkpoints import Part
from pops.support.errors import ConfigurationError
from pops.support.forward import in_onnx, network_policy, student_policy
from pops.support.playing import Player, evaluation_player
from pops.support.replay import ReplayMemory

# The teacher's outputs are computed for at most so many bytes of states at once; inside a network they take more memory.
TEACHER_BYTES = 2**24

SPREAD = 4  # observations are drawn from this many times as many, so that they come from all parts of episodes

MEMORY = 2**31  # bytes that those may take


class StateMemory(ReplayMemory):
    """States with the teacher's outputs before softmax, for distillation; the teacher and students add to them.

    A checkpoint holds where the entries came from: what the teacher played is played again, states of students are kept.

    Args:
        config: the configuration.
        teacher: plain Keras network.
        seeds: Seeds.
        watch: called with (states seen, states wanted) in every step that the teacher plays.
    """

    def __init__(self, config, teacher, seeds, watch=None):
        self.config, self.teacher, self.seeds, self.watch = config, teacher, seeds, watch
        model = config["model"]
        fields = {
            "observations": (model["observation_shape"], teacher.inputs[0].dtype),
            "teacher_outputs": ([model["actions"]], np.float32),
        }
        super().__init__(config["replay"]["capacity"], fields)
        self.visited = Visited()  # by students, which its users clear
        self.added, self.sources = 0, []  # a source: entries before it, purpose of a filling or Part with states

    @cached_property
    def outputs(self):
        """The teacher as a function of many states. Its weights do not change."""
        session = in_onnx(self.teacher)
        return session(self.teacher.get_weights()) if session else self.teacher

    def add(self, **batch):
        super().add(**batch)
        self.added += len(batch["observations"])

    def rows(self, generator, shape):
        if not self.config["replay"]["least_spread"]:
            return super().rows(generator, shape)
        spread = np.ptp(self.arrays["teacher_outputs"][: self.size], axis=1)
        shares = np.cumsum(np.maximum(spread, self.config["replay"]["least_spread"]), dtype=np.float64)
        return np.searchsorted(shares[:-1], shares[-1] * generator.random(shape), side="right")

    def add_from(self, source):
        """Adds what comes from a source, and forgets sources of which nothing is left."""
        self.sources.append((self.added, source))
        if isinstance(source, Part):
            self.add(**source.arrays)
        else:
            self._play(source)
        begun = [index for index, (before, _) in enumerate(self.sources) if self.added - before >= self.capacity]
        del self.sources[: max(begun, default=0)]

    def fill(self, *purpose):
        """The teacher plays and adds at least `observe` states.

        Args:
            purpose: what the states are for; their random numbers follow from it.
        """
        self.add_from(purpose)

    def copy(self):
        """A memory of its own with the same content."""
        copy = StateMemory(self.config, self.teacher, self.seeds, self.watch)
        for name, array in self.arrays.items():
            copy.arrays[name][: self.size] = array[: self.size]  # what is not filled takes no memory yet
        copy.size, copy.next, copy.added, copy.sources = self.size, self.next, self.added, list(self.sources)
        return copy

    def _play(self, purpose):
        settings, seen = self.config["replay"], 0

        def on_step(step):
            nonlocal seen
            self.add(observations=step.observations[~step.over], teacher_outputs=step.outputs[~step.over])
            seen += np.count_nonzero(~step.over)
            if self.watch:
                self.watch(seen, settings["observe"])
            return seen < settings["observe"]

        player = Player(
            self.config["environment"],
            settings["environments"],
            self.config["evaluation"]["acting"],
            epsilon=settings["epsilon"],
            autoreset=True,
        )
        player.play(network_policy(self.teacher), self.seeds.environment("train", "fill_replay", *purpose), on_step)
        player.close()

    def add_visited(self, states):
        """Adds states that a student visited."""
        rows = max(1, TEACHER_BYTES // states[0].nbytes)
        outputs = [np.asarray(self.outputs(states[first : first + rows])) for first in range(0, len(states), rows)]
        self.add_from(Part({"observations": states, "teacher_outputs": np.concatenate(outputs)}))

    def content(self):
        """What `restore` needs, for a checkpoint."""
        return list(self.sources)

    def restore(self, sources):
        """Makes a memory what it was, whatever it holds."""
        self.size = self.next = self.added = 0
        self.sources = []
        if sources:
            self.added = sources[0][0]
            self.skip(self.added)
        for _, source in sources:
            self.add_from(source)
            if isinstance(source, Part):
                source.arrays = None


class StudentGames:
    """Games that students go on with while they learn; the states join the replay, with the teacher's outputs (DAgger).

    A student that fails always in the same place gets there again and again, until it has learnt what to do.

    Args:
        student: a student of model.py, whose members share the copies.
        task: Task.
        purpose: what the games are for; their random numbers follow from it.
    """

    def __init__(self, student, task, *purpose):
        self.task, self.purpose = task, purpose
        settings = task.config["replay"]
        self.steps, self.actions = settings["student_steps"], []
        if self.steps:
            copies = max(1, settings["environments"] // student.members)
            config = task.config | {"evaluation": task.config["evaluation"] | {"epsilon": settings["student_epsilon"]}}
            self.policy = student_policy(student)
            self.player = evaluation_player(config, copies, student.members, autoreset=True)

    def _seed(self, *which):
        return self.task.seeds.environment("train", "student_games", *self.purpose, *which)

    def go_on(self, state, replay, epoch):
        """Plays `student_steps` steps more, and adds what was seen."""
        if not self.steps:
            return
        visited, begun = replay.visited, len(self.actions) > 0
        visited.clear()

        def on_step(step):
            visited.add(step.observations[~step.over])
            self.actions.append(step.actions.astype(np.int16))
            return visited.steps < self.steps

        seed = self._seed(epoch) if begun else self._seed()
        self.player.play(self.policy(state.played, state.masks), seed, on_step, go_on=begun)
        replay.add_visited(visited.states().copy())

    def close(self):
        """Frees the environments."""
        if self.steps:
            self.player.close()

    def content(self):
        """What `restore` needs, for a checkpoint: all actions so far, which are then taken again."""
        return np.array(self.actions)

    def restore(self, actions):
        if len(actions):
            self.actions = list(actions)
            self.player.retrace(self._seed(), actions)


class Visited:
    """Collects states that students visit: all of them, or every second, fourth, ... step if they took too much memory.

    They lie in one array, which is used again: memory that is new to a process takes longer to fill than the states to
    copy, and thousands of small arrays, made in TensorFlow's threads, leave gaps in memory that stay.
    """

    LIMIT = 2**29  # bytes

    def __init__(self):
        self.array = None
        self.clear()

    def clear(self):
        self.counts, self.steps, self.stride = [], 0, 1

    def add(self, states):
        """Takes the states of one step, [n, *observation_shape]; no later step has more than the first."""
        if self.array is None or len(self.array) < 2 * len(states):
            size = states.itemsize * math.prod(states.shape[1:])
            self.array = np.empty((max(self.LIMIT // size, 2 * len(states)), *states.shape[1:]), states.dtype)
        used = sum(self.counts)
        while used + len(states) > len(self.array):
            begins = np.cumsum([0, *self.counts])
            self.counts, self.stride, used = self.counts[::2], 2 * self.stride, 0
            for begin, count in zip(begins[::2], self.counts, strict=False):
                self.array[used : used + count] = self.array[begin : begin + count]
                used += count
        if self.steps % self.stride == 0:
            self.array[used : used + len(states)] = states
            self.counts.append(len(states))
        self.steps += 1

    def states(self):
        """[n, *observation_shape]"""
        return self.array[: sum(self.counts)]


def played_observations(network, config, seeds, count, purpose):
    """Observations of a policy that plays in its environment, drawn at random, and its outputs for them.

    Returns:
        [count, *observation_shape] of the environment's type, and float32 [count, actions].

    Raises:
        ConfigurationError: they would take too much memory.
    """
    size = math.prod(config["model"]["observation_shape"]) * np.dtype(network.inputs[0].dtype).itemsize
    if size * count * SPREAD > MEMORY:
        raise ConfigurationError(f"--observations {count}: at most {MEMORY // SPREAD // size:,} of this environment's")
    changes = {
        "capacity": SPREAD * count,
        "observe": SPREAD * count,
        "environments": count // 100,  # so that each plays some hundred steps
        "epsilon": config["evaluation"]["epsilon"],
    }
    memory = StateMemory(config | {"replay": config["replay"] | changes}, network, seeds)
    memory.fill("export", purpose)
    rows = seeds.generator("export", purpose).choice(memory.size, count, replace=False)
    return memory.arrays["observations"][rows], memory.arrays["teacher_outputs"][rows]
