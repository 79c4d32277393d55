"""Training: the teacher (deep Q-learning or actor-critic), the replay that it fills, and the student (distillation).

Blocks of updates run inside one compiled function. Weights, masks and optimiser slots are tensors that its loop carries,
not variables: that is faster, and going back to an earlier state is keeping its tensors. Keras's optimisers need
variables under TensorFlow, so the two update rules stand here.
"""

import math
from functools import lru_cache, partial
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from configs import RunFailed, is_atari, learning_rate
from environments import make_environments
from files import Part
from utils import (
    FrameTransitions,
    Player,
    ReplayMemory,
    Run,
    Seeds,
    Transitions,
    reward_statistics,
    select_actions,
    single,
    standard_error,
)

# Minibatches drawn for one compiled block of updates take at most this much memory; more is no faster.
BLOCK_BYTES = 2**27
# And at most about this many weights times states, so that there is a checkpoint between blocks at least once in a minute.
# The 1,000 stand for what does not grow with the weights.
BLOCK_WORK = 5 * 10**10
# At most this many episodes of a network are played side by side; a copy of an environment can take 100 KiB.
EVALUATION_COPIES = 1000


class Task(NamedTuple):
    """What students are trained for; the same throughout a run.

    Attributes:
        config: the configuration.
        seeds: Seeds of the run.
        teacher: plain Keras network.
        teacher_rewards: what a student has to match, float64 [episodes].
        original_weights: number of weights of the original student.
        replay: StateMemory that the teacher filled once, or None to start one for each IPP and each distillation, and to
            fill it before every iteration and epoch.
        run: Run, which takes the metrics and the checkpoints.
    """

    config: dict
    seeds: Seeds
    teacher: keras.Model
    teacher_rewards: np.ndarray
    original_weights: int
    replay: ReplayMemory
    run: Run

    def percent(self, student):
        """Size of a student in percent of the original."""
        return 100 * sum(student.layer_sizes()) / self.original_weights


class TrainingState(NamedTuple):
    """All that training changes.

    Attributes:
        weights: kernel and bias of each layer, in the order of the network's trainable variables.
        masks: one for each kernel; empty for a teacher.
        moments: the optimiser's running means of gradients, then of their squares, each like `weights`.
        update: float32 scalar, updates so far.
        clock: float32 scalar, time t of the pruning schedule, in updates.
        averages: running means of `weights`, for a student that is averaged; else empty.
    """

    weights: list
    masks: list
    moments: tuple
    update: tf.Tensor
    clock: tf.Tensor
    averages: list

    @property
    def played(self):
        """The weights to play with: averaged ones if there are any."""
        return self.averages or self.weights


def initial_state(weights, masks=(), averaged=False):
    weights = [tf.convert_to_tensor(w) for w in weights]
    zeros, averages = [tf.zeros_like(w) for w in weights], list(weights) if averaged else []
    return TrainingState(weights, list(masks), (zeros, list(zeros)), tf.constant(0.0), tf.constant(0.0), averages)


def adam(weight, gradient, mean, square, update, rate, epsilon=1e-7):
    """One step of Adam (Kingma and Ba, 2015; β1 0.9, β2 0.999). `update` counts from 1."""
    mean = 0.9 * mean + 0.1 * gradient
    square = 0.999 * square + 0.001 * gradient**2
    rate = rate * tf.sqrt(1 - 0.999**update) / (1 - 0.9**update)
    return weight - rate * mean / (tf.sqrt(square) + epsilon), mean, square


def rmsprop(weight, gradient, mean, square, update, rate):
    """One step of RMSProp (decay 0.9, ε 1e-7), as the paper uses it. Has no mean of gradients."""
    square = 0.9 * square + 0.1 * gradient**2
    return weight - rate * gradient / tf.sqrt(square + 1e-7), mean, square


OPTIMIZERS = {"adam": adam, "rmsprop": rmsprop}


