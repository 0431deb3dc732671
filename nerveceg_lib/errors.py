"""The one exception for mistakes a user can fix."""


class InputError(ValueError):
    """Bad input: the message names the file or parameter, what was found and what was expected.

    The command line prints the message without a traceback and exits with code 2.
    """
