"""Names of files as they may be printed: nobody's file name moves the cursor or reverses a line."""


def printable(text: object) -> str:
    r"""Text with everything that a terminal would act on escaped: controls, line ends, marks of direction, surrogates.

    >>> printable("scan\x1b[2J.png")
    'scan\\x1b[2J.png'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )
