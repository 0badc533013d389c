"""Iterations of exact K-Means from the same start: ours against numpy, faiss and SuperKMeans, one thread each."""

from dataclasses import dataclass

from harness import Contestant, Part, Ratio, Results, Setting

ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
INERTIA_TOLERANCE = 0.01  # peers round otherwise, and SuperKMeans starts elsewhere


@dataclass(frozen=True, slots=True)
class Work:
    """One setting of the target table."""

    label: str
    file: str
    rows: int
    k: int
    iterations: int
    peers: tuple[str, ...]
    target: float


def works(setting: Setting) -> list[Work]:
    """The three settings, at the scale of this run."""
    million, many = setting.rows(1_000_000), setting.rows(200_000)
    few, lots = min(100, million // 2), min(1000, many // 2)
    return [
        Work(f"{million:,} rows, k={few}", "emb.npy", million, few, 5, ("numpy", "faiss"), 2.0),
        Work(f"{many:,} rows, k={lots}", "emb.npy", many, lots, 8, ("faiss", "superkmeans"), 3.0),
        Work(f"{many:,} rows, k={lots}, flat", "flat.npy", many, lots, 8, ("faiss",), 1.3),
    ]


def part(setting: Setting) -> Part:
    """The contest; figures are CPU seconds an iteration."""
    contestants: list[Contestant] = []
    ratios: list[Ratio] = []
    for work in works(setting):
        arguments = (setting.data / work.file, work.rows, work.k, work.iterations)
        contestants.append(Contestant(f"ours: {work.label}", [setting.ours("kmeans_ours.py", *arguments)], ONE_THREAD))
        for peer in work.peers:
            command = setting.peer("kmeans_peers.py", peer, *arguments)
            contestants.append(Contestant(f"{peer}: {work.label}", [command], ONE_THREAD))
            target = 2.0 if peer == "superkmeans" else work.target
            ours, theirs = f"ours: {work.label}", [f"{peer}: {work.label}"]
            ratios.append(Ratio("an iteration", ours, theirs, at_least=target, figure="further_cpu_seconds"))
            ratios.append(Ratio(f"all in, {work.iterations} iterations", ours, theirs, at_least=target))

    def check(results: Results) -> list[str]:
        faults = []
        for work in works(setting):
            ours = results.get(f"ours: {work.label}", {}).get("found", {})
            if ours.get("wrong_labels"):
                faults.append(
                    f"{work.label}: {ours['wrong_labels']} of {ours['checked']} labels are not the nearest centroid"
                )
            for peer in work.peers:
                theirs = results.get(f"{peer}: {work.label}", {}).get("found", {})
                if ours and theirs and ours["inertia"] > theirs["inertia"] * (1 + INERTIA_TOLERANCE):
                    faults.append(
                        f"{work.label}: inertia {ours['inertia']:.6g}, and {peer} reached {theirs['inertia']:.6g}"
                    )
        return faults

    return Part(
        "kmeans", "kmeans: exact iterations over 384 dimensions, CPU seconds of one", contestants, ratios, check
    )
