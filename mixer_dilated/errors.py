"""The one error that a user's input can cause."""


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one line: which key or file, which value, what is allowed, what to do next.
    The command line prints it and exits with 2; it never shows a traceback for it.
    """
