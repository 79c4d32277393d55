"""Plays whole episodes with a saved policy and reports its reward and size."""

import json
import sys
from pathlib import Path

if not __package__:  # started as a file of a clone
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from pops.support import commands
from pops.support.errors import ConfigurationError


def main():
    parser = commands.Parser(__doc__, "python scripts/evaluate.py saved_models/cartpole/teacher.keras --episodes 1000")
    parser.add_policy_arguments()
    parser.add_argument(
        "--episodes", type=commands.integer(2, 100_000), default=100, metavar="N", help="episodes to play (100)"
    )
    acting = parser.add_mutually_exclusive_group()
    acting.add_argument("--greedy", dest="acting", action="store_const", const="greedy", help="always the largest output")
    acting.add_argument(
        "--sample", dest="acting", action="store_const", const="sample", help="from the softmax of the outputs"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()

    def command():
        commands.check_policy_arguments(arguments, arguments.model)
        from pops.support.console import import_tensorflow, log

        import_tensorflow(arguments.model)
        from pops.model import AGENTS
        from pops.policies.functions import TeacherFunction
        from pops.policies.teacher import read_policy
        from pops.support.playing import report_rewards, varied, way_to_act
        from pops.support.seeds import Seeds
        from pops.utils import count_weights

        network, environment, config, agent = read_policy(
            arguments.model, arguments.env, arguments.set, arguments.normalizer
        )

        if arguments.acting == "greedy":
            config = varied(config, "greedy")
        elif arguments.acting and config["model"]["bounds"]:
            raise ConfigurationError("--sample: for discrete actions only")
        elif arguments.acting:
            config["evaluation"]["acting"] = arguments.acting
        rewards = report_rewards(network, config, Seeds(arguments.seed), arguments.episodes, "evaluate")
        is_function = isinstance(network, TeacherFunction)
        weights, nonzero = (None, None) if is_function else count_weights(network)
        # Of the network that the paper starts from.
        original = sum(AGENTS[environment].teacher(config["model"]).layer_sizes()) if environment in AGENTS else None
        result = {
            **rewards,
            "weights": weights,
            "nonzero": nonzero,
            **({"percent": 100 * weights / original} if original and not is_function else {}),
            "policy": way_to_act(config),
        }
        if arguments.json:
            print(json.dumps(result))
        else:
            size = f"played as a function: {network.why}" if is_function else f"{weights:,} weights, {nonzero:,} nonzero"
            normalizer = None if is_function else agent.given.get("normalizer")
            different = f", {result['distinct']} of them different" if "distinct" in result else ""
            log(
                f"{environment}, {result['policy']}: reward {result['reward_mean']:.2f} ± {result['reward_stderr']:.2f} "
                f"over {result['episodes']} episodes{different} (lowest {result['reward_min']:g}); "
                + size
                + (f", {result['percent']:.3g} % of the original" if "percent" in result else "")
                + (f"; observations normalised by {normalizer}" if normalizer else "")
            )

    commands.run_command(command)


if __name__ == "__main__":
    main()
