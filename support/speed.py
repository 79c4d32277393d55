"""Measurements of speed: updates and evaluations against what limits them, and against Python loops."""

import random
import time

import keras
import numpy as np
import tensorflow as tf

from pops.configs import configuration
from pops.model import AGENTS, StudentCartPole
from pops.policies.teacher import load_teacher
from pops.prune import PruningSchedule
from pops.support.console import log, quiet, table
from pops.support.environments import Single, configuration_of, make_environments
from pops.support.files import ROOT
from pops.support.forward import network_policy
from pops.support.playing import Player
from pops.support.replay import ReplayMemory
from pops.support.rewards import shape_text
from pops.support.updates import initial_state
from pops.train import train_student
from pops.utils import kernels

SIZES = ((256, 256, 128), (40, 40, 20), (8, 8, 4))

PONG_SIZES = ((32, 64, 64, 512), (8, 8, 8, 32))


def measure(seconds):
    """Measures everything and prints it as tables. `seconds`: how long each figure is measured."""
    with quiet():
        updates = bench_updates("cartpole", SIZES, (100, 2000, 2000), seconds)
        pong = bench_updates("pong", PONG_SIZES, (5, 50), seconds)
        policies = shipped("cartpole"), cartpole_student()
        cartpole = bench_evaluation("cartpole", 1000, vectorised_limit, policies, seconds)
        policies = shipped("lunarlander"), shipped("lunarlander", "results/lunarlander/seed0/student.keras")
        lunarlander = bench_evaluation("lunarlander", 300, replayed_limit, policies, seconds)
        policies = [untrained("pong", widths) for widths in PONG_SIZES]
        short = {"max_episode_steps": 200}  # so that it does not matter how well they play
        atari = bench_evaluation("pong", 64, vectorised_limit, policies, seconds, short)
    show(f"CartPole, distillation, {batch('cartpole')}: updates a second (limit: the matrix products alone)", updates)
    show("CartPole, greedy evaluation: steps a second (limit: the environment with random actions)", cartpole)
    show(f"Pong, distillation, {batch('pong')}: updates a second (limit: the convolutions and products alone)", pong)
    show("LunarLander, sampled evaluation: steps a second (limit: the simulator with known actions)", lunarlander)
    show("Pong, greedy evaluation, 64 copies: steps a second (limit: the environment with random actions)", atari)


def show(title, rows):
    log(table([[text if isinstance(text, str) else f"{text:,.0f}" for text in row] for row in rows], title))


def batch(name):
    return f"batch {configuration(name)['prune']['batch_size']}"


def per_second(work, seconds):
    """How much work is done in a second. `work()` does some and returns how much; its first call is not counted."""
    work()
    start, done = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        done += work()
    return done / (time.perf_counter() - start)


def bench_updates(name, sizes, blocks, seconds):
    """Distillation of an environment's students, the first of them also while it is pruned.

    Args:
        sizes: widths of the students.
        blocks: updates that are measured at once, for each student.
    """
    config = configuration(name)
    model, settings = config["model"], config["prune"]
    shape, agent = model["observation_shape"], AGENTS[name].student
    generator = np.random.default_rng(0)
    states = 100_000 if len(shape) == 1 else 2_000
    observations = generator.normal(size=(states, *shape))
    if agent.observation_type == "uint8":
        observations = (100 * np.abs(observations)).clip(0, 255)
    outputs = generator.normal(size=(states, model["actions"]))
    fields = {"observations": (shape, agent.observation_type), "teacher_outputs": ([model["actions"]], np.float32)}
    replay = ReplayMemory(states, fields)
    replay.add(observations=observations, teacher_outputs=outputs)

    rows = [("student", "limit", "ours", "share", "Python loop", "ratio")]
    pruning = PruningSchedule(0.0, 0.99, 0, 10**6, settings["frequency"])
    measured = [(sizes[0], blocks[0], pruning), *((*pair, None) for pair in zip(sizes, blocks, strict=True))]
    for widths, block, schedule in measured:
        student = agent(model, widths)
        weights = student.initial_weights(generator)
        state = initial_state(weights, student.full_masks(), averaged=settings["averaging"] > 0)

        def work(student=student, block=block, schedule=schedule):
            nonlocal state
            state, _ = train_student(student, state, replay, settings, generator, block, 1e-3, schedule)
            return block

        network = student.plain_network("bench")
        limit = per_second(products(student, network, settings, block), seconds)
        ours = per_second(work, seconds)
        title, share = shape_text(widths), f"{100 * ours / limit:.0f} %"
        if schedule is not None:
            rows.append((f"{title}, pruning", limit, ours, share, "", ""))
            continue
        one_by_one = per_second(update_one_by_one(network, replay, settings["batch_size"], tf), seconds)
        rows.append((title, limit, ours, share, one_by_one, f"{ours / one_by_one:.0f}"))
    return rows


