"""What goes wrong with a data set, as exceptions that name the file and the way out."""


class DatasetError(RuntimeError):
    """A data set cannot be loaded; the message says what to do."""


class DatasetNotFoundError(DatasetError):
    """A file is neither on disk nor downloadable.

    The first line of the message is complete in itself; the lines after it list the folders
    looked in, the addresses tried with the reason each failed, and where to put the file.
    """


class DatasetCorruptError(DatasetError):
    """A file was found but is not the published one: truncated, replaced, or of another kind.

    The file is left as it is; the message names it and says how to replace it.
    """
