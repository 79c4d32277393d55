"""How the RL Baselines3 Zoo trained an agent: the `config.yml` beside its file."""

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from pops.support.errors import ConfigurationError, one_line

# Wrappers that PoPS plays by itself, where the environment is an Atari game; and, by their last names, those that change no
# observation, reward or action.
KNOWN_WRAPPERS = ("stable_baselines3.common.atari_wrappers.AtariWrapper",)
_HARMLESS = "Monitor", "VecMonitor", "TimeLimit", "OrderEnforcing", "PassiveEnvChecker", "RecordEpisodeStatistics"


@dataclass(frozen=True)
class ZooConfig:
    """What a training's settings say of what the agent sees.

    Args:
        wrappers: full names of the environment's wrappers, outermost last.
        normalised: whether observations were normalised by VecNormalize; None where the file does not say.
        frame_stack: observations that are stacked.
        n_timesteps: environment steps of the training, or None.
        settings: all of the file.
    """

    wrappers: tuple[str, ...] = ()
    normalised: bool | None = None
    frame_stack: int = 1
    n_timesteps: int | None = None
    settings: dict = field(default_factory=dict)


def read_zoo_config(path):
    """The settings in a Zoo's `config.yml` or `args.yml`, of which nothing is run.

    Args:
        path: of the file.

    Returns:
        ZooConfig.

    Raises:
        ConfigurationError: it is no such file.
    """
    try:
        settings = yaml.load(Path(path).read_text(), _loader())  # a SafeLoader
        if isinstance(settings, dict):
            return _config_of(settings)
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror or error}") from None
    except (yaml.YAMLError, ValueError, TypeError, AttributeError) as error:
        raise ConfigurationError(f"{path}: no settings of the RL Baselines3 Zoo ({one_line(error, 200)})") from None
    raise ConfigurationError(f"{path}: no settings of the RL Baselines3 Zoo")


def _config_of(settings):
    """The ZooConfig of a file's settings."""
    normalize = _value(settings.get("normalize"))
    arguments = normalize if isinstance(normalize, dict) else _value(settings.get("normalize_kwargs")) or {}
    steps = settings.get("n_timesteps")
    return ZooConfig(
        wrappers=(*_wrappers(settings.get("env_wrapper")), *_wrappers(settings.get("vec_env_wrapper"))),
        normalised=bool(normalize) and bool(arguments.get("norm_obs", True)) if "normalize" in settings else None,
        frame_stack=int(settings.get("frame_stack") or 1),
        n_timesteps=int(float(steps)) if steps and float(steps) > 0 else None,
        settings=settings,
    )


def _loader():
    """A SafeLoader that also knows OrderedDict and tuples; other Python objects become their tag's text."""

    class Loader(yaml.SafeLoader):
        pass

    def ordered(loader, node):
        return dict(loader.construct_sequence(node, deep=True)[0])

    def inert(loader, suffix, node):
        return suffix

    Loader.add_constructor("tag:yaml.org,2002:python/object/apply:collections.OrderedDict", ordered)
    Loader.add_constructor("tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node)))
    Loader.add_multi_constructor("tag:yaml.org,2002:python/", inert)
    return Loader


def _value(setting):
    """A setting that may be written as Python's text, such as "dict(norm_obs=True)"."""
    if not isinstance(setting, str):
        return setting
    try:
        tree = ast.parse(setting.strip(), mode="eval").body
        if isinstance(tree, ast.Call) and getattr(tree.func, "id", "") == "dict" and not tree.args:
            return {item.arg: ast.literal_eval(item.value) for item in tree.keywords}
        return ast.literal_eval(tree)
    except (SyntaxError, ValueError):
        return setting


def _wrappers(setting):
    """The names in a setting of wrappers: a name, a dictionary of names and their arguments, or a list of these."""
    setting = _value(setting)
    if not setting:
        return ()
    if isinstance(setting, str):
        return (setting,)
    return tuple(name for item in setting for name in ([item] if isinstance(item, str) else _wrappers(list(item))))


def find_zoo_config(path):
    """The settings that lie where those of an agent's file usually do, or None.

    Args:
        path: of the agent's file.

    Returns:
        the first that exists of NAME.config.yml and, in a folder that has the environment's name or beside the file,
        config.yml.
    """
    path = Path(path)
    folder, environment = path.parent, re.sub(r"_\d+$", "", path.parent.resolve().name)
    places = (
        folder / f"{path.stem}.config.yml",
        *(place / "config.yml" for place in (folder / path.stem, folder / environment, folder)),
    )
    return next((place for place in places if place.is_file()), None)


def refuse_wrappers(path, config, known=KNOWN_WRAPPERS):
    """Refuse an agent that was trained behind wrappers which the environment here does not have.

    Args:
        path: of the agent's file.
        config: ZooConfig.
        known: names of the wrappers that the environment has.

    Raises:
        ConfigurationError: names the first wrapper that is not known.
    """
    harmless = (*known, *(name for name in config.wrappers if name.rpartition(".")[2] in _HARMLESS))
    unknown = next((name for name in config.wrappers if name not in harmless), None)
    if unknown is not None:
        raise ConfigurationError(
            f"{path}: its agent sees the environment through {unknown}, which PoPS cannot know; register an environment "
            "with that wrapper (additional_wrappers of gymnasium.register) and give its module by --import"
        )
