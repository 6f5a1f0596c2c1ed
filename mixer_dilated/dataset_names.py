"""Names of data sets that are files or folders: 'folder:pets', 'npz:mnist.npz'."""

PATH_KINDS = ('folder', 'npz', 'idx', 'csv')


def split_path(name: str) -> tuple[str, str]:
    """('folder', 'pets') of 'folder:pets'; ('', name) of a data set that no path names."""
    kind, colon, path = name.partition(':')
    return (kind, path) if colon and kind in PATH_KINDS else ('', name)
