"""Every error that normscope raises on purpose.

::

    NormscopeError
    └── InputError            what a person gave is not usable; the command line exits with 2
        ├── SpecError         a model, data set, loss, metric or device that cannot be loaded
        ├── RecordError       a record of another version, cut short, or not a record
        ├── TensorError       a tensor that does not fit a layer or operator; a RuntimeError too, as torch raises
        └── UnsupportedError  a network that the package cannot look into or operate on
"""


class NormscopeError(Exception):
    """Root of the tree; catch this to catch all of them."""


class InputError(NormscopeError, ValueError):
    """What a person gave is not usable: names what was expected, what came and the likely fix."""


class SpecError(InputError):
    """A model, data set, loss, metric or device that cannot be loaded."""


class RecordError(InputError):
    """A record of another version, cut short, or not a record at all."""


class TensorError(InputError, RuntimeError):
    """A tensor that does not fit a layer or operator; a RuntimeError too, because that is what torch raises."""


class UnsupportedError(InputError):
    """A network that the package cannot look into or operate on."""
