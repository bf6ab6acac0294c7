"""The error for a wrong call of a command."""


class UsageError(Exception):
    """The call of the command is wrong, not its data."""
