"""The one exception of the package."""


class TuningVecError(Exception):
    """Something the user can put right: the message says what is wrong, where, and what to do."""
