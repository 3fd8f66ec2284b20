"""The one exception that bad input raises, so that the command line can print it as one line."""


class DataError(ValueError):
    """A file or data set that cannot be used.

    The message is one line: which file or argument, what was expected, what came, what to do.
    File names inside it go through `repr`, so that a newline in a name stays on the line.
    """
