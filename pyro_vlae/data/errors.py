"""Errors of data sets; each message names the file and the way out."""


class DatasetError(RuntimeError):
    """A data set cannot be loaded."""


class DatasetNotFoundError(DatasetError):
    """A file is neither on disk nor downloadable.

    The first line of the message is a complete summary; the other lines list the folders and
    addresses that were tried, and say where to put the file.
    """


class DatasetCorruptError(DatasetError):
    """A file is not the published one; it is left unchanged."""
