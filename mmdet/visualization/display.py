"""Whether windows can be opened here."""

#: Matplotlib's backends that only write files
FILE_BACKENDS = ('agg', 'cairo', 'pdf', 'pgf', 'ps', 'svg', 'template')


def check_display(advice: str = '') -> None:
    """Raise RuntimeError where no window can be opened, with the reason and ``advice``, what to do instead."""
    import matplotlib  # slow to import

    backend = matplotlib.get_backend()
    if backend.lower() in FILE_BACKENDS:
        reason = f'no display here (Matplotlib has only the backend {backend!r}, which writes files)'
        raise RuntimeError(f'{reason}; {advice}' if advice else reason)
