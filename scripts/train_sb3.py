"""Trains a policy with Stable-Baselines3, as an example of a teacher from elsewhere, and saves it as that library does."""

import importlib.util
import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.support import commands
from pops.support.errors import ConfigurationError

# Algorithm, environments side by side, steps, and what else is not Stable-Baselines3's own default.
SETTINGS = {
    "Acrobot-v1": ("PPO", 16, 300_000, {"n_steps": 256, "batch_size": 256, "gae_lambda": 0.94, "n_epochs": 4}),
    "MountainCar-v0": (
        *("DQN", 1, 120_000),
        {
            "learning_rate": 4e-3,
            "batch_size": 128,
            "buffer_size": 10_000,
            "learning_starts": 1000,
            "gamma": 0.98,
            "target_update_interval": 600,
            "train_freq": 16,
            "gradient_steps": 8,
            "exploration_fraction": 0.2,
            "exploration_final_eps": 0.07,
            "policy_kwargs": {"net_arch": [256, 256]},
        },
    ),
    "Pendulum-v1": ("PPO", 4, 200_000, {"n_steps": 1024, "gamma": 0.9, "learning_rate": 1e-3}),
}


def main():
    parser = commands.Parser(__doc__, "python scripts/train_sb3.py Acrobot-v1 --out acrobot.zip")
    parser.add_argument("environment", metavar="ID", help=" or ".join(SETTINGS))
    parser.add_argument(
        "--seed", type=commands.SEED, default=0, metavar="N", help="every random number follows from it (0)"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write; ends with .zip")
    arguments = parser.parse_args()

    def command():
        if arguments.environment not in SETTINGS:
            raise ConfigurationError(f"{arguments.environment}: there are settings for {', '.join(SETTINGS)} only")
        if arguments.out.suffix != ".zip":
            raise ConfigurationError(f"--out {arguments.out}: a name that ends with .zip is needed")
        if not importlib.util.find_spec("stable_baselines3"):
            raise ConfigurationError("stable_baselines3 is missing; install with: pip install stable-baselines3")
        from pops.support.console import import_tensorflow, quiet
        from pops.support.files import replacing

        with quiet():
            import torch  # before TensorFlow, after which it can crash where Triton is installed
        import_tensorflow()  # it comes along with what follows, and would print more
        import stable_baselines3
        from stable_baselines3.common.env_util import make_vec_env
        from stable_baselines3.common.evaluation import evaluate_policy

        torch.set_num_threads(1)  # more are no faster for networks this small, and results would depend on their number
        algorithm, copies, steps, settings = SETTINGS[arguments.environment]
        environments = make_vec_env(arguments.environment, copies, seed=arguments.seed)
        kind = getattr(stable_baselines3, algorithm)
        model = kind("MlpPolicy", environments, seed=arguments.seed, device="cpu", **settings)
        model.learn(steps)
        mean, deviation = evaluate_policy(model, make_vec_env(arguments.environment, 8, seed=arguments.seed + 10_000), 100)
        with replacing(arguments.out) as path:
            model.save(path)
        print(f"{arguments.out}: {algorithm}, reward {mean:.1f} (standard deviation {deviation:.1f}) over 100 episodes")

    commands.run_command(command)


if __name__ == "__main__":
    main()
