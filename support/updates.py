"""Updates: what one changes, how gradients become one, and a teacher's as whole compiled blocks."""

from functools import partial
from typing import NamedTuple

import tensorflow as tf


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


def filled(state, wide):
    """A student's state with zeros behind its weights and masks, as a wider student's. Masks keep those weights at zero."""

    def fill(array, shape):
        return tf.pad(array, [[0, most - some] for some, most in zip(array.shape, shape, strict=True)])

    return _resized(state, wide, fill)


def cropped(state, student):
    """The opposite of `filled`."""
    return _resized(state, student, lambda array, shape: tf.slice(array, [0] * len(shape), shape))


def _resized(state, student, resize):
    shapes = [variable.shape for variable in student.network.trainable_variables]

    def all_of(arrays, shapes=shapes):  # without averages there are fewer arrays than shapes
        return [resize(array, (array.shape[0], *shape[1:])) for array, shape in zip(arrays, shapes, strict=False)]

    return state._replace(
        weights=all_of(state.weights),
        masks=all_of(state.masks, shapes[::2]),
        moments=tuple(map(all_of, state.moments)),
        averages=all_of(state.averages),
    )


def split(state, groups):
    """A student's state as those of groups of its members."""
    if groups == 1:
        return [state]
    parts = [tf.split(leaf, groups) if len(leaf.shape) else [leaf] * groups for leaf in tf.nest.flatten(state)]
    return [tf.nest.pack_sequence_as(state, list(leaves)) for leaves in zip(*parts, strict=True)]


def joined(states):
    """The opposite of `split`."""
    if len(states) == 1:
        return states[0]
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, 0) if len(parts[0].shape) else parts[0], *states)


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


def q_learning_block(agent, settings):
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


def actor_critic_block(actor, critic, settings):
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
                taken = tf.gather(actions, batch), gains, tf.gather(before, batch)
                losses = (
                    actor.loss(actor(states[0].weights, seen), *taken, settings["clip"], entropy),
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
