"""Closed-world website fingerprinting: which page was it?

Reads visits from standard input, one JSON object a line: {"page": n, "packets": [[seconds, bytes], ...]}, bytes being
negative where the server sent them. Prints one JSON object: for each classifier its accuracy in each of five folds.

Features are those of k-fingerprinting (Hayes and Danezis, USENIX Security 2016, section 4.1: counts, shares, order,
concentration and rate of packets, times between them and their quantiles, the first and last thirty), with sizes, which
cells do not have, and the cumulative sum of bytes of CUMUL (Panchenko et al., NDSS 2016).

Classifiers are a random forest; k-fingerprinting's own, the nearest neighbours by the leaves of that forest in which two
visits end (Hamming distance); the nearest neighbours by the features, scaled; and, as a control, the forest with the
pages' names shuffled.
"""

import json
import sys

import numpy
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import StratifiedKFold
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

FOLDS = 5
TREES = 500
NEIGHBOURS = 3
PLACES = 100  # of the cumulative sum
ENDS = 30  # packets at either end
CHUNK = 20  # packets
PARTS = 20  # of a sequence whose length varies


def summary(values):
    values = numpy.asarray(values, dtype=float)
    if not len(values):
        return [0.0] * 7
    quartiles = numpy.percentile(values, [25, 50, 75])
    return [values.max(), values.min(), values.mean(), values.std(), *quartiles]


def in_parts(values):
    """A sequence of any length as so many sums."""
    return [float(part.sum()) for part in numpy.array_split(numpy.asarray(values, dtype=float), PARTS)]


def quantiles(times):
    return list(numpy.percentile(times, [25, 50, 75, 100])) if len(times) else [0.0] * 4


def features(packets):
    times = numpy.array([time for time, _ in packets])
    times = times - times[0]
    sizes = numpy.array([size for _, size in packets], dtype=float)
    up = sizes > 0
    found = []
    for which in (numpy.ones(len(sizes), dtype=bool), up, ~up):
        there = times[which]
        found += [which.sum(), abs(sizes[which]).sum(), which.mean()]
        found += summary(numpy.diff(there)) + quantiles(there)
        found += summary(numpy.flatnonzero(which)) + summary(abs(sizes[which]))
        found += [which[:ENDS].sum(), which[-ENDS:].sum()]
    concentration = [up[at:at + CHUNK].sum() for at in range(0, len(up), CHUNK)]
    found += summary(concentration) + in_parts(concentration)
    rate = numpy.bincount((times / 0.1).astype(int))
    found += summary(rate) + in_parts(rate)
    turns = numpy.flatnonzero(numpy.diff(numpy.sign(sizes))) + 1
    bursts = [part.sum() for part in numpy.split(sizes, turns)]
    found += [len(bursts)]
    found += summary([burst for burst in bursts if burst > 0]) + summary([-burst for burst in bursts if burst < 0])
    first = bursts[:ENDS]
    found += first + [0.0] * (ENDS - len(first))
    at = numpy.linspace(0, len(sizes) - 1, PLACES)
    found += list(numpy.interp(at, numpy.arange(len(sizes)), numpy.cumsum(sizes)))
    return numpy.array(found, dtype=float)


def forest(visits, pages, asked):
    return RandomForestClassifier(TREES, random_state=0).fit(visits, pages).predict(asked)


def leaves(visits, pages, asked):
    grown = RandomForestClassifier(TREES, random_state=0).fit(visits, pages)
    nearest = KNeighborsClassifier(NEIGHBOURS, metric="hamming", algorithm="brute")
    return nearest.fit(grown.apply(visits), pages).predict(grown.apply(asked))


def scaled(visits, pages, asked):
    scale = StandardScaler().fit(visits)
    return KNeighborsClassifier(NEIGHBOURS).fit(scale.transform(visits), pages).predict(scale.transform(asked))


def accuracies(classify, visits, pages):
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(visits, pages)
    return [float((classify(visits[known], pages[known], visits[asked]) == pages[asked]).mean()) for known, asked in folds]


def main():
    lines = [json.loads(line) for line in sys.stdin]
    visits = numpy.array([features(line["packets"]) for line in lines])
    pages = numpy.array([line["page"] for line in lines])
    shuffled = numpy.random.default_rng(0).permutation(pages)
    print(json.dumps({
        "forest": accuracies(forest, visits, pages),
        "leaves": accuracies(leaves, visits, pages),
        "scaled": accuracies(scaled, visits, pages),
        "shuffled": accuracies(forest, visits, shuffled),
    }))


main()
