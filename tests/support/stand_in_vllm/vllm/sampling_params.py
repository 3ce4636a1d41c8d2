"""How outputs are returned."""


class RequestOutputKind:
    """The kinds of outputs."""

    FINAL_ONLY = "final"
