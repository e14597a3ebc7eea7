"""Closed-world website fingerprinting: which page was it?

Reads visits from standard input, one JSON object a line: {"page": n, "packets": [[seconds, bytes], ...]}, bytes being
negative where the server sent them. Prints one JSON object: mean accuracies of 5-fold cross validation.

Features are those that k-fingerprinting (Hayes and Danezis, USENIX Security 2016) and CUMUL (Panchenko et al., NDSS
2016) found to tell most: totals, bursts, times, and the cumulative sum of bytes at 100 places.
"""

import json
import sys

import numpy
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

PLACES = 100
FOLDS = 5


def features(packets):
    times = numpy.array([time for time, _ in packets])
    sizes = numpy.array([size for _, size in packets], dtype=float)
    up, down = sizes[sizes > 0], -sizes[sizes < 0]
    turns = numpy.flatnonzero(numpy.diff(numpy.sign(sizes))) + 1
    bursts = numpy.array([abs(part.sum()) for part in numpy.split(sizes, turns)])
    gaps = numpy.diff(times) if len(times) > 1 else numpy.zeros(1)
    cumulative = numpy.cumsum(sizes)
    at = numpy.linspace(0, len(sizes) - 1, PLACES)
    curve = numpy.interp(at, numpy.arange(len(sizes)), cumulative)
    return numpy.concatenate([
        [up.sum(), down.sum(), len(up), len(down), len(bursts), bursts.max(), bursts.mean(), bursts.std()],
        [gaps.max(), gaps.mean(), gaps.std(), times[-1] - times[0]],
        numpy.percentile(times - times[0], [25, 50, 75]),
        curve,
    ])


def accuracy(model, visits, pages):
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    return float(cross_val_score(model, visits, pages, cv=folds).mean())


def main():
    lines = [json.loads(line) for line in sys.stdin]
    visits = numpy.array([features(line["packets"]) for line in lines])
    pages = numpy.array([line["page"] for line in lines])
    shuffled = numpy.random.default_rng(0).permutation(pages)
    forest = RandomForestClassifier(300, random_state=0)
    nearest = make_pipeline(StandardScaler(), KNeighborsClassifier(3))
    print(json.dumps({
        "forest": accuracy(forest, visits, pages),
        "nearest": accuracy(nearest, visits, pages),
        "shuffled": accuracy(forest, visits, shuffled),
    }))


main()
