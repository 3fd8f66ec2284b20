"""Every error that a user can act on. The command line prints any of them as one line, so it catches one class.

A message says which file or argument, what was expected, what came, and what to do. File names inside it go through
`repr`, so that a newline in a name stays on the line.
"""


class EmonetError(Exception):
    """Base of all of them; each is also the built-in error that a caller of the library would expect."""


class DeviceError(EmonetError, ValueError):
    """Arrays on different devices met in one operation, or the device asked for cannot be used."""


class KernelError(EmonetError, RuntimeError):
    """The kernels asked for by EMONET_KERNELS, or the precision asked for, cannot be used."""


class SingularScatterError(EmonetError, ValueError):
    """S_W has no inverse, so LDA's eigenproblem has no answer."""


class WeightsError(EmonetError, ValueError):
    """A file of weights that is damaged, of a kind not known, or holds more than tensors."""


class DataError(EmonetError, ValueError):
    """A file or data set that cannot be used."""


class NoPicturesError(DataError):
    """A file of sound where pictures are wanted."""


class CheckpointError(EmonetError, ValueError):
    """A checkpoint that is damaged, foreign, or of another model."""


class NonFiniteError(EmonetError, RuntimeError):
    """A loss or gradient that is not finite; the message names the layer in which it appeared first."""
