"""What can go wrong with a data set; each message names the file and what to do."""


class DatasetError(RuntimeError):
    """A data set cannot be loaded."""


class DatasetNotFoundError(DatasetError):
    """A file is neither on disk nor downloadable.

    The first line of the message is a complete summary; the other lines list the folders and
    addresses that were tried, and say where to put the file.
    """


class DatasetCorruptError(DatasetError):
    """A file, which is left as it is, is not the published one."""
