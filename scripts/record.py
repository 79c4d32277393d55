"""Plays policies side by side from the same start and writes what the environment draws as a GIF."""

from pathlib import Path

import common
from configs import ENVIRONMENTS, ConfigurationError, configuration


def main():
    parser = common.Parser(__doc__, "python scripts/record.py cartpole saved_models/cartpole/teacher.keras --out play.gif")
    parser.add_argument("environment", metavar="ENV", help="the policies' environment, or Gymnasium's name of one")
    parser.add_argument("models", type=Path, nargs="+", metavar="MODEL", help="Keras files, shown from left to right")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="GIF to write")
    parser.add_argument("--seed", type=common.SEED, default=0, metavar="N", help="of the episodes (0)")
    parser.add_argument("--seconds", type=common.integer(1, 600), default=20, metavar="N", help="at most (20)")
    parser.add_argument("--height", type=common.integer(50, 1000), default=210, metavar="N", help="of the pictures (210)")
    parser.add_set_argument("change one setting of configs.py; may be given more than once")
    arguments = parser.parse_args()

    def command():
        if arguments.environment in ENVIRONMENTS:
            configuration(arguments.environment, assignments=arguments.set)  # before TensorFlow, whose import takes seconds
        if arguments.out.suffix != ".gif":
            raise ConfigurationError(f"--out {arguments.out}: the name of a GIF file ends with .gif")
        common.import_tensorflow()
        from environments import configuration_of, draw_rate
        from model import check_shapes, count_weights, read_network
        from utils import Seeds, log, make_folder

        config = configuration_of(arguments.environment, assignments=arguments.set)
        make_folder(arguments.out.parent)
        rate = draw_rate(config["environment"])
        films = []
        for path in arguments.models:
            network = read_network(path)
            check_shapes(network, path, config["model"])
            weights, nonzero = count_weights(network)
            seed = Seeds(arguments.seed).environment("report", "record")
            pictures, rewards = film(network, config, seed, arguments.seconds * rate)
            size = f"{nonzero:,} of {weights:,}" if nonzero < weights else f"{weights:,}"
            films.append([label(p, f"{size} weights", r, arguments.height) for p, r in zip(pictures, rewards, strict=True)])
            log(f"{path}: {size} weights, reward {rewards[-1]:.0f} after {len(pictures) - 1} steps")
        write_gif(arguments.out, films, rate)
        log(f"{arguments.out}: {arguments.out.stat().st_size / 1000:,.0f} kB")

    common.run_command(command)


def film(network, config, seed, steps):
    """Pictures of a policy's first `steps` steps, or of one episode if that is shorter, and the sums of rewards by then."""
    import tensorflow as tf

    from environments import Single
    from utils import select_actions

    acting, epsilon = (config["evaluation"][key] for key in ("acting", "epsilon"))
    bounds = config["model"]["bounds"]
    environment = Single(config["environment"], draw=True)
    observation = environment.reset(seed)
    pictures, rewards = [environment.picture()], [0.0]
    for step in range(steps):
        outputs = network(observation[None])
        action = select_actions(outputs, acting, tf.constant([seed, step]), epsilon or None, bounds)[0].numpy()
        observation, reward, ended = environment.step(action if bounds else int(action))
        pictures.append(environment.picture())
        rewards.append(rewards[-1] + reward)
        if ended:
            break
    return pictures, rewards


def label(picture, text, reward, height):
    """A picture at a height, with a line above it."""
    from PIL import Image, ImageDraw

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
    from PIL import Image

    from files import replacing

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


if __name__ == "__main__":
    main()
