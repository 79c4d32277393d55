"""What there is to set, what it means, and what it may be."""

from pops.support.rules import (
    ACTIVATIONS,
    BOUNDS,
    COUNTS,
    FLAG,
    INDICES,
    KWARGS,
    MEMBERS,
    NAMES,
    NONE_OR_SEVERAL,
    RATE_TABLE,
    REWARD,
    REWARD_OR_NONE,
    SHAPES,
    SHARES,
    SOME_WAYS,
    SPARSITY,
    SQUASH,
    TEXT,
    WIDTHS,
    integer,
    number,
    one_of,
    positive,
)

# What there is to set: group, key, rule, what it means. The paper's symbol stands in brackets.
SETTINGS = {
    "environment": {
        "id": (TEXT, "Gymnasium's name of the environment"),
        "kwargs": (KWARGS, "arguments of gymnasium.make"),
        "imports": (NAMES, "modules or files that register environments, imported before"),
        "max_episode_steps": (integer(1, 10**6), "steps after which an episode is cut off"),
        "actions": (INDICES, "the environment's actions that the policy chooses from; [] for all (Atari games only)"),
        "sticky": (number(0, 0.99), "probability that the last action is repeated instead (Atari games only)"),
        "simulator": (
            one_of("auto", "gymnasium", "envpool"),
            "what steps the copies of PoPS, while rewards are reported in Gymnasium itself; auto: EnvPool where it is "
            "installed and does the same",
        ),
    },
    "model": {
        "observation_shape": (WIDTHS, "shape of one observation"),
        "actions": (integer(1, 1000), "outputs: number of discrete actions; with bounds, of numbers in one action"),
        "factors": (COUNTS, "of several discrete actions at once, how many there are of each; [] for one action"),
        "bounds": (BOUNDS, "least and greatest values of the numbers in an action; [] for discrete actions"),
        "background": (integer(0, 255), "grey of a game's background, at which frames are centred inside the network"),
        "widths": (COUNTS, "units of each hidden layer of the teacher; [] for a linear policy"),
        "hidden_activation": (one_of(*ACTIVATIONS), "of the teacher; students that are shrunk have relu"),
        "output_activation": (one_of("linear", "relu"), "linear; relu is what the paper's published CartPole teacher has"),
        "squash": (
            SQUASH,
            "how the teacher's continuous actions come into their bounds: {}, or clip, tanh, scale and offset",
        ),
    },
    "evaluation": {
        "objective": (
            REWARD_OR_NONE,
            "mean reward above which a student is good; null: the teacher's less a standard error or `margin`",
        ),
        "lower_bound": (
            REWARD_OR_NONE,
            "mean reward below which pruning has gone too far; null: three quarters of the way from random play up",
        ),
        "margin": (positive(1), "share of the way from random play to the teacher by which a student may miss that"),
        "acting": (one_of("greedy", "sample"), "greedy: the largest output; sample: from the softmax of the outputs"),
        "epsilon": (number(0, 1), "share of random actions in evaluations"),
        "noise": (number(0, 1), "relative error of each number observed, a standard deviation (not for Atari games)"),
        "also": (
            SOME_WAYS,
            "other ways to play that are reported too: greedy; epsilon, of 0.05; noise, of 0.05 (not for Atari games); "
            "for Atari games, sticky, where the last action is repeated with probability 0.25, and plain, where none is",
        ),
        "robust": (
            SHARES,
            "ways to play, as in `also`, in which a student has to keep a share of the way from random play to the teacher",
        ),
        "choose_episodes": (integer(2), "episodes that decide whether a student matches the teacher"),
        "report_episodes": (
            integer(2),
            "fresh episodes behind every reported reward; a pruned network's: at most 100; of other ways to play: at most "
            "as many as `choose_episodes`",
        ),
    },
    "replay": {
        "capacity": (integer(1), "states, or transitions, that the replay memory holds"),
        "observe": (integer(1), "steps that the teacher plays to fill it (the paper's `observe`)"),
        "environments": (integer(1, 4096), "environments that the teacher plays side by side"),
        "refill": (FLAG, "fill it again before every iteration and epoch (paper), or once for the whole run"),
        "epsilon": (number(0, 1), "share of random actions while the teacher fills it"),
        "student_states": (integer(0), "states that students visit in an evaluation, and that join it (DAgger)"),
        "student_steps": (integer(0), "steps that students go on with games of theirs after each epoch, for the same"),
        "student_epsilon": (number(0, 1), "share of random actions in these games"),
        "least_spread": (
            number(0),
            "states are drawn in proportion to how far the teacher's outputs lie apart, at least this; 0: all alike",
        ),
    },
    "prune": {
        "iterations": (integer(1), "IPP iterations at most (n)"),
        "updates": (integer(1), "minibatch updates in an iteration"),
        "evaluate_every": (integer(1), "updates between evaluations"),
        "episodes": (integer(2), "episodes in an evaluation"),
        "confidence": (number(0, 10), "standard errors by which their mean must lie above the objective"),
        "batch_size": (integer(1, 65536), "states in a minibatch"),
        "tau": (positive(1000), "temperature of the teacher's softmax (τ)"),
        "divide_outputs": (FLAG, "divide the first student's outputs by τ, so that it starts with the teacher's softmax"),
        "averaging": (number(0, 0.999999), "decay of the running mean of the weights, which is the student; 0: none"),
        "optimizer": (one_of("rmsprop", "adam"), "how gradients become updates"),
        "learning_rate": (RATE_TABLE, "by size of the student in percent and by iteration"),
        "initial_sparsity": (SPARSITY, "s_0"),
        "final_sparsity": (SPARSITY, "s_f"),
        "begin": (integer(0), "student update at which sparsity starts to grow (t_0)"),
        "end": (integer(1), "student update at which it reaches s_f (t_1)"),
        "frequency": (integer(1), "updates between mask updates (pruning_freq)"),
        "recovery": (
            one_of("freeze", "rollback"),
            "below the lower bound: freeze the sparsity (paper), or go back to the last good state and prune more slowly",
        ),
        "patience": (integer(1), "evaluations or iterations in a row after which a rule of IPP acts"),
        "rollbacks": (integer(0), "rollbacks after which IPP ends"),
    },
    "distill": {
        "members": (MEMBERS, "initialisations trained side by side, by size of the student; the best one is kept"),
        "hidden_bias": (number(-10, 10), "value that hidden biases start from"),
        "warm_start": (FLAG, "the first initialisation has the weights of the pruned network's strongest units"),
        "epochs": (integer(1), "epochs at most (n)"),
        "updates": (integer(1), "minibatch updates in an epoch"),
        "evaluate_every": (integer(1), "epochs between evaluations"),
        "episodes": (integer(2), "episodes in an evaluation, for each member"),
        "confidence": (number(0, 10), "standard errors by which their mean must lie above the objective"),
        "confirm_episodes": (NONE_OR_SEVERAL, "further episodes on which the chosen member must meet the objective again"),
        "confirm_confidence": (number(0, 10), "standard errors by which their mean must lie above the objective"),
        "patience": (integer(1), "evaluations in a row above the objective after which it counts as met"),
        "until": (one_of("objective", "teacher"), "ends when the objective is met, or when the teacher is matched too"),
        "give_up": (integer(0), "evaluations in a row too slow for the lower bound that end it; 0 for never"),
        "batch_size": (integer(1, 65536), "states in a minibatch"),
        "tau": (positive(1000), "temperature of the teacher's softmax (τ)"),
        "averaging": (number(0, 0.999999), "decay of the running mean of the weights, which is the student; 0: none"),
        "optimizer": (one_of("rmsprop", "adam"), "how gradients become updates"),
        "learning_rate": (RATE_TABLE, "by size of the student in percent and by epoch"),
    },
    "pops": {
        "method": (
            one_of("pops", "search", "direct", "prune", "one_shot", "ars"),
            "how a small network is found; all but pops are what it is compared with",
        ),
        "shapes": (SHAPES, "hidden units of the networks that method direct distils into"),
        "steps": (integer(1, 1000), "PoPS steps (prune, shrink, distill) at most"),
        "sizes": (
            one_of("live_units", "trimmed_units", "budgets"),
            "widths when shrinking, within the nonzero budget: the live units scaled by one factor, the live units less "
            "those that cost most weights, or each layer's budget alone (paper)",
        ),
        "fewer_layers": (FLAG, "first try to shrink without a hidden layer that its neighbours could do without"),
        "min_change": (number(0, 100), "points of percent of the original size; a smaller change ends PoPS"),
        "retries": (integer(0, 100), "sizes tried when a shrunk student fails, each between it and the last that worked"),
        "floor": (
            integer(0, 1000),
            "networks tried at most in the search for the smallest that does, where no step leads further",
        ),
    },
    "checkpoint": {
        "seconds": (number(0, 60), "least time from one checkpoint to the next; 0: one at every opportunity"),
    },
}

