"""The training text of the reference model, from Debian packages that are permissively licensed."""