def apply_gradients(optimizer, state, gradients, rate):
    update = state.update + 1
    steps = [
        optimizer(weight, gradient, mean, square, update, rate)
        for weight, gradient, mean, square in zip(state.weights, gradients, *state.moments, strict=True)
    ]
    weights, means, squares = (list(parts) for parts in zip(*steps, strict=True))
    return state._replace(weights=weights, moments=(means, squares), update=update)


def average(state, decay):
    """Moves the averages on to the weights. The first ones count less, so that they are soon forgotten."""
    decay = tf.minimum(decay, state.update / (state.update + 10))
    means = [decay * mean + (1 - decay) * weight for mean, weight in zip(state.averages, state.weights, strict=True)]
    return state._replace(averages=means)


# Distillation


@lru_cache(maxsize=4)
def _student_block(student, optimizer, tau, schedule, averaging):
    """Compiles a block of student updates for `train_student`."""
    optimizer = OPTIMIZERS[optimizer]

    @tf.function(jit_compile=student.xla, autograph=False)
    def block(state, observations, teacher_outputs, rate, speed):
        def step(index, state, total):
            if schedule is not None:
                due = (speed > 0) & (tf.cast(state.update, tf.int32) % schedule.frequency == 0)
                masks = tf.cond(
                    due, lambda: schedule.masks(state.weights, state.masks, state.clock), lambda: list(state.masks)
                )
                state = state._replace(masks=masks, clock=state.clock + speed)
            with tf.GradientTape() as tape:
                tape.watch(state.weights)
                outputs = student(state.weights, state.masks, observations[index][None])
                loss = student.loss(teacher_outputs[index], outputs, tau)
            state = apply_gradients(optimizer, state, tape.gradient(loss, state.weights), rate)
            return index + 1, average(state, averaging) if state.averages else state, total + loss

        updates = tf.shape(observations)[0]
        total = tf.zeros([student.members])
        _, state, total = tf.while_loop(lambda index, *_: index < updates, step, (0, state, total))
        return state, total / tf.cast(updates * tf.shape(observations)[1], tf.float32)

    return block


