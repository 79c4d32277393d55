"""Films of policies that play side by side."""

import numpy as np
from PIL import Image, ImageDraw

from pops.policies.functions import TeacherFunction
from pops.policies.teacher import read_policy
from pops.support.environments import Single, draw_rate
from pops.support.files import make_folder, replacing
from pops.support.playing import select_actions
from pops.support.seeds import Seeds, action_generator
from pops.utils import count_weights


def record(models, environment, assignments, out, seed, seconds, height):
    """Plays policies from the same start and writes their films side by side, as a GIF.

    Args:
        models: paths of policies' files, shown from left to right.
        environment, assignments: see `read_policy`.
        out: the GIF.
        seed: of the episodes; seconds: at most; height: of the pictures, in pixels.

    Yields:
        A line about each policy.
    """
    make_folder(out.parent)
    films = []
    for path in models:
        network, _, config, _ = read_policy(path, environment, assignments)
        rate = draw_rate(config["environment"])
        start = Seeds(seed).environment("report", "record")
        pictures, rewards = film(network, config, start, seconds * rate)
        size = size_text(network)
        films.append([label(p, size, r, height) for p, r in zip(pictures, rewards, strict=True)])
        yield f"{path}: {size}, reward {rewards[-1]:.0f} after {len(pictures) - 1} steps"
    write_gif(out, films, rate)


def size_text(network):
    """A policy's number of weights in words."""
    if isinstance(network, TeacherFunction):
        return "a function"
    weights, nonzero = count_weights(network)
    return f"{nonzero:,} of {weights:,} weights" if nonzero < weights else f"{weights:,} weights"


def film(network, config, seed, steps):
    """Pictures of a policy's first `steps` steps, or of one episode if that is shorter, and the sums of rewards by then."""

    acting, epsilon = (config["evaluation"][key] for key in ("acting", "epsilon"))
    bounds, factors = config["model"]["bounds"], config["model"]["factors"]
    generator, environment = action_generator(seed), Single(config["environment"], draw=True)
    observation = environment.reset(seed)
    pictures, rewards = [environment.picture()], [0.0]
    for _ in range(steps):
        outputs = np.asarray(network(observation[None]))
        action = select_actions(outputs, acting, generator, epsilon or None, bounds, factors)[0]
        observation, reward, ended = environment.step(action if bounds or factors else int(action))
        pictures.append(environment.picture())
        rewards.append(rewards[-1] + reward)
        if ended:
            break
    return pictures, rewards


def label(picture, text, reward, height):
    """A picture at a height, with a line above it."""

    image = Image.fromarray(picture)
    width = round(image.width * height / image.height)
    result = Image.new("RGB", (width, height + 28), "white")
    result.paste(image.resize((width, height), Image.Resampling.LANCZOS), (0, 28))
    draw = ImageDraw.Draw(result)
    draw.text((4, 1), text, "black")
    draw.text((4, 14), f"reward {reward:.0f}", "black")
    return result


def write_gif(path, films, rate):
    """Writes films side by side; one that has ended stays at its last picture."""

    gap, sizes = 4, [film[0].size for film in films]
    pictures = []
    for number in range(max(map(len, films))):
        frame = Image.new("RGB", (sum(width + gap for width, _ in sizes) - gap, sizes[0][1]), "white")
        left = 0
        for film, (width, _) in zip(films, sizes, strict=True):
            frame.paste(film[min(number, len(film) - 1)], (left, 0))
            left += width + gap
        pictures.append(frame.quantize(64))
    durations = [1000 / rate] * (len(pictures) - 1) + [1000]  # a second to see how it ended
    with replacing(path) as temporary:
        pictures[0].save(temporary, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True)
