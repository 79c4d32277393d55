"""Training: the teacher (deep Q-learning or actor-critic) and the student (distillation, with or without pruning).

Blocks of updates run inside one compiled function. Weights, masks and optimiser slots are tensors that its loop carries,
not variables: that is faster, and going back to an earlier state is keeping its tensors.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from types import MappingProxyType
from typing import NamedTuple

import keras
import numpy as np
import tensorflow as tf

from pops.configs import learning_rate
from pops.support.errors import RunFailed
from pops.support.exploring import Exploration, Rollouts
from pops.support.forward import agent_policy, student_policy
from pops.support.playing import evaluate_network, evaluation_player, select_actions, varied
from pops.support.replay import ReplayMemory
from pops.support.rewards import Reference, lower_confidence, matches, standard_error, worst_tenth
from pops.support.run import Resumable, Run, remembered
from pops.support.seeds import Seeds
from pops.support.states import StateMemory, StudentGames
from pops.support.updates import (
    OPTIMIZERS,
    TrainingState,
    actor_critic_block,
    apply_gradients,
    average,
    cropped,
    filled,
    initial_state,
    joined,
    q_learning_block,
    split,
)
from pops.support.vector import cores

# Minibatches drawn for one compiled block of updates take at most this much memory; more is no faster.
BLOCK_BYTES = 2**27
# And at most about this many weights times states, so that there is a checkpoint between blocks at least once in a minute.
# The 1,000 stand for what does not grow with the weights.
BLOCK_WORK = 5 * 10**10


class Task(NamedTuple):
    """What students are trained for; the same throughout a run.

    Attributes:
        config: the configuration.
        seeds: Seeds of the run.
        teacher: plain Keras network, or what is used like one.
        reference: Reference, what a student has to match.
        original_weights: number of weights of the original student.
        replay: StateMemory that the teacher filled once, or None to start one for each IPP and each distillation.
        run: Run, which takes the metrics and the checkpoints.
        begun: StateMemory of which each of these starts as a copy, or None for empty ones.
    """

    config: dict
    seeds: Seeds
    teacher: keras.Model
    reference: Reference
    original_weights: int
    replay: ReplayMemory
    run: Run
    begun: ReplayMemory | None = None

    def percent(self, student):
        """Size of a student in percent of the original."""
        return 100 * sum(student.layer_sizes()) / self.original_weights

    def new_replay(self):
        """A StateMemory of its own for a training, which shows in the run's bar how far it is filled."""
        if self.begun is not None:
            return self.begun.copy()
        return StateMemory(self.config, self.teacher, self.seeds, self.run.watch("the teacher fills the replay"))

    def apart(self):
        """The same task, but each training starts with the same states of the teacher's games and shares no others."""
        begun = self.new_replay()
        begun.fill("begun")
        return self._replace(replay=None, begun=begun)


# Distillation


@lru_cache(maxsize=16)
def _student_block(student, optimizer, tau, schedule, averaging):
    """Compiles a block of student updates for `train_student`."""
    optimizer = OPTIMIZERS[optimizer]

    @tf.function(jit_compile=student.xla, autograph=False)
    def block(state, sizes, observations, teacher_outputs, updates, rate, speed):
        def masks_due(state):
            return (speed > 0) & (tf.cast(state.update, tf.int32) % schedule.frequency == 0)

        def step(index, state, total):
            with tf.GradientTape() as tape:
                tape.watch(state.weights)
                outputs = student(state.weights, state.masks, observations[index][None])
                loss = student.loss(teacher_outputs[index], outputs, tau)
            state = apply_gradients(optimizer, state, tape.gradient(loss, state.weights), rate)
            state = state._replace(clock=state.clock + speed)
            return index + 1, average(state, averaging) if state.averages else state, total + loss

        def between_masks(first, state, total):
            """Updates with the same masks: the loop is faster without theirs in it."""
            new = partial(schedule.masks, state.weights, state.masks, state.clock, sizes)
            state = state._replace(masks=tf.cond(masks_due(state), new, lambda: list(state.masks)))

            def go_on(index, state, _):
                return (index < updates) & ((index == first) | ~masks_due(state))

            return tf.while_loop(go_on, step, (first, state, total))

        body = step if schedule is None else between_masks
        loop = (0, state, tf.zeros([student.members]))
        _, state, total = tf.while_loop(lambda index, *_: index < updates, body, loop)
        return state, total / tf.cast(updates * tf.shape(observations)[1], tf.float32)

    return block


