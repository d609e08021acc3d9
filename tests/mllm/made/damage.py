"""Files as strangers, full disks and broken downloads leave them."""

import json
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

_VALUES = (
    None,
    True,
    False,
    -1,
    0,
    1,
    2,
    7,
    3.5,
    1e-9,
    10**6,
    10**12,
    10**30,
    float("nan"),
    "",
    "x",
    "0",
    [],
    ["x"],
    [1, 2],
    {},
    {"x": 1},
)


def damage_value(file: Path, random_: random.Random) -> str:
    """Give one key of a JSON file another value, or take it out; says which."""
    content = json.loads(file.read_text())
    places: list = []

    def gather(node, path):
        for key in node if isinstance(node, dict) else range(len(node)):
            places.append((node, key, [*path, key]))
            if isinstance(node[key], (dict, list)):
                gather(node[key], [*path, key])

    gather(content, [])
    node, key, path = random_.choice(places)
    if random_.random() < 0.1:
        del node[key]
        said = "nothing"
    else:
        node[key] = random_.choice(_VALUES)
        said = repr(node[key])
    file.write_text(json.dumps(content))
    return f"{'.'.join(map(str, path))} = {said} in {file.name}"


def damage(file: Path, random_: random.Random) -> str:
    """Change a file in one way; says which."""
    if file.suffix == ".json" and random_.random() < 0.5:
        return damage_value(file, random_)
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