# The group `teacher` has these settings, and those of its algorithm.
TEACHER = {
    "algorithm": (one_of("dqn", "actor_critic"), "how the teacher learns"),
    "environments": (integer(1, 4096), "environments that the teacher plays side by side"),
    "steps": (integer(1), "environment steps after which training ends at the latest"),
    "batch_size": (integer(1, 65536), "transitions in a minibatch"),
    "discount": (number(0, 1), "gamma (γ)"),
    "evaluate_every": (integer(1), "environment steps between evaluations"),
    "episodes": (integer(2), "episodes in an evaluation"),
    "stop_above": (REWARD, "mean reward above which training ends"),
}

TEACHERS = {
    "dqn": {
        "learning_starts": (integer(1), "environment steps before the first update"),
        "steps_per_update": (integer(1), "environment steps for one update"),
        "double_q": (FLAG, "choose the next action with the online network, value it with the target network"),
        "epsilon_first": (number(0, 1), "share of random actions at the start (ε)"),
        "epsilon_last": (number(0, 1), "share of random actions in the end"),
        "epsilon_steps": (integer(1), "environment steps over which ε falls"),
        "learning_rate_first": (positive(1), "Adam's learning rate at the start"),
        "learning_rate_last": (positive(1), "Adam's learning rate in the end; it falls in a straight line"),
        "target_sync": (integer(1), "updates between copies into the target network"),
        "adam_epsilon": (positive(1), "Adam's ε"),
        "n_steps": (integer(1, 100), "steps of reward before a state's value counts (more than 1: Atari games only)"),
        "sticky": (number(0, 0.99), "probability that the last action is repeated in training, for Atari games only"),
        "clip_rewards": (FLAG, "learn from the signs of rewards"),
        "terminal": (one_of("episode", "point", "life"), "what ends a return: the episode, each reward, or each life lost"),
        "restart_every": (
            integer(1),
            "environment steps after which the environments start over, so that resuming is quick",
        ),
    },
    "actor_critic": {
        "rollout": (integer(2, 100_000), "steps that each environment goes on before the updates that follow"),
        "restart_every": (integer(1), "rollouts after which the environments start over, so that resuming is quick"),
        "passes": (integer(1, 100), "how often those updates go through the rollout"),
        "advantage_decay": (number(0, 1), "lambda (λ) of generalised advantage estimation"),
        "clip": (positive(1), "how far an update may move the ratio of action probabilities from 1"),
        "entropy": (number(0, 10), "weight of the entropy bonus at the start; it falls to 0 in a straight line"),
        "actor_learning_rate": (positive(1), "Adam's learning rate at the start; it falls to 0 in a straight line"),
        "critic_learning_rate": (positive(1), "the critic's"),
        "reward_scale": (positive(1000), "factor on the rewards that the critic learns from"),
    },
}
