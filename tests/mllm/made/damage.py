"""Files as strangers, full disks and broken downloads leave them."""

import random
from pathlib import Path

# what a damaged file may hold where something else belongs
_PIECES = (
    b"",
    b"\x00" * 8,
    b"\xff\xfe",
    b"null",
    b"-1",
    b"0",
    b"1e999",
    b"NaN",
    b"9" * 5000,
    b"[" * 3000,
    b"{}",
    b'"x"',
    b"{% endfor %}",
    b"{{ 1 / 0 }}",
    b"\\ud800",
)


def damage(file: Path, random_: random.Random) -> str:
    """Change a file in one way; says which."""
    content = bytearray(file.read_bytes())
    place = random_.randrange(max(1, len(content)))
    kind = random_.choice(("flip", "flips", "cut", "insert", "replace", "delete", "digit"))
    if kind == "flip" and content:
        content[place] ^= 1 << random_.randrange(8)
    elif kind == "flips":
        for _ in range(random_.randrange(1, 20)):
            if content:
                content[random_.randrange(len(content))] = random_.randrange(256)
    elif kind == "cut":
        del content[place:]
    elif kind == "delete":
        del content[place : place + random_.randrange(1, 40)]
    elif kind == "digit":
        digits = [index for index, byte in enumerate(content[:100_000]) if chr(byte).isdigit()]
        if digits:
            content[random_.choice(digits)] = random_.choice(b"0123456789")
    else:
        piece = random_.choice(_PIECES)
        content[place : place + (len(piece) if kind == "replace" else 0)] = piece
    file.write_bytes(bytes(content))
    return f"{kind} at {place} of {file.name}"
