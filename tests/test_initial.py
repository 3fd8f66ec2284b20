"""First values of every layer."""


def test_nothing_yet():
    pass
