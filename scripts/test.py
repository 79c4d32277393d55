"""Sets up an environment in the project folder and runs the tests: python scripts/test.py [pytest arguments]"""

import sys

from setup_environment import install, run


def main():
    extras = (f"requirements-{name}.txt" for name in ("export", "tensorboard", "envpool", "ray"))
    install("requirements.txt", "tests/requirements.txt", *extras)
    run("-m", "pytest", *sys.argv[1:])


if __name__ == "__main__":
    main()