def train_student(
    student,
    state,
    replay,
    settings,
    generator,
    updates,
    rate,
    schedule=None,
    speed=1.0,
    at_once=None,
    done=(0, 0.0),
    on_block=None,
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
        at_once: updates of a compiled block, which is compiled anew for another number; all of them if left out.
        done: of these updates, how many were done before, and the sum of their losses.
        on_block: called after every block of updates with the state and what is `done` then, for checkpoints.

    Returns:
        The new state and the mean loss of one state in nats, float32 [members].
    """
    threaded = student.in_threads and not tf.config.list_physical_devices("GPU")
    groups, trained = (student.members, student.wide) if threaded else (1, student)
    block = _student_block(trained, settings["optimizer"], settings["tau"], schedule, settings["averaging"])
    batch = settings["batch_size"]
    work = batch * student.members * (sum(student.layer_sizes()) + 1000)
    most = max(1, min(at_once or updates, BLOCK_BYTES // (batch * replay.entry_bytes()), BLOCK_WORK // work))
    sizes = tf.constant(student.layer_sizes(), tf.int32)
    count, total = done
    with ThreadPoolExecutor(min(groups, cores())) as threads:
        while count < updates:
            more = min(most, updates - count)
            batches = map(tf.constant, replay.sample(generator, most, batch))  # of the last block, some are for nothing
            shared = sizes, *batches, *map(tf.constant, (more, rate, speed))
            parts = split(filled(state, trained) if threaded else state, groups)
            states, losses = zip(*threads.map(lambda part, shared=shared: block(part, *shared), parts), strict=True)
            state, loss = joined(states), tf.concat(losses, 0)
            state = cropped(state, student) if threaded else state
            count, total = count + more, total + loss.numpy() * more
            if on_block:
                on_block(state, (count, total))
    return state, total / updates


TITLES = {"prune": "step {}: pruning", "distill": "step {}: distilling, size {}"}  # of a training's purpose


class StudentTraining:
    """A student's training in rounds: what IPP's iterations and distillation's epochs share. A resumed run goes on in it.

    Args:
        student: a student of model.py.
        state: its TrainingState to start from.
        task: Task.
        phase: "prune" or "distill", the configuration's group.
        purpose: numbers that tell it from the run's other ones, the PoPS step first.
        kept: what else changes in the course of the training, each with `content` and `restore` (see Resumable).

    Attributes:
        state: the present TrainingState.
        replay: StateMemory.
        means: mean rewards of this round's evaluations.
    """

    def __init__(self, student, state, task, phase, *purpose, **kept):
        self.student, self.state, self.task, self.phase, self.purpose, self.kept = (
            student,
            state,
            task,
            phase,
            purpose,
            kept,
        )
        self.settings = task.config[phase]
        self.policy = student_policy(student)
        self.player = evaluation_player(task.config, self.settings["episodes"], student.members)
        self.disturbed = {
            way: evaluation_player(varied(task.config, way), self.settings["episodes"], student.members)
            for way in task.config["evaluation"]["robust"]
            if task.config["replay"]["student_states"]
        }
        self.replay = task.replay or task.new_replay()
        self.round, self.part, self.within, self.means = 1, 0, None, []
        if saved := task.run.interrupted(phase, *purpose):
            state, kept, self.round, self.part, self.within, self.means = saved
            self.state = TrainingState(*state)
            for name, content in kept.items():
                self.kept[name].restore(content)

    def rounds(self, count):
        """The numbers of the rounds, from 1. A replay that is not the whole run's is filled by the teacher if it is empty,
        and, if the settings say so, before each round."""
        for number in range(self.round, count + 1):
            self.round = number
            self.generator = self.task.seeds.generator("minibatches", self.phase, *self.purpose, self.round)
            due = not self.replay.size or (number > 1 and self.task.config["replay"]["refill"])
            if self.task.replay is None and self.within is None and due:
                self.replay.fill(self.phase, *self.purpose, self.round)
            yield number
            self.part, self.means = 0, []

    def parts(self, count):
        """The numbers of the parts of a round, from 0."""
        for number in range(self.part, count):
            self.part = number
            yield number

    def rate(self):
        """The learning rate by the size of the student and by the round."""
        return learning_rate(self.settings["learning_rate"], self.task.percent(self.student), self.round)

    def update(self, updates, rate, schedule=None, speed=1.0):
        """Updates the student (see `train_student`). Returns the mean loss of one state, float32 [members].

        Raises:
            RunFailed: it is no longer a number.
        """

        def on_block(state, done):
            before = (self.round - 1) * self.settings["updates"] + self.part * updates
            total = self.settings["epochs" if self.phase == "distill" else "iterations"] * self.settings["updates"]
            self.task.run.progress(TITLES[self.phase].format(*self.purpose), before + done[0], total)
            self.task.run.checkpoint(partial(self._content, state, done), self.phase, *self.purpose)

        self.state, loss = train_student(
            *(self.student, self.state, self.replay, self.settings, self.generator, updates, rate, schedule, speed),
            at_once=self.task.config["prune"]["evaluate_every"],
            done=self._go_on_within(),
            on_block=on_block,
        )
        check_loss(loss, self.phase, self.purpose[0], self.state)
        return loss

    def _content(self, state, done):
        """For a checkpoint: all that `__init__` and `_go_on_within` bring back."""
        within = done, self.generator.bit_generator.state, self.replay.content() if self.task.replay is None else None
        kept = {name: part.content() for name, part in self.kept.items()}
        return state, kept, self.round, self.part, within, self.means

    def _go_on_within(self):
        """Goes back to where a checkpoint was between two blocks. Returns what is `done`, for `train_student`."""
        if self.within is None:
            return 0, 0.0
        done, self.generator.bit_generator.state, content = self.within
        if self.task.replay is None:
            self.replay.restore(content)
        self.within = None
        return done

    def evaluate(self, *part):
        """Rewards of all members, float64 [members, episodes], on episodes to select by.

        The settings may ask that states visited on the way join the replay, with the teacher's outputs (DAgger, Ross et
        al., 2011): a small student gets into states that the teacher never sees, and has to learn the way back from there.
        So do those visited in the other ways to play in which it has to be robust.
        """
        purpose = self.phase, *self.purpose, self.round, *part
        policy = self.policy(self.state.played, self.state.masks)
        rewards = evaluate_student(self.player, policy, self.task, self.replay, *purpose)
        for way, player in self.disturbed.items():
            evaluate_student(player, policy, self.task, self.replay, *purpose, way)
        self.means.append(rewards[0].mean())
        return rewards

    def record(self, rewards, rate, loss, nonzero=None):
        """Adds an evaluation of one network to the metrics: rewards [episodes]."""
        weights = sum(self.student.layer_sizes())
        self.task.run.metrics(
            phase=self.phase,
            step=self.purpose[0],
            iteration=self.round,
            update=int(self.state.update),
            weights=weights,
            nonzero=weights if nonzero is None else nonzero,
            learning_rate=rate,
            loss=float(loss),
            rewards=rewards,
        )

    def close(self):
        """Frees the environments."""
        for player in (self.player, *self.disturbed.values()):
            player.close()


class Distilled(NamedTuple):
    """The best student of a distillation.

    Attributes:
        weights: of its plain Keras network, as `set_weights` takes them.
        met: whether it met the objective as often, and as clearly, as the settings ask for.
        epochs: epochs trained.
        rewards: those it was chosen by, float64 [episodes].
        robust: what `robustness` says of it, if it was above the objective and the settings ask for that.
    """

    weights: list
    met: bool
    epochs: int
    rewards: np.ndarray
    robust: dict = MappingProxyType({})


class BestMember(Resumable):
    """The network with the best score so far, of all members and evaluations of a distillation.

    The objective is met when a member's score was above it `patience` times in a row; if the settings ask for it, the
    evaluation's best network must then be above it on further episodes too, and be robust in the other ways to play that
    the settings name; networks that are come before all others, and of equal ones that with the better worst episodes.
    That ends distillation, or, if the settings say so, a network that matches the teacher as well. So do `give_up`
    evaluations in a row in which the best member's mean is below the lower bound, and would be so after the last epoch if
    it went on as since the evaluation before.
    """

    def __init__(self, members):
        self.distilled, self.rank, self.in_a_row = None, (False, False, -np.inf, -np.inf), np.zeros(members, int)
        self.mean, self.hopeless = np.inf, 0  # of the best member; evaluations in a row

    def after_evaluation(self, training, rewards, member, scores):
        """Returns whether distillation ends.

        Args:
            training: StudentTraining.
            rewards: float64 [members, episodes]; scores: of the members; member: the one with the best.
        """
        task, settings, student = training.task, training.settings, training.student
        objective, lower_bound = (task.config["evaluation"][key] for key in ("objective", "lower_bound"))
        network = student.plain(training.state.played, training.state.masks, member)
        score, chosen_by = scores[member], rewards[member]
        self.in_a_row = np.where(scores > objective, self.in_a_row + 1, 0)
        met, confirmed, robust = bool(self.in_a_row.max() >= settings["patience"]), False, {}
        if met and settings["confirm_episodes"]:
            episodes = settings["confirm_episodes"]
            chosen_by = evaluate_network(network, task.config, task.seeds, episodes, "confirm", "students")
            score = lower_confidence(task.reference.adjusted(chosen_by), settings["confirm_confidence"])
            robust = robustness(network, task, "students") if score > objective else {}
            met = confirmed = bool(score > objective) and all(kept["holds"] for kept in robust.values())
        reference = task.reference
        matched = met and settings["until"] == "teacher" and matches(chosen_by, reference.confirm, reference.margin)
        rank = matched, confirmed, score, worst_tenth(chosen_by)
        if rank > tuple(self.rank):
            self.rank = rank
            self.distilled = Distilled(network.get_weights(), met, training.round, chosen_by, robust)
        best = Distilled(*self.distilled)  # a checkpoint gives it back as a plain tuple
        self.distilled = best._replace(met=best.met or met)
        before, self.mean = self.mean, float(rewards.mean(axis=-1).max())
        left = (settings["epochs"] - training.round) / settings["evaluate_every"]
        reached = max(self.mean, self.mean + left * (self.mean - before))
        self.hopeless = self.hopeless + 1 if reached < lower_bound else 0
        given_up = settings["give_up"] > 0 and self.hopeless >= settings["give_up"]
        return matched or (met and settings["until"] == "objective") or given_up


@remembered("distilled")
def fit_supervised(student, task, step, attempt=1, start=None, schedule=None):
    """Policy distillation (paper, section III): trains a dense student to act like the teacher.

    All members are trained on the same minibatches, and the network with the best score is kept (see BestMember).

    Args:
        student: a student of model.py.
        task: Task.
        step: number of the PoPS step (from 1); attempt: number of the size tried in it.
        start: weights that the first member starts from, as `set_weights` takes them; without it all members are fresh.
        schedule: PruningSchedule of the pruning that follows, so that the same compiled block does for both.

    Returns:
        Distilled.

    Raises:
        RunFailed: the loss is no longer a number.
    """
    settings = task.config["distill"]
    weights = student.initial_weights(task.seeds.generator("initial_weights", step, attempt), settings["hidden_bias"])
    for weight, array in zip(weights, start or [], strict=False):
        weight[0] = array
    state = initial_state(weights, student.full_masks(), averaged=settings["averaging"] > 0)
    best, games = BestMember(student.members), StudentGames(student, task, step, attempt)
    training = StudentTraining(student, state, task, "distill", step, attempt, best=best, games=games)
    for epoch in training.rounds(settings["epochs"]):
        rate = training.rate()
        losses = training.update(settings["updates"], rate, schedule, speed=0.0)
        games.go_on(training.state, training.replay, epoch)
        if epoch % settings["evaluate_every"]:
            continue
        rewards = training.evaluate()
        scores = lower_confidence(rewards, settings["confidence"])
        member = max(range(student.members), key=lambda index: (scores[index], worst_tenth(rewards[index])))
        training.record(rewards[member], rate, losses[member])
        if best.after_evaluation(training, rewards, member, scores):
            break
    training.close()
    games.close()
    return Distilled(*best.distilled)._replace(epochs=epoch)


def evaluate_student(player, policy, task, replay, *purpose):
    """Rewards of all members of a student, float64 [members, episodes]; see StudentTraining.evaluate."""
    wanted, visited = task.config["replay"]["student_states"], replay.visited
    visited.clear()
    seed = task.seeds.environment("select", *purpose)
    rewards = player.evaluate(policy, seed, visited=visited.add if wanted else None)
    if wanted:
        states = visited.states()
        count = min(len(states), wanted)
        drawn = task.seeds.generator("student_states", *purpose).choice(len(states), count, replace=False)
        replay.add_visited(states[drawn])
    return rewards


def robustness(network, task, which):
    """In each other way to play in which students have to be robust, whether a network is: its mean difference from what
    `evaluation.robust` asks for is at most one standard error below zero.

    Args:
        which: of the confirming episodes, "students" or "choose".

    Returns:
        {way: {"reward_mean", "needed": mean of what is asked for, "stderr": of the difference, "holds"}}.
    """
    found = {}
    for way, needed in task.reference.robust.items():
        config = varied(task.config, way)
        rewards = evaluate_network(network, config, task.seeds, len(needed[which]), "confirm", which)
        found[way] = {
            "reward_mean": float(rewards.mean()),
            "needed": float(needed[which].mean()),
            "stderr": float(standard_error(rewards - needed[which])),
            "holds": matches(rewards, needed[which], margin=0.0),
        }
    return found


def check_loss(loss, phase, step, state):
    """Raises RunFailed unless the loss is a number."""
    if not np.isfinite(loss).all():
        raise RunFailed(
            f"{phase}, step {step}, update {int(state.update)}: the loss is {loss[~np.isfinite(loss)][0]}; "
            f"try a lower {phase}.learning_rate"
        )


# The teacher


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


def train_dqn(agent, config, seeds, run, start=None):
    """Trains a teacher by (double) deep Q-learning until it scores above `stop_above` or its steps are used up.

    After each evaluation the agent has the weights that scored best so far. Where an episode is cut off by its step limit,
    its last state still has a value; only states that the environment itself ends count as terminal.

    Checkpoints hold the actions taken: a resumed run takes them again, which brings back environments and replay memory.

    Args:
        agent: DQNAgent.
        config: the configuration.
        seeds: Seeds.
        run: Run, which takes the metrics and the checkpoints.
        start: weights to start from, as `get_weights` gives them, instead of fresh ones.

    Raises:
        RunFailed: the loss is no longer a number.
    """
    best = Best(run, agent)
    settings, count = config["teacher"], config["teacher"]["environments"]
    if settings["sticky"]:
        config = config | {"environment": config["environment"] | {"sticky": settings["sticky"]}}
    exploration = Exploration(config, seeds)
    learner = QLearner(agent, settings, exploration.replay, seeds, start)

    # Two, as what a policy is compiled for depends on how many copies it has played.
    explorer, policy = agent_policy(agent), agent_policy(agent)
    player = evaluation_player(config, settings["episodes"])
    actions, known, first = np.zeros([settings["steps"] // count, count], np.int16), 0, 0
    if saved := run.interrupted("teacher"):
        learnt, first, before = saved
        learner.restore(learnt)
        known = first + len(before)
        actions[first:known] = before
        exploration.replay.skip(first * count)

    def content():
        # Steps before the last start of the environments that the replay memory no longer holds need not be repeated.
        first = int(max(0, index + 1 - exploration.replay.history)) // exploration.restart_every * exploration.restart_every
        return learner.content(), first, actions[first : index + 1]

    for index in range(first, len(actions)):
        steps = (index + 1) * count
        if index >= known:
            progress = min(1.0, steps / settings["epsilon_steps"])
            epsilon = settings["epsilon_first"] + progress * (settings["epsilon_last"] - settings["epsilon_first"])
            outputs = np.asarray(explorer(learner.state.weights)(exploration.observations[None])[0])
            generator = np.random.default_rng((exploration.seed, steps))
            actions[index] = select_actions(outputs, "greedy", generator, epsilon)
        exploration.step(index, actions[index])
        if index < known:
            continue
        learner.learn(steps)
        if learner.losses and steps // settings["evaluate_every"] > (steps - count) // settings["evaluate_every"]:
            rewards = player.evaluate(policy(learner.state.weights), seeds.environment("select", "train_dqn", steps))[0]
            report = learner.report()  # before the network may be kept: it says whether that is one of numbers
            best.after_evaluation(rewards, learner.state)
            run.metrics(phase="teacher", step=steps, rewards=rewards, **report)
            if rewards.mean() > settings["stop_above"]:
                break
        run.progress("training the teacher", steps, settings["steps"])
        run.checkpoint(content, "teacher")
    exploration.environments.close()
    player.close()


class QLearner:
    """Deep Q-learning from a replay memory: the online and the target network, and the updates that are due.

    Args:
        agent: DQNAgent.
        settings: the configuration's group `teacher`.
        replay: Transitions or FrameTransitions.
        seeds: Seeds.
        start: see `train_dqn`.

    Attributes:
        state: TrainingState of the online network.
        losses: of the blocks of updates since the last `report`.
    """

    def __init__(self, agent, settings, replay, seeds, start=None):
        self.settings, self.replay = settings, replay
        self.generator = seeds.generator("train_dqn")
        self.state = initial_state(start or agent.initial_weights(seeds.generator("initial_weights", "teacher")))
        self.target_weights = list(self.state.weights)
        self.block = q_learning_block(agent, settings)
        self.updates, self.losses, self.rate = 0, [], None

    def learn(self, steps):
        """Makes the updates that are due after so many environment steps."""
        settings = self.settings
        due = (steps - settings["learning_starts"]) // settings["steps_per_update"] - self.updates
        if due > 0:
            done = steps / settings["steps"]
            self.rate = settings["learning_rate_first"] * (1 - done) + settings["learning_rate_last"] * done
            batches = self.replay.sample(self.generator, due, settings["batch_size"])
            rate = tf.constant(self.rate, tf.float32)
            self.state, self.target_weights, loss = self.block(self.state, self.target_weights, *batches, rate)
            self.updates += due
            self.losses.append(loss)

    def report(self):
        """What the metrics say of the updates since the last report. Raises RunFailed where the loss is no number."""
        loss, self.losses = float(np.mean(self.losses)), []
        if not np.isfinite(loss):
            raise RunFailed(f"teacher, update {self.updates}: the loss is {loss}; try a lower teacher.learning_rate_first")
        return {"update": self.updates, "learning_rate": self.rate, "loss": loss}

    def content(self):
        """What `restore` needs, for a checkpoint."""
        position = self.generator.bit_generator.state
        return self.state, self.target_weights, position, self.updates, self.losses, self.rate

    def restore(self, content):
        state, self.target_weights, self.generator.bit_generator.state, self.updates, self.losses, self.rate = content
        self.state = TrainingState(*state)


def train_actor_critic(actor, critic, config, seeds, run, start=None):
    """Trains a teacher by advantage actor-critic until it scores above `stop_above` or its steps are used up.

    Rollouts of many copies, generalised advantages, and several passes over each rollout with a clipped policy gradient
    (PPO, Schulman et al., 2017). Learning rates and the entropy bonus fall in a straight line. After each evaluation both
    agents have the weights that scored best so far.

    Args:
        actor, critic: DQNAgents.
        config: the configuration.
        seeds: Seeds.
        run: Run, which takes the metrics (the loss is the critic's) and the checkpoints.
        start: weights of the actor to start from, as `get_weights` gives them, instead of fresh ones.

    Raises:
        RunFailed: the loss is no longer a number.
    """
    best = Best(run, actor, critic)
    settings = config["teacher"]
    generator = seeds.generator("train_actor_critic")
    weights = actor.initial_weights(seeds.generator("initial_weights", "teacher"))
    weights[-2] *= 0.01  # so that all actions are about as likely at first
    states = (
        initial_state(start or weights),
        initial_state(critic.initial_weights(seeds.generator("initial_weights", "critic"))),
    )
    block = actor_critic_block(actor, critic, settings)
    explorer, policy = agent_policy(actor), agent_policy(actor)
    rollouts, evaluator, first = Rollouts(config, seeds), evaluation_player(config, settings["episodes"]), 0
    if saved := run.interrupted("teacher"):
        states, generator.bit_generator.state, first, before = saved
        states = tuple(TrainingState(*state) for state in states)
        rollouts.retrace(first, before)

    def content():
        return states, generator.bit_generator.state, rollout + 1, rollouts.before(rollout + 1)

    size = rollouts.taken.size
    for rollout in range(first, settings["steps"] // size):
        steps, left = (rollout + 1) * size, 1 - rollout * size / settings["steps"]
        rollouts.play(rollout, explorer(states[0].weights))
        candidates = np.flatnonzero(rollouts.taken)
        passes = [np.resize(generator.permutation(candidates), size) for _ in range(settings["passes"])]
        rows = np.concatenate(passes).astype(np.int32).reshape(-1, settings["batch_size"])
        rates = [left * settings[f"{part}_learning_rate"] for part in ("actor", "critic")]
        rewards = rollouts.rewards * settings["reward_scale"]
        seen = rollouts.observations, rollouts.actions, rewards, rollouts.terminated, rollouts.ended
        states, loss = block(states, *seen, rows, tf.constant(rates), tf.constant(left * settings["entropy"]))
        if steps // settings["evaluate_every"] > (steps - size) // settings["evaluate_every"]:
            check_weights(states, steps)
            seed = seeds.environment("select", "train_actor_critic", steps)
            scores = evaluator.evaluate(policy(states[0].weights), seed)[0]
            best.after_evaluation(scores, *states)
            update = int(states[0].update)
            run.metrics(
                phase="teacher", step=steps, update=update, learning_rate=rates[0], loss=float(loss), rewards=scores
            )
            if scores.mean() > settings["stop_above"]:
                break
        run.progress("training the teacher", steps, settings["steps"])
        run.checkpoint(content, "teacher")
    rollouts.player.close()
    evaluator.close()


def check_weights(states, steps):
    """Raises RunFailed unless the actor's and the critic's weights are numbers."""
    for part, state in zip(("actor", "critic"), states, strict=True):
        if not all(np.isfinite(w).all() for w in state.weights):
            raise RunFailed(
                f"teacher, step {steps}: the {part}'s weights are no numbers any more; "
                f"try a lower teacher.{part}_learning_rate"
            )


TRAINERS = {"dqn": train_dqn, "actor_critic": train_actor_critic}
