"""The slow, obvious twins of the Rust module: one row, one centroid, one anchor at a time, in float64."""

import math

import numpy as np

GAIN_LANES = 8
"""Gains are added up in so many lanes, anchor `a` in lane `a % 8`, and the lanes in halves: the promised order."""


def squared_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Sum of squared differences, exactly rounded."""
    return math.fsum((float(x) - float(y)) ** 2 for x, y in zip(a, b, strict=True))


def nearest_centroids(data: np.ndarray, centroids: np.ndarray) -> tuple[list[int], list[float]]:
    """The nearest centroid of each row and its squared distance; ties go to the lowest index."""
    labels, squared = [], []
    for row in data:
        distances = [squared_distance(row, centroid) for centroid in centroids]
        labels.append(distances.index(min(distances)))
        squared.append(min(distances))
    return labels, squared


def nearest_distinct_rows(data: np.ndarray, centroids: np.ndarray) -> tuple[list[int], list[float]]:
    """For each centroid in turn, the nearest row that no earlier one has, and its distance; ties go to the lowest."""
    rows: list[int] = []
    distances = []
    for centroid in centroids:
        squared, row = min((squared_distance(data[row], centroid), row) for row in range(len(data)) if row not in rows)
        rows.append(row)
        distances.append(math.sqrt(squared))
    return rows, distances


def golden_scores(
    one_shot_nats: np.ndarray, zero_shot_nats: np.ndarray, left_out: np.ndarray | None
) -> tuple[list[int], list[int], list[float], int]:
    """Wins, anchors scored and mean gain of each row, and the number of pairs that are not numbers."""
    wins, anchors_scored, mean_gain_nats, nan_pairs = [], [], [], 0
    for row in range(one_shot_nats.shape[0]):
        tried = [anchor for anchor in range(len(zero_shot_nats)) if left_out is None or not left_out[row, anchor]]
        pairs = [(float(one_shot_nats[row, anchor]), float(zero_shot_nats[anchor])) for anchor in tried]
        gains = [one - zero for one, zero in pairs]
        numbers = [gain for gain in gains if not math.isnan(gain)]
        lanes = [0.0] * GAIN_LANES
        for anchor, gain in zip(tried, gains, strict=True):
            lanes[anchor % GAIN_LANES] += 0.0 if math.isnan(gain) else gain
        halves = [lanes[lane] + lanes[lane + 4] for lane in range(4)]
        total = (halves[0] + halves[2]) + (halves[1] + halves[3])
        wins.append(sum(one > zero for one, zero in pairs))
        anchors_scored.append(len(pairs))
        mean_gain_nats.append(total / len(numbers) if numbers else math.nan)
        nan_pairs += len(gains) - len(numbers)
    return wins, anchors_scored, mean_gain_nats, nan_pairs
