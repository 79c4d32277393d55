"""The observation statistics that Stable-Baselines3's VecNormalize saves beside an agent."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pops.policies.formats import what_is
from pops.policies.pickles import Record, read_pickle, value_of
from pops.support.errors import ConfigurationError


@dataclass(frozen=True, eq=False)
class Normaliser:
    """What an agent's observations go through before its network sees them.

    Args:
        mean, variance: float64 [*observation_shape]; None where `enabled` is not.
        epsilon: added to the variance.
        clip: bound of what comes out.
        enabled: whether observations are normalised; a file may hold the statistics of rewards alone.
    """

    mean: np.ndarray | None
    variance: np.ndarray | None
    epsilon: float = 1e-8
    clip: float = 10.0
    enabled: bool = True

    @property
    def clips(self):
        """Whether any float32 observation can reach the bound; infinity is how VecNormalize is told not to clip."""
        return self.clip < 1e30

    @property
    def scale(self):
        """float64 [*observation_shape], by which the difference to the mean is multiplied."""
        return 1.0 / np.sqrt(self.variance + self.epsilon)

    def __call__(self, observations):
        """float32 [batch, *observation_shape], normalised and clipped, of observations of that shape."""
        if not self.enabled:
            return observations
        return np.clip((observations - self.mean) * self.scale, -self.clip, self.clip).astype(np.float32)


def read_normaliser(path):
    """The observation statistics in a pickle of VecNormalize, of which nothing is run.

    Args:
        path: of the file.

    Returns:
        Normaliser.

    Raises:
        ConfigurationError: it is no such file, names something that has no place in one, or is for observations in a
            dictionary.
    """
    try:
        found = read_pickle(Path(path).read_bytes())
        if getattr(found, "name", "").split(".")[-1] != "VecNormalize":
            raise ConfigurationError(f"it holds a {getattr(found, 'name', type(found).__name__)}, not a VecNormalize")
        return _normaliser(found.state)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from None
    except (TypeError, ValueError) as error:  # among them ConfigurationError
        raise ConfigurationError(f"{path}: {error}; give the file that VecNormalize.save() wrote with this agent") from None


def _normaliser(state):
    """A Normaliser of VecNormalize's attributes."""
    statistics = state.get("obs_rms")
    if isinstance(statistics, dict) or state.get("norm_obs_keys"):
        raise ConfigurationError("it is for observations in a dictionary, which PoPS does not take")
    if not state.get("norm_obs", True):
        return Normaliser(None, None, enabled=False)
    if not isinstance(statistics, Record):
        raise ConfigurationError("it has no statistics of observations (obs_rms)")
    mean, variance = (np.asarray(value_of(statistics.state.get(name)), np.float64) for name in ("mean", "var"))
    epsilon, clip = float(state.get("epsilon", 1e-8)), float(state.get("clip_obs", 10.0))
    if mean.shape != variance.shape or not np.isfinite([mean, variance]).all() or (variance + epsilon <= 0).any():
        raise ConfigurationError("its statistics are not finite means and positive variances of one shape")
    return Normaliser(mean, variance, epsilon, clip)


def find_normaliser(path):
    """The statistics that lie where those of an agent's file usually do, or None.

    Args:
        path: of the agent's file.

    Returns:
        the first that exists of: NAME.vecnormalize.pkl; the RL Baselines3 Zoo's own place, in a folder that has the
        environment's name; what its callback writes at a checkpoint; vecnormalize.pkl or, as on the Hugging Face Hub,
        vec_normalize.pkl beside the file; the only statistics beside it, of any name, where it is the only agent.
    """
    path = Path(path)
    folder, name = path.parent, path.stem
    checkpoint = re.sub(r"_(\d+_steps)$", r"_vecnormalize_\1", name)
    environment = re.sub(r"_\d+$", "", folder.resolve().name)  # of ENV_1/best_model.zip
    places = (
        folder / f"{name}.vecnormalize.pkl",
        folder / name / "vecnormalize.pkl",
        *([folder / f"{checkpoint}.pkl"] if checkpoint != name else []),
        folder / environment / "vecnormalize.pkl",
        folder / "vecnormalize.pkl",
        folder / "vec_normalize.pkl",
    )
    found = next((place for place in places if place.is_file()), None)
    if found is None and len(list(folder.glob("*.zip"))) == 1:
        others = statistics_beside(path)
        found = others[0] if len(others) == 1 else None
    return found


def statistics_beside(path):
    """The files of VecNormalize in an agent's folder, of whatever name: a list of paths."""
    pickles = (pickle for pickle in sorted(Path(path).parent.glob("*.pkl")) if pickle.is_file())
    small = (pickle for pickle in pickles if pickle.stat().st_size < 10**8)  # others are replay memories
    return [pickle for pickle in small if what_is(pickle) == "the statistics of a VecNormalize"]