def products(agent, network, settings, block):
    """Nothing but the convolutions and matrix products of an update, each waiting for those before it as in an update."""
    batch = settings["batch_size"]
    weights = [tf.constant(0 * kernel) for kernel in kernels(network)]
    *images, frames = agent.settings["observation_shape"][::-1]
    observations = tf.zeros([batch, *images, frames])

    @tf.function(jit_compile=agent.xla, autograph=False)
    def loop(weights, observations):
        def step(index, weights):
            outputs = observations
            with tf.GradientTape() as tape:
                tape.watch(weights)
                for layer, kernel in enumerate(weights):
                    if len(kernel.shape) > 2:
                        outputs = tf.nn.conv2d(outputs, kernel, agent.convolutions[layer][1], "VALID")
                    else:
                        outputs = tf.matmul(tf.reshape(outputs, [batch, -1]), kernel)
            # In the place of the next kernels, so that no round can be left out.
            return index + 1, tape.gradient(outputs, weights)

        return tf.while_loop(lambda index, _: index < block, step, (0, weights))[1]

    def work():
        loop(weights, observations)[0].numpy()
        return block

    return work


def update_one_by_one(network, replay, batch, tf):
    """An update as the published code does it: a minibatch of Python objects, then one call of the model."""
    entries = list(zip(*(list(array) for array in replay.arrays.values()), strict=True))
    optimizer = keras.optimizers.RMSprop(1e-3, rho=0.9)
    optimizer.build(network.trainable_variables)

    @tf.function
    def update(states, outputs):
        teacher = tf.nn.softmax(outputs / 0.01) + 1e-5
        with tf.GradientTape() as tape:
            student = tf.nn.softmax(network(states)) + 1e-5
            loss = tf.reduce_sum(teacher * tf.math.log(teacher / student))
        optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
        return loss

    def work():
        states, outputs = zip(*random.sample(entries, batch), strict=True)
        float(update(np.array(states), np.array(outputs)))
        return 1

    return work


def bench_evaluation(name, episodes, limit, policies, seconds, changes=None):
    """Evaluation of policies in an environment, against a limit.

    Args:
        episodes: played side by side.
        limit: (settings, episodes, seconds) -> steps a second that the environment allows.
        policies: of each, what to call it and its plain network.
        changes: of the environment's settings.
    """
    config = configuration_of(name)
    settings, acting = config["environment"] | (changes or {}), config["evaluation"]["acting"]
    most = limit(settings, episodes, seconds)
    rows = [("policy", "limit", "ours", "share", "Python loop", "ratio")]
    for title, network in policies:
        player, policy = Player(settings, episodes, acting), network_policy(network)

        def play(player=player, policy=policy):
            seen = []
            player.evaluate(policy, 0, visited=lambda observations: seen.append(len(observations)))
            return sum(seen)

        ours = per_second(play, seconds)
        outputs = tf.function(network)
        environment = Single(settings)

        def play_one(environment=environment, outputs=outputs):
            observation, steps, over = environment.reset(seed=0), 0, False
            while not over:
                action = int(outputs(observation[None]).numpy().argmax())
                observation, _, over = environment.step(action)
                steps += 1
            return steps

        one_by_one = per_second(play_one, seconds)
        rows.append((title, most, ours, f"{100 * ours / most:.0f} %", one_by_one, f"{ours / one_by_one:.0f}"))
    return rows


def vectorised_limit(settings, episodes, seconds):
    """Steps a second of the vectorised environment, with actions drawn beforehand."""
    environments = make_environments(settings, episodes)
    actions = np.random.default_rng(0).integers(environments.single_action_space.n, size=(200, episodes))

    def play():
        environments.reset(seed=0)
        for step in actions:
            environments.step(step)
        return actions.size

    return per_second(play, seconds)


def replayed_limit(settings, episodes, seconds):
    """Steps a second of the environments alone: the shipped teacher's episodes again, their actions known beforehand."""
    _, network = shipped("lunarlander")
    player, actions, playing = Player(settings, episodes, "sample"), [], []

    def on_step(step):
        actions.append(step.actions)
        playing.append(np.count_nonzero(~step.over))
        return not (step.over | step.ended).all()

    player.play(network_policy(network), 0, on_step)

    def play():
        player.environments.reset(seed=0)
        for step in actions:
            player.environments.step(step)
        return sum(playing)

    return per_second(play, seconds)


def cartpole_student():
    network = StudentCartPole(configuration("cartpole")["model"], SIZES[-1]).plain_network("bench")
    network.set_weights(balancing(network.get_weights()))
    return "student 8-8-4", network


def shipped(name, file=None):
    """A policy that lies here, an environment's teacher if no file is named."""
    path = ROOT / (file or f"saved_models/{name}/teacher.keras")
    agent = load_teacher(path, name, configuration(name)["model"])
    return f"{path.stem} {shape_text(agent.widths)}", agent.network


def untrained(name, widths):
    agent = AGENTS[name].teacher(configuration(name)["model"], widths)
    return shape_text(widths), agent.network


def balancing(weights):
    """Weights of an 8-8-4 network that keeps the pole up: it pushes to the side that the pole leans and moves to."""
    weights = [np.zeros_like(array) for array in weights]
    side = np.array([0.1, 0.3, 1.0, 0.5])
    weights[0][:, 0], weights[0][:, 1] = side, -side
    weights[2][0, 0] = weights[2][1, 1] = weights[4][0, 0] = weights[4][1, 1] = 1
    weights[6][0, 1] = weights[6][1, 0] = 1
    return weights
