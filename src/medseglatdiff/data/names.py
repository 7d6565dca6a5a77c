"""File names made safe to print: none can move the cursor or reverse a line."""


def printable(text: object) -> str:
    r"""Text with control characters, line ends, direction marks and surrogates escaped.

    >>> printable("scan\x1b[2J.png")
    'scan\\x1b[2J.png'
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode("ascii")
        for character in str(text)
    )