def train_student(
    student, state, replay, settings, generator, updates, rate, schedule=None, speed=1.0, done=(0, 0.0), on_block=None
):
    """Distils the teacher's outputs in the replay into a student, pruning it on the way if there is a schedule.

    Args:
        student: a student of model.py.
        state: its TrainingState.
        replay: ReplayMemory with the fields observations and teacher_outputs.
        settings: the configuration's group `prune` or `distill`.
        generator: NumPy generator that draws the minibatches.
        updates: number of minibatch updates.
        rate: learning rate.
        schedule: PruningSchedule or None.
        speed: by how much the schedule's clock moves on with each update; 0 turns pruning off.
        done: of these updates, how many were done before, and the sum of their losses.
        on_block: called after every block of updates with the state and what is `done` then, for checkpoints.

    Returns:
        The new state and the mean loss of one state in nats, float32 [members].
    """
    block = _student_block(student, settings["optimizer"], settings["tau"], schedule, settings["averaging"])
    batch = settings["batch_size"]
    work = batch * student.members * (sum(student.layer_sizes()) + 1000)
    most = max(1, min(BLOCK_BYTES // (batch * replay.entry_bytes()), BLOCK_WORK // work))
    count, total = done
    while count < updates:
        more = min(most, updates - count)
        batches = replay.sample(generator, more, batch)
        state, loss = block(state, *batches, tf.constant(rate), tf.constant(speed))
        count, total = count + more, total + loss.numpy() * more
        if on_block:
            on_block(state, (count, total))
    return state, total / updates


class Distilled(NamedTuple):
    """The best student of a distillation.

    Attributes:
        weights: of its plain Keras network, as `set_weights` takes them.
        met: whether it met the objective as often, and as clearly, as the settings ask for.
        epochs: epochs trained.
        rewards: those it was chosen by, float64 [episodes].
    """

    weights: list
    met: bool
    epochs: int
    rewards: np.ndarray


def fit_supervised(student, task, step, attempt=1, start=None):
    """Policy distillation (paper, section III): trains a dense student to act like the teacher.

    All members are trained on the same minibatches, and the network with the best score is kept. The objective is met
    when a member's score was above it `patience` times in a row; if the settings ask for it, the epoch's best network
    must then be above it on further episodes too, and networks that are come before all others. That ends distillation,
    or, if the settings say so, a network that matches the teacher as well.

    Args:
        student: a student of model.py.
        task: Task.
        step: number of the PoPS step (from 1); attempt: number of the size tried in it.
        start: weights that the first member starts from, as `set_weights` takes them; without it all members are fresh.

    Returns:
        Distilled.

    Raises:
        RunFailed: the loss is no longer a number.
    """
    settings, goal = task.config["distill"], task.config["evaluation"]
    weights = student.initial_weights(task.seeds.generator("initial_weights", step, attempt), settings["hidden_bias"])
    for weight, array in zip(weights, start or [], strict=False):
        weight[0] = array
    state = initial_state(weights, student.full_masks(), averaged=settings["averaging"] > 0)
    percent = task.percent(student)
    player = student_player(student, task, settings["episodes"])
    games = StudentGames(student, task, step, attempt)
    replay = task.replay or replay_memory(task)
    best, best_rank, in_a_row = None, (False, False, -np.inf), np.zeros(student.members, int)
    first, within = 1, None
    if saved := task.run.interrupted("distill", step, attempt):
        state, best, best_rank, in_a_row, played, first, within = saved
        state, best = TrainingState(*state), best and Distilled(*best)
        games.restore(played)

    def on_block(state, done):
        def content():
            position = position_within(done, generator, task, replay)
            return state, best, best_rank, in_a_row, games.content(), epoch, position

        updates = (epoch - 1) * settings["updates"] + done[0]
        task.run.progress(f"step {step}: distilling, size {attempt}", updates, settings["epochs"] * settings["updates"])
        task.run.checkpoint(content, "distill", step, attempt)

    for epoch in range(first, settings["epochs"] + 1):
        purpose = ("distill", step, attempt, epoch)
        rate = learning_rate(settings["learning_rate"], percent, epoch)
        generator = task.seeds.generator("minibatches", *purpose)
        if task.replay is None and within is None:
            replay.fill(*purpose)
        done, within = go_on_within(within, generator, task, replay), None
        state, losses = train_student(
            student, state, replay, settings, generator, settings["updates"], rate, done=done, on_block=on_block
        )
        check_loss(losses, "distill", step, state)
        games.go_on(state, replay, epoch)
        if epoch % settings["evaluate_every"]:
            continue
        rewards = evaluate_student(player, state, task, replay, *purpose)
        scores = lower_confidence(rewards, settings["confidence"])
        member = int(scores.argmax())
        task.run.metrics(
            phase="distill",
            step=step,
            iteration=epoch,
            update=int(state.update),
            weights=sum(student.layer_sizes()),
            nonzero=sum(student.layer_sizes()),
            learning_rate=rate,
            loss=float(losses[member]),
            rewards=rewards[member],
        )
        network, chosen_by = student.plain(state.played, state.masks, member), rewards[member]
        score = scores[member]
        in_a_row = np.where(scores > goal["objective"], in_a_row + 1, 0)
        met, confirmed = bool(in_a_row.max() >= settings["patience"]), False
        if met and settings["confirm_episodes"]:
            episodes = settings["confirm_episodes"]
            chosen_by = evaluate_network(network, task.config, task.seeds, episodes, "confirm", *purpose)
            score = lower_confidence(chosen_by, settings["confirm_confidence"])
            met = confirmed = bool(score > goal["objective"])
        matched = met and settings["until"] == "teacher" and matches(chosen_by, task.teacher_rewards)
        rank = matched, confirmed, score
        if rank > best_rank:
            best, best_rank = Distilled(network.get_weights(), met, epoch, chosen_by), rank
        best = best._replace(met=best.met or met)
        if matched or (met and settings["until"] == "objective"):
            break
    player.close()
    games.close()
    return best._replace(epochs=epoch)


def position_within(done, generator, task, replay):
    """For a checkpoint: where an epoch or iteration is, with its replay memory, if that is not the whole run's."""
    return done, generator.bit_generator.state, replay.content() if task.replay is None else None


def go_on_within(position, generator, task, replay):
    """Goes back to a `position_within`, if there is one. Returns what is `done`, for `train_student`."""
    if position is None:
        return 0, 0.0
    done, generator.bit_generator.state, content = position
    if task.replay is None:
        replay.restore(content)
    return done


def check_loss(loss, phase, step, state):
    if not np.isfinite(loss).all():
        raise RunFailed(
            f"{phase}, step {step}, update {int(state.update)}: the loss is {loss[~np.isfinite(loss)][0]}; "
            f"try a lower {phase}.learning_rate"
        )


def lower_confidence(rewards, confidence):
    """The mean less `confidence` standard errors, along the last axis."""
    return rewards.mean(axis=-1) - confidence * standard_error(rewards)


def matches(rewards, others):
    """Whether rewards are as good as others: their mean at most one standard error (of the difference) below."""
    error = np.hypot(standard_error(rewards), standard_error(others))
    return bool(rewards.mean() >= others.mean() - error)


# What other ways to play change in the configuration.
VARIATIONS = {
    "greedy": {"evaluation": {"acting": "greedy", "epsilon": 0.0}},
    "sticky": {"environment": {"sticky": 0.25}},
}


def varied(config, variation):
    """The configuration for another way to play, one of `VARIATIONS`."""
    return config | {group: config[group] | changes for group, changes in VARIATIONS[variation].items()}


def evaluation_player(policy, config, episodes, members=1, autoreset=False):
    """A Player that acts as the configuration says for evaluations."""
    settings = config["evaluation"]
    acting, epsilon = settings["acting"], settings["epsilon"] or None
    return Player(policy, config["environment"], episodes, acting, epsilon, members, autoreset)


def student_player(student, task, episodes):
    """A Player for all members of a student; its `evaluate` takes the seed, the weights and the masks."""
    return evaluation_player(student.policy(), task.config, episodes, student.members)


def evaluate_student(player, state, task, replay, *purpose):
    """Rewards of all members of a student, float64 [members, episodes], on episodes to select by.

    The settings may ask that states visited on the way join the replay, with the teacher's outputs (DAgger, Ross et al.,
    2011): a small student gets into states that the teacher never sees, and has to learn the way back from there.
    """
    wanted, visited = task.config["replay"]["student_states"], replay.visited
    visited.clear()
    seed = task.seeds.environment("select", *purpose)
    rewards = player.evaluate(seed, state.played, state.masks, visited=visited.add if wanted else None)
    if wanted:
        states = visited.states()
        count = min(len(states), wanted)
        drawn = task.seeds.generator("student_states", *purpose).choice(len(states), count, replace=False)
        replay.add_visited(states[drawn])
    return rewards


def evaluate_network(network, config, seeds, episodes, use, *purpose, watch=None):
    """Rewards of a plain network, float64 [episodes], on episodes of one of the `Seeds.USES`.

    Args:
        watch: called with (episodes that are over, episodes), in every step.
    """
    return play_episodes(network, config, seeds, episodes, use, *purpose, watch=watch)[0]


def play_episodes(network, config, seeds, episodes, use, *purpose, watch=None):
    """The same, and numbers that tell different episodes apart (see `Player.played`)."""
    copies = min(episodes, EVALUATION_COPIES)
    player = evaluation_player(single(network), config, copies)
    seed, results = seeds.environment(use, *purpose), []
    for first in range(0, episodes, copies):
        over = watch and (lambda count, first=first: watch(min(first + count, episodes), episodes))
        results.append((player.evaluate(seed + first, watch=over)[0], player.played))
    player.close()
    rewards, played = (np.concatenate(parts)[:episodes] for parts in zip(*results, strict=True))
    return rewards, played


def report_rewards(network, config, seeds, episodes, *purpose, watch=None):
    """Statistics of the rewards of a plain network over fresh episodes, as they are reported."""
    rewards, played = play_episodes(network, config, seeds, episodes, "report", *purpose, watch=watch)
    # Elsewhere episodes start from many states, so that the same actions do not mean the same episode.
    return reward_statistics(rewards, played if is_atari(config["environment"]) else None)


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
            single(self.teacher),
            self.config["environment"],
            settings["environments"],
            self.config["evaluation"]["acting"],
            epsilon=settings["epsilon"],
            autoreset=True,
        )
        player.play(self.seeds.environment("train", "fill_replay", *purpose), on_step)
        player.close()

    def add_visited(self, states):
        """Adds states that a student visited."""
        rows = max(1, BLOCK_BYTES // 8 // states[0].nbytes)  # at once; inside a network they take more memory
        outputs = [self.teacher(states[first : first + rows]).numpy() for first in range(0, len(states), rows)]
        self.add_from(Part({"observations": states, "teacher_outputs": np.concatenate(outputs)}))

    def content(self):
        """What `restore` needs, for a checkpoint."""
        return list(self.sources)

    def restore(self, sources):
        """Makes an empty memory what it was."""
        if sources:
            self.added = sources[0][0]
            self.skip(self.added)
        for _, source in sources:
            self.add_from(source)
            if isinstance(source, Part):
                source.arrays = None


def replay_memory(task):
    """An empty StateMemory for a Task, which shows in the run's bar how far it is filled."""
    return StateMemory(task.config, task.teacher, task.seeds, task.run.watch("the teacher fills the replay"))


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
            self.player = evaluation_player(student.policy(), config, copies, student.members, autoreset=True)

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
        self.player.play(seed, on_step, state.played, state.masks, go_on=begun)
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


# The teacher


def _q_learning_block(agent, settings):
    """Compiles a block of Q-learning updates."""
    optimizer = partial(adam, epsilon=settings["adam_epsilon"])

    @tf.function(jit_compile=agent.xla, autograph=False)
    def block(state, target_weights, observations, actions, rewards, next_observations, factors, rate):
        def step(index, state, target_weights, total):
            following = agent(target_weights, next_observations[index])
            chooser = agent(state.weights, next_observations[index]) if settings["double_q"] else following
            best = tf.gather(following, tf.argmax(chooser, axis=-1), batch_dims=1)
            targets = rewards[index] + factors[index] * best
            with tf.GradientTape() as tape:
                tape.watch(state.weights)
                loss = agent.loss(agent(state.weights, observations[index]), actions[index], targets)
            state = apply_gradients(optimizer, state, tape.gradient(loss, state.weights), rate)
            sync = state.update % settings["target_sync"] == 0
            target_weights = [tf.where(sync, w, t) for w, t in zip(state.weights, target_weights, strict=True)]
            return index + 1, state, target_weights, total + loss

        updates = tf.shape(observations)[0]
        loop = (0, state, target_weights, tf.constant(0.0))
        _, state, target_weights, total = tf.while_loop(lambda index, *_: index < updates, step, loop)
        return state, target_weights, total / tf.cast(updates, tf.float32)

    return block


class Best:
    """Keeps the weights that scored best at an evaluation so far; the agents have them, also in a resumed run."""

    def __init__(self, run, *agents):
        self.agents, self.score = agents, -np.inf
        run.include("best", self)

    def after_evaluation(self, rewards, *states):
        if rewards.mean() > self.score:
            self.restore((rewards.mean(), [[w.numpy() for w in state.weights] for state in states]))

    def content(self):
        return self.score, [agent.network.get_weights() for agent in self.agents]

    def restore(self, content):
        self.score, weights = content
        for agent, arrays in zip(self.agents, weights, strict=True):
            agent.network.set_weights(arrays)


def train_dqn(agent, config, seeds, run):
    """Trains a teacher by (double) deep Q-learning until it scores above `stop_above` or its steps are used up.

    After each evaluation the agent has the weights that scored best so far. Where an episode is cut off by its step limit,
    its last state still has a value; only states that the environment itself ends count as terminal.

    Checkpoints hold the actions taken: a resumed run takes them again, which brings back environments and replay memory.

    Args:
        agent: DQNAgent.
        config: the configuration.
        seeds: Seeds.
        run: Run, which takes the metrics and the checkpoints.

    Raises:
        RunFailed: the loss is no longer a number.
    """
    best = Best(run, agent)
    settings, model = config["teacher"], config["model"]
    count = settings["environments"]
    shape = model["observation_shape"]
    replay = (FrameTransitions if len(shape) > 1 else Transitions)(config["replay"]["capacity"], shape, settings)
    generator = seeds.generator("train_dqn")
    state = initial_state(agent.initial_weights(seeds.generator("initial_weights", "teacher")))
    target_weights = list(state.weights)
    block = _q_learning_block(agent, settings)

    @tf.function(autograph=False)
    def explore(weights, observations, seed, epsilon):
        return select_actions(agent(weights, observations), "greedy", seed, epsilon)

    player = evaluation_player(lambda w, o: agent(w, o[0])[None], config, settings["episodes"])
    environments = make_environments(config["environment"], count)
    exploration_seed = seeds.environment("train", "train_dqn")
    observations, info = environments.reset(seed=exploration_seed)
    lives, ended = info.get("lives"), np.zeros(count, bool)
    updates, losses = 0, []
    actions, known, first = np.zeros([settings["steps"] // count, count], np.int16), 0, 0
    restart = settings["restart_every"] // count
    if saved := run.interrupted("teacher"):
        state, target_weights, generator.bit_generator.state, updates, losses, first, before = saved
        state = TrainingState(*state)
        known = first + len(before)
        actions[first:known] = before
        replay.skip(first * count)

    def content():
        # Steps before the last start of the environments that the replay memory no longer holds need not be repeated.
        first = int(max(0, index + 1 - replay.history)) // restart * restart
        return state, target_weights, generator.bit_generator.state, updates, losses, first, actions[first : index + 1]

    for index in range(first, len(actions)):
        steps = (index + 1) * count
        if index >= known:
            progress = min(1.0, steps / settings["epsilon_steps"])
            epsilon = settings["epsilon_first"] + progress * (settings["epsilon_last"] - settings["epsilon_first"])
            seed = tf.constant([exploration_seed, steps])
            actions[index] = explore(state.weights, observations, seed, tf.constant(epsilon)).numpy()
        if index and index % restart == 0:
            following, info = environments.reset(seed=seeds.environment("train", "train_dqn", index))
            rewards, terminated, truncated = np.zeros(count), np.zeros(count, bool), np.zeros(count, bool)
            ended = np.ones(count, bool)
        else:
            following, rewards, terminated, truncated, info = environments.step(actions[index].astype(np.int64))
        if (index + 1) % restart == 0:
            truncated = ~terminated
        learnt = np.sign(rewards) if settings["clip_rewards"] else rewards
        ends = terminated
        if settings["terminal"] == "point":
            ends = ends | (rewards != 0)
        if settings["terminal"] == "life":
            ends, lives = ends | (info["lives"] < lives), info["lives"]
        replay.add_step(observations, actions[index], learnt, following, ends, terminated | truncated, over=ended)
        observations, ended = following, terminated | truncated
        if index < known:
            continue

        due = (steps - settings["learning_starts"]) // settings["steps_per_update"] - updates
        if due > 0:
            done = steps / settings["steps"]
            rate = settings["learning_rate_first"] * (1 - done) + settings["learning_rate_last"] * done
            batches = replay.sample(generator, due, settings["batch_size"])
            state, target_weights, loss = block(state, target_weights, *batches, tf.constant(rate, tf.float32))
            updates += due
            losses.append(loss)

        if losses and steps // settings["evaluate_every"] > (steps - count) // settings["evaluate_every"]:
            loss, losses = float(np.mean(losses)), []
            if not np.isfinite(loss):
                raise RunFailed(f"teacher, update {updates}: the loss is {loss}; try a lower teacher.learning_rate_first")
            rewards = player.evaluate(seeds.environment("select", "train_dqn", steps), state.weights)[0]
            best.after_evaluation(rewards, state)
            run.metrics(phase="teacher", step=steps, update=updates, learning_rate=rate, loss=loss, rewards=rewards)
            if rewards.mean() > settings["stop_above"]:
                break
        run.progress("training the teacher", steps, settings["steps"])
        run.checkpoint(content, "teacher")
    environments.close()
    player.close()


def generalised_advantages(values, rewards, terminated, ended, discount, decay):
    """Generalised advantage estimation (Schulman et al., 2016) over a rollout.

    Args:
        values: of the states, float32 [steps + 1, copies].
        rewards, terminated, ended: of the steps, float32 [steps, copies]; zeros and ones where true or false.
        discount: γ.
        decay: λ.

    Returns:
        float32 [steps, copies].
    """
    surprises = rewards + discount * (1 - terminated) * values[1:] - values[:-1]
    carried = discount * decay * (1 - ended)
    inputs = surprises, carried
    return tf.scan(lambda later, now: now[0] + now[1] * later, inputs, tf.zeros_like(rewards[0]), reverse=True)


def _actor_critic_block(actor, critic, settings):
    """Compiles the updates that follow a rollout."""

    @tf.function(jit_compile=True, autograph=False)
    def block(states, observations, actions, rewards, terminated, ended, rows, rates, entropy):
        flat = tf.reshape(observations, [-1, *observations.shape[2:]])
        values = tf.reshape(critic(states[1].weights, flat), observations.shape[:2])
        advantages = generalised_advantages(
            values, rewards, terminated, ended, settings["discount"], settings["advantage_decay"]
        )
        returns = tf.reshape(advantages + values[:-1], [-1])
        advantages, actions = tf.reshape(advantages, [-1]), tf.reshape(actions, [-1])
        logs = tf.nn.log_softmax(actor(states[0].weights, flat[: tf.size(actions)]))
        before = tf.gather(logs, actions, batch_dims=1)

        def step(index, states, total):
            batch = rows[index]
            seen, gains = tf.gather(flat, batch), tf.gather(advantages, batch)
            gains = (gains - tf.reduce_mean(gains)) / (tf.math.reduce_std(gains) + 1e-8)
            with tf.GradientTape(persistent=True) as tape:
                tape.watch([state.weights for state in states])
                losses = (
                    actor.loss(
                        actor(states[0].weights, seen),
                        tf.gather(actions, batch),
                        gains,
                        tf.gather(before, batch),
                        settings["clip"],
                        entropy,
                    ),
                    critic.loss(critic(states[1].weights, seen), tf.gather(returns, batch)),
                )
            states = tuple(
                apply_gradients(adam, state, tape.gradient(loss, state.weights), rates[part])
                for part, (state, loss) in enumerate(zip(states, losses, strict=True))
            )
            return index + 1, states, total + losses[1]

        updates = rows.shape[0]
        _, states, total = tf.while_loop(lambda index, *_: index < updates, step, (0, states, tf.constant(0.0)))
        return states, total / updates

    return block


def train_actor_critic(actor, critic, config, seeds, run):
    """Trains a teacher by advantage actor-critic until it scores above `stop_above` or its steps are used up.

    Rollouts of many copies, generalised advantages, and several passes over each rollout with a clipped policy gradient
    (PPO, Schulman et al., 2017). Learning rates and the entropy bonus fall in a straight line. After each evaluation both
    agents have the weights that scored best so far.

    Checkpoints hold the actions taken since the environments last started over: a resumed run takes them again, which
    brings back the environments.

    Args:
        actor, critic: DQNAgents.
        config: the configuration.
        seeds: Seeds.
        run: Run, which takes the metrics (the loss is the critic's) and the checkpoints.

    Raises:
        RunFailed: the loss is no longer a number.
    """
    best = Best(run, actor, critic)
    settings, shape = config["teacher"], config["model"]["observation_shape"]
    copies, length = settings["environments"], settings["rollout"]
    generator = seeds.generator("train_actor_critic")
    weights = actor.initial_weights(seeds.generator("initial_weights", "teacher"))
    weights[-2] *= 0.01  # so that all actions are about as likely at first
    states = (
        initial_state(weights),
        initial_state(critic.initial_weights(seeds.generator("initial_weights", "critic"))),
    )
    block = _actor_critic_block(actor, critic, settings)
    observations = np.zeros([length + 1, copies, *shape], np.float32)
    actions = np.zeros([length, copies], np.int32)
    rewards, terminated, ended = (np.zeros([length, copies], np.float32) for _ in range(3))
    taken = np.zeros([length, copies], bool)
    index = 0

    def on_step(step):
        nonlocal index
        observations[index], actions[index], rewards[index] = step.observations, step.actions, step.rewards
        terminated[index], ended[index], taken[index] = step.terminated, step.ended, ~step.over
        index += 1
        return index < length

    def policy(weights, observations):
        return actor(weights, observations[0])[None]

    player = Player(policy, config["environment"], copies, "sample", autoreset=True)
    evaluator = evaluation_player(policy, config, settings["episodes"])
    restart_every, first = settings["restart_every"], 0
    history = np.zeros([restart_every, length, copies], np.int16)  # all actions since the environments started over
    if saved := run.interrupted("teacher"):
        states, generator.bit_generator.state, first, before = saved
        states = tuple(TrainingState(*state) for state in states)
        history[: len(before)] = before
        if len(before):
            seed = seeds.environment("train", "train_actor_critic", first - len(before))
            player.retrace(seed, before.reshape(-1, copies))

    def content():
        return states, generator.bit_generator.state, rollout + 1, history[: (rollout + 1) % restart_every]

    for rollout in range(first, settings["steps"] // taken.size):
        index, steps = 0, (rollout + 1) * taken.size
        left = 1 - rollout * taken.size / settings["steps"]
        since_start = rollout % restart_every
        seed = seeds.environment("train", "train_actor_critic", rollout)
        player.play(seed, on_step, states[0].weights, go_on=since_start > 0)
        observations[-1] = player.observations
        history[since_start] = actions
        candidates = np.flatnonzero(taken)
        passes = [np.resize(generator.permutation(candidates), taken.size) for _ in range(settings["passes"])]
        rates = [left * settings[f"{part}_learning_rate"] for part in ("actor", "critic")]
        states, loss = block(
            states,
            observations,
            actions,
            rewards * settings["reward_scale"],
            terminated,
            ended,
            np.concatenate(passes).astype(np.int32).reshape(-1, settings["batch_size"]),
            tf.constant(rates),
            tf.constant(left * settings["entropy"]),
        )
        if steps // settings["evaluate_every"] > (steps - taken.size) // settings["evaluate_every"]:
            for part, state in zip(("actor", "critic"), states, strict=True):
                if not all(np.isfinite(w).all() for w in state.weights):
                    raise RunFailed(
                        f"teacher, step {steps}: the {part}'s weights are no numbers any more; "
                        f"try a lower teacher.{part}_learning_rate"
                    )
            scores = evaluator.evaluate(seeds.environment("select", "train_actor_critic", steps), states[0].weights)[0]
            best.after_evaluation(scores, *states)
            update = int(states[0].update)
            run.metrics(
                phase="teacher", step=steps, update=update, learning_rate=rates[0], loss=float(loss), rewards=scores
            )
            if scores.mean() > settings["stop_above"]:
                break
        run.progress("training the teacher", steps, settings["steps"])
        run.checkpoint(content, "teacher")
    player.close()
    evaluator.close()


TRAINERS = {"dqn": train_dqn, "actor_critic": train_actor_critic}
