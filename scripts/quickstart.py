"""Sets up an environment in the project folder and runs PoPS from the shipped teacher."""

import argparse
import itertools

from setup_environment import ROOT, install, run


def main():
    environments = sorted(teacher.parent.name for teacher in ROOT.glob("saved_models/*/teacher.keras"))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "environment", metavar="ENV", nargs="?", default="cartpole", choices=environments, help=" or ".join(environments)
    )
    environment = parser.parse_args().environment
    install("requirements.txt")
    folders = (f"runs/quickstart-{environment}-{number}" for number in itertools.count(1))
    run("scripts/pops.py", environment, "--out", next(folder for folder in folders if not (ROOT / folder).exists()))


if __name__ == "__main__":
    main()
