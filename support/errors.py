"""The two ways in which things go wrong: what was given is wrong, or a run cannot go on."""


class ConfigurationError(ValueError):
    """A setting, argument or input file is wrong. The message is one line: what is wrong, where, what would be right."""


class RunFailed(Exception):
    """A run cannot go on. The message is one line."""


class Damaged(ValueError):
    """A file is not what was written. The message says in what way."""


def one_line(error, most=None):
    """An error's text on one line, of at most so many characters; of a traceback, as TorchScript gives it, the end."""
    text = str(error)
    if "Traceback" in text:
        text = text.rpartition("Error: ")[2]
    return " ".join(text.split())[:most]
