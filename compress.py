"""The whole method as one function: a policy of any kind goes in, a run folder with the small student comes out."""

import os

from pops.configs import ENVIRONMENTS, configuration
from pops.support.errors import ConfigurationError
from pops.support.files import check_normalizer, check_readable
from pops.support.rules import integer, is_number

SEED = integer(0, 2**32 - 1)


def compress(
    teacher,
    environment,
    out,
    profile="fast",
    seed=0,
    settings=(),
    objective=None,
    resume=False,
    tensorboard=False,
    normalizer=None,
    expect=None,
):
    """Runs PoPS on a policy.

    Args:
        teacher: path of a file: Keras's, a .zip of Stable-Baselines3, ONNX or TorchScript; an object: a Keras network, a
            module of PyTorch, or a model of Stable-Baselines3; or a function from observations [batch, *observation_shape]
            to action values [batch, actions] (for continuous actions, the actions). A dense network of the widths
            `model.widths` learns to imitate a function first, and a network that is no plain stack of layers.
        environment: a key of configs.ENVIRONMENTS, or Gymnasium's name of any other; an environment, whose `spec` is made
            again, wrappers included; or a function without arguments that makes a new one each time. What is no name is
            played in this process, and the run's environment is then called pops/NAME-v0 after the function.
        out: folder for the run.
        profile: "fast" or "paper".
        seed: every random number follows from it.
        settings: strings `group.key=value` that change single settings of configs.py.
        objective: mean reward above which a student is good; the settings' if left out, and where they have none, the
            teacher's mean less one standard error, or less `evaluation.margin` of the way up from random play where that is
            more. The lower bound moves with it.
        resume: go on with the run in that folder, by the same call. Whether a function is the same cannot be told.
        tensorboard: write the metrics for TensorBoard as well, which has to be installed.
        normalizer: path of the statistics of Stable-Baselines3's VecNormalize that the teacher was trained with; those that
            lie beside its .zip are found without. "none": it was trained without.
        expect: the reward that the teacher is said to have; a run warns if it is far from it.

    Returns:
        The summary, as in summary.json.

    Raises:
        ConfigurationError: an argument is wrong.
        RunFailed: the run cannot go on.
    """
    # First what can be told before TensorFlow is imported, which takes seconds.
    if isinstance(settings, str):
        raise ConfigurationError(f"settings: {settings!r} is one string; give a list of such")
    seed, objective, expect = map(_plain, (seed, objective, expect))
    if not SEED.fits(seed):
        raise ConfigurationError(f"seed: {seed!r} is not {SEED.accepts}")
    if expect is not None and not is_number(expect):
        raise ConfigurationError(f"expect: {expect!r} is not a number")
    if not isinstance(environment, str):
        from pops.support.environments import named

        environment, made_with = named(environment)
        settings = (*made_with, *settings)
    if environment in ENVIRONMENTS:
        configuration(environment, profile, settings, objective=objective)
    if isinstance(teacher, str | os.PathLike):
        check_readable(teacher)
    check_normalizer(normalizer)
    from pops.support.console import import_tensorflow

    import_tensorflow(teacher)
    from pops.support.session import run_pops

    return run_pops(teacher, environment, out, profile, seed, settings, objective, resume, tensorboard, normalizer, expect)


def _plain(number):
    """A number of NumPy as Python has it; all else as it is."""
    return number.item() if hasattr(number, "item") else number
