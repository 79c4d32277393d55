"""Sets up an environment in the project folder and runs the tests: python scripts/test.py [pytest arguments]"""

import sys

from setup_environment import install, run


def main():
    install("requirements.txt", "tests/requirements.txt", "requirements-export.txt", "requirements-tensorboard.txt")
    run("-m", "pytest", *sys.argv[1:])


if __name__ == "__main__":
    main()
