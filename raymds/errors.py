"""Errors a user sees, each with the exit status of the command that meets it."""


class RaymdsError(Exception):
    """Something the user can mend; the message says what is wrong, where, and what to do. Exit status 1."""

    exit_status = 1


class UsageError(RaymdsError, ValueError):
    """A wrong command, config, data set or checkpoint, found before anything expensive starts. Exit status 2."""

    exit_status = 2


class DivergedError(RaymdsError):
    """Training met a loss that is not finite and stopped; the last good checkpoint is kept. Exit status 1."""


class StoppedError(RaymdsError):
    """A command that was asked to stop did, a run in a checkpoint. Exit status 143, as of one that SIGTERM ended."""

    exit_status = 143
