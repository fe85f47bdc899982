"""How far each kind of launch moves the end of a step on: `summary.py TRACE.csv ...`, files side by side.

A launch's advance is its end less the latest end before it, so that advances add up to the step however much launches
overlap. Means over the last twelve steps but one; a step begins with the embedding of its tokens, the smaller of the two.
"""

import sys


def steps(path):
    launches = []
    with open(path) as lines:
        for line in lines:
            fields = line.strip().split(",")
            if len(fields) == 6:
                start, end, name, blocks = int(fields[0]), int(fields[1]), fields[2], int(fields[3])
                launches.append((start, end, name, blocks))
    launches.sort()
    embeddings = [i for i, launch in enumerate(launches) if launch[2].startswith("embed")]
    fewest = min(launches[i][3] for i in embeddings)
    first = [i for i in embeddings if launches[i][3] == fewest]
    return [launches[a:b] for a, b in zip(first[-13:-1], first[-12:])]


def advances(path):
    kinds = {}
    of_file = steps(path)
    for step in of_file:
        latest = None
        for _, end, name, blocks in step:
            kind = kinds.setdefault(f"{name}, {blocks} blocks", [0, 0.0])
            kind[0] += 1
            if latest is not None:
                kind[1] += (end - latest) / 1e3
            latest = max(latest or 0, end)
    return {kind: (count / len(of_file), total / len(of_file)) for kind, (count, total) in kinds.items()}


files = sys.argv[1:]
tables = [advances(path) for path in files]
kinds = sorted({kind for table in tables for kind in table}, key=lambda kind: -max(t.get(kind, (0, 0))[1] for t in tables))
print(f"{'launches a step, µs each, µs a step':60}", *(f"{path.split('/')[-1]:>24}" for path in files))
for kind in kinds:
    cells = (table.get(kind) for table in tables)
    print(f"{kind:60.60}", *(f"{c[0]:6.0f} {c[1] / c[0]:8.2f} {c[1]:8.1f}" if c else " " * 24 for c in cells))
print(f"{'a step':60}", *(f"{sum(total for _, total in table.values()):24.1f}" for table in tables))
