"""Plays whole episodes with a saved policy and reports its reward and size."""

import json

import common
from configs import ConfigurationError


def main():
    parser = common.Parser(__doc__, "python scripts/evaluate.py saved_models/cartpole/teacher.keras --episodes 1000")
    parser.add_policy_arguments()
    parser.add_argument(
        "--episodes", type=common.integer(2, 100_000), default=100, metavar="N", help="episodes to play (100)"
    )
    acting = parser.add_mutually_exclusive_group()
    acting.add_argument("--greedy", dest="acting", action="store_const", const="greedy", help="always the largest output")
    acting.add_argument(
        "--sample", dest="acting", action="store_const", const="sample", help="from the softmax of the outputs"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()

    def command():
        network, environment, config = common.read_policy(arguments)
        from model import AGENTS, count_weights
        from train import report_rewards, varied
        from utils import Seeds, log

        if arguments.acting == "greedy":
            config = varied(config, "greedy")
        elif arguments.acting and config["model"]["bounds"]:
            raise ConfigurationError("--sample: for discrete actions only")
        elif arguments.acting:
            config["evaluation"]["acting"] = arguments.acting
        rewards = report_rewards(network, config, Seeds(arguments.seed), arguments.episodes, "evaluate")
        weights, nonzero = count_weights(network)
        result = {
            **rewards,
            "weights": weights,
            "nonzero": nonzero,
            **({"percent": 100 * weights / original_weights(environment, config)} if environment in AGENTS else {}),
            "policy": common.way_to_act(config),
        }
        if arguments.json:
            print(json.dumps(result))
        else:
            different = f", {result['distinct']} of them different" if "distinct" in result else ""
            log(
                f"{environment}, {result['policy']}: reward {result['reward_mean']:.2f} ± {result['reward_stderr']:.2f} "
                f"over {result['episodes']} episodes{different} (lowest {result['reward_min']:g}); "
                f"{weights:,} weights, {nonzero:,} nonzero"
                + (f", {result['percent']:.3g} % of the original" if "percent" in result else "")
            )

    common.run_command(command)


def original_weights(environment, config):
    """Weights of the network that the paper starts from."""
    from model import AGENTS

    return sum(AGENTS[environment].teacher(config["model"]).layer_sizes())


if __name__ == "__main__":
    main()
