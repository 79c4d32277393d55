"""Plays whole episodes with a saved policy and reports its reward and size."""

import json
from pathlib import Path

import common
from configs import ENVIRONMENTS, ConfigurationError, configuration


def main():
    parser = common.Parser(__doc__, "python scripts/evaluate.py saved_models/cartpole/teacher.keras --episodes 1000")
    parser.add_argument("model", type=Path, metavar="MODEL", help="Keras file written by train_teacher.py or pops.py")
    parser.add_argument("--env", metavar="ENV", help="its environment, where the file's model name does not tell")
    parser.add_argument(
        "--episodes", type=common.integer(2, 100_000), default=100, metavar="N", help="episodes to play (100)"
    )
    parser.add_argument("--seed", type=common.SEED, default=0, metavar="N", help="of the episodes (0)")
    acting = parser.add_mutually_exclusive_group()
    acting.add_argument("--greedy", dest="acting", action="store_const", const="greedy", help="always the largest output")
    acting.add_argument(
        "--sample", dest="acting", action="store_const", const="sample", help="from the softmax of the outputs"
    )
    parser.add_set_argument(
        "change one setting of configs.py, for example environment.sticky=0.25; may be given more than once"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args()

    def command():
        if arguments.env is not None:
            configuration(arguments.env, assignments=arguments.set)
        common.import_tensorflow()
        from model import AGENTS, check_shapes, count_weights, read_network
        from train import report_rewards, varied
        from utils import Seeds, log

        network = read_network(arguments.model)
        environment = arguments.env or network.name.partition("_")[0]
        if environment not in ENVIRONMENTS:
            raise ConfigurationError(f"{arguments.model}: does not name its environment; give it with --env")
        config = configuration(environment, assignments=arguments.set)
        if arguments.acting == "greedy":
            config = varied(config, "greedy")
        elif arguments.acting:
            config["evaluation"]["acting"] = arguments.acting
        check_shapes(network, arguments.model, config["model"])
        original = AGENTS[environment].teacher(config["model"])
        rewards = report_rewards(network, config, Seeds(arguments.seed), arguments.episodes, "evaluate")
        weights, nonzero = count_weights(network)
        result = {
            **rewards,
            "weights": weights,
            "nonzero": nonzero,
            "percent": 100 * weights / sum(original.layer_sizes()),
            "policy": {"greedy": "greedy", "sample": "sampled"}[config["evaluation"]["acting"]],
        }
        if arguments.json:
            print(json.dumps(result))
        else:
            different = f", {result['distinct']} of them different" if "distinct" in result else ""
            log(
                f"{environment}, {result['policy']}: reward {result['reward_mean']:.2f} ± {result['reward_stderr']:.2f} "
                f"over {result['episodes']} episodes{different} (lowest {result['reward_min']:g}); "
                f"{weights:,} weights, {nonzero:,} nonzero, {result['percent']:.3g} % of the original"
            )

    common.run_command(command)


if __name__ == "__main__":
    main()
