"""The exact, CPU-bound work of pyllm, in Rust: clustering and golden-score aggregation.

Arrays are borrowed, so they are C-contiguous and of the type that is stated. The work runs without holding the
interpreter, on threads of its own; Ctrl-C is answered while it runs.
"""

from collections.abc import Sequence
from os import PathLike
from typing import final

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "AggregateSummary",
    "GoldenScores",
    "KMeansResult",
    "MatrixWriter",
    "PackSummary",
    "Packer",
    "Packing",
    "ReadRows",
    "RowTokenizer",
    "ShardSummary",
    "__version__",
    "aggregate_logprobs",
    "golden_scores",
    "golden_wins",
    "kmeans",
    "logprobs_metadata",
    "pack_best_fit",
    "read_rows",
    "read_zero_shot",
    "shard",
]

__version__: str

@final
class GoldenScores:
    """Wins, anchors scored and mean gain of each row."""

    @property
    def wins(self) -> NDArray[np.uint32]:
        """Anchors won by each row."""
    @property
    def anchors_scored(self) -> NDArray[np.uint32]:
        """Anchors tried by each row: all but those left out."""
    @property
    def mean_gain_nats(self) -> NDArray[np.float64]:
        """Mean of one-shot minus zero-shot sums over the pairs tried that are numbers; NaN if there is none."""
    @property
    def nan_pairs(self) -> int:
        """Pairs tried whose gain is not a number: they are lost and not in the mean."""

@final
class ReadRows:
    """The rows of a file."""

    @property
    def ipc(self) -> bytes:
        """The good rows as an Arrow IPC stream: the canonical columns (for examples), then all others."""
    @property
    def records(self) -> int:
        """All records, bad ones counted."""
    @property
    def bad(self) -> list[tuple[int, int | None, str | None, str, str, bool]]:
        """Row, line (counted from 1), field, reason, text, and whether it is of another kind, of each bad row."""
    @property
    def shapes(self) -> list[tuple[str, int]]:
        """Good rows per shape, the most frequent first."""
    @property
    def own(self) -> bool:
        """It is a table of ours: its rows keep ids and sources."""
    @property
    def marked(self) -> bool:
        """It has the columns that mark a table of ours."""
    @property
    def renamed(self) -> list[tuple[str, str]]:
        """Columns whose names were taken, and what they are called now."""
    @property
    def left_out(self) -> list[str]:
        """Score columns of an earlier run, which are left out."""
    @property
    def mixed(self) -> list[str]:
        """Columns that hold values of different types and are kept as JSON text."""

@final
class KMeansResult:
    """Clusters, and the real row nearest each centroid."""

    @property
    def centroids(self) -> NDArray[np.float32]:
        """Coordinates of each centroid: clusters x dim."""
    @property
    def labels(self) -> NDArray[np.uint32]:
        """The nearest centroid of each row; ties go to the lowest."""
    @property
    def squared_distances(self) -> NDArray[np.float64]:
        """Squared Euclidean distance of each row to its centroid."""
    @property
    def cluster_sizes(self) -> NDArray[np.uint64]:
        """Rows of each cluster; 0 only where rows are too few or too equal to fill it, or the rounds ran out."""
    @property
    def nearest_rows(self) -> NDArray[np.uint64]:
        """The row nearest each centroid, no row twice: one that an earlier centroid has is passed over."""
    @property
    def nearest_distances(self) -> NDArray[np.float64]:
        """Euclidean distance of each nearest row to its centroid."""
    @property
    def inertia(self) -> float:
        """Sum of the squared distances of all rows to their centroids."""
    @property
    def iterations(self) -> int:
        """Rounds over all rows in which centroids moved."""

def golden_scores(
    one_shot_nats: NDArray[np.float32] | NDArray[np.float64],
    zero_shot_nats: NDArray[np.float64],
    left_out: NDArray[np.bool_] | None = None,
    *,
    threads: int = 0,
) -> GoldenScores:
    """Aggregate the sums of `rows x anchors` pairs: an anchor is won when one-shot is strictly above zero-shot.

    A NaN is never a win: the pair is counted in `nan_pairs` and `anchors_scored`, and is not in the mean gain.

    Args:
        one_shot_nats: Sum of the answer's log-probabilities behind each row: rows x anchors.
        zero_shot_nats: The same without a row: anchors.
        left_out: Pairs to count nowhere: rows x anchors.
        threads: Threads to use, 0 for all cores. The result does not depend on it.

    Raises:
        InputError: The shapes do not fit together, or an array is not C-contiguous.
        PrerequisiteError: The threads could not be started.

    Source:
        NUGGETS (arXiv 2312.10302), section 3.2, golden score.
    """

def golden_wins(
    one_shot_nats: NDArray[np.float32] | NDArray[np.float64], zero_shot_nats: NDArray[np.float64], *, threads: int = 0
) -> tuple[NDArray[np.uint32], int]:
    """Count the wins of each row, and all pairs that gave no number: `golden_scores` without the gains.

    In float32, memory sets the pace.

    Args:
        one_shot_nats: Sum of the answer's log-probabilities behind each row: rows x anchors.
        zero_shot_nats: The same without a row: anchors.
        threads: Threads to use, 0 for all cores. The result does not depend on it.

    Returns:
        `wins` and `nan_pairs`, as in `GoldenScores`.

    Raises:
        InputError: The shapes do not fit together, or an array is not C-contiguous.
        PrerequisiteError: The threads could not be started.

    Source:
        NUGGETS (arXiv 2312.10302), section 3.2, golden score.
    """

def kmeans(
    data: NDArray[np.float32] | NDArray[np.float16],
    k: int,
    *,
    seed: int,
    rows: NDArray[np.uint32] | None = None,
    max_iterations: int = 100,
    tolerance: float = 5e-3,
    sample_rows: int = 0,
    initial_centroids: NDArray[np.float32] | None = None,
    threads: int = 0,
) -> KMeansResult:
    """Exact, seeded K-Means: k-means++ and Lloyd's rounds on a sample, then rounds over all rows.

    Args:
        data: Rows to cluster, rows x dim, all finite; a memory-mapped array is read where it is.
        k: Clusters, at most as many as rows.
        seed: Everything random follows from it (0 to 2**64 - 1).
        rows: Cluster only these rows, by number; then `labels`, `squared_distances` and `nearest_rows` count within
            them.
        max_iterations: Most rounds, on the sample and again on all rows.
        tolerance: Stop when less than this share of the rows changed cluster in a round; 0 goes on until none does.
        sample_rows: Rows in the sample, at least `k`; 0 for 256 for each cluster and at least 50,000.
        initial_centroids: Begin with these instead, clusters x dim; then `seed` and `sample_rows` decide nothing.
        threads: Threads to use, 0 for all cores. The result does not depend on it.

    Raises:
        SettingError: `k` is 0 or above the number of rows, or `tolerance` is negative or not finite.
        InputError: A value is not finite (the first such row is named), there are no columns, an array is not
            C-contiguous or of another type, one of `rows` is not there, or `initial_centroids` does not have `k` rows
            of `dim` columns.
        PrerequisiteError: The threads could not be started.

    Source:
        Arthur and Vassilvitskii, SODA 2007 (k-means++); Lloyd, IEEE Transactions on Information Theory, 1982.
    """

@final
class ShardSummary:
    """What a sharding run did."""

    @property
    def finished_before(self) -> bool:
        """The folder held this very work already; nothing in it was touched."""
    @property
    def resumed_parts(self) -> int:
        """Parts that a killed run had finished and that were not written again."""
    @property
    def passes(self) -> int:
        """How often all inputs were read."""
    @property
    def manifest(self) -> str:
        """The manifest as it stands in the folder: JSON."""
    @property
    def bad(self) -> list[tuple[str, int, list[str]]]:
        """For each input with bad rows: its name, their number, and the first five."""
    @property
    def renamed(self) -> list[tuple[str, str]]:
        """Columns whose names were taken: name in the data, name in the shards."""
    @property
    def left_out(self) -> list[str]:
        """Score columns of an earlier run, which are left out."""
    @property
    def mixed(self) -> list[str]:
        """Columns that hold values of different types and are kept as JSON text."""

def shard(
    inputs: list[tuple[str, str, str, bool]],
    out: str,
    *,
    rows_per_shard: int | None = None,
    shards: int | None = None,
    compression: str = "zstd:1",
    threads: int = 0,
    dedup: bool = False,
    shape: str = "auto",
    strict: bool = False,
    bad_rows: str | None = None,
    step: str = "{}",
) -> ShardSummary:
    """Write the good rows of the inputs as Parquet shards with a manifest.

    Args:
        inputs: For each one its name in messages, its name in tables, its path, and whether it came through a pipe.
        out: The folder that gets the shards.
        rows_per_shard: Rows in every shard but the last; either this or `shards`.
        shards: Number of shards, whose sizes differ by one row at most.
        compression: `zstd:1`, `zstd:3`, `lz4`, `snappy` or `none`.
        threads: Threads to use, 0 for all cores. The result does not depend on it.
        dedup: Drop rows whose content stood in an earlier row.
        shape: Shape of the rows; `auto` recognises every row by its keys.
        strict: Refuse the inputs if one has a bad row.
        bad_rows: Where to collect bad rows.
        step: The provenance step of this work, as JSON.

    Raises:
        InputError: An input cannot be read, holds no rows or no good one, or has a bad row under `strict`.
        SettingError: A setting is out of its range, or the folder holds something else.
        PrerequisiteError: A file cannot be written, or threads cannot be started.
    """

@final
class Packing:
    """Which sequence goes into which bin."""

    @property
    def offsets(self) -> NDArray[np.uint32]:
        """Where each bin begins in `sequences`, and at last where all end."""
    @property
    def sequences(self) -> NDArray[np.uint32]:
        """Places of the sequences, bin after bin, each bin in the order in which it was filled."""
    def __len__(self) -> int:
        """How many bins there are."""
    def gather(self, ids: NDArray[np.uint32], ends: NDArray[np.uint64]) -> NDArray[np.uint32]:
        """The ids of all sequences, bin after bin.

        Args:
            ids: Those of all sequences in their own order.
            ends: Where each sequence ends in `ids`.

        Raises:
            InputError: The arrays do not fit the packing or each other.
        """

def pack_best_fit(lengths: NDArray[np.uint32], capacity: int, *, open_bins: int = 0) -> Packing:
    """Pack sequences into bins of `capacity` tokens: best-fit decreasing, in O(sequences + capacity).

    Longest first, each into the fullest bin that still takes it. Sequences of one length keep their order; of bins
    equally full, the one that was filled last is taken; bins are numbered as they are opened.

    Args:
        lengths: Tokens of each sequence, 1 to `capacity`.
        capacity: Tokens of a bin, 1 to 65,536.
        open_bins: If not 0, take sequences as they come, with so many bins open at once: where none takes a sequence
            and no more may be open, the fullest is closed. Bins are then numbered as they are closed.

    Raises:
        InputError: A length is 0 or above the capacity, or `lengths` is not C-contiguous.
        SettingError: The capacity is out of its range.
    """

@final
class RowTokenizer:
    """A tokenizer, and the tokens that stand around a row.

    Args:
        json: What `tokenizer.json` holds, of any version.
        start: Token in front of each row.
        end: Token behind each row, trained with the last answer.

    Raises:
        PrerequisiteError: It is no tokenizer, or one that this engine does not know.
    """

    def __new__(cls, json: str, *, start: int | None = None, end: int | None = None) -> RowTokenizer: ...
    def encode(self, texts: list[str]) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
        """The ids of each text with nothing around them, and where those of each end.

        Raises:
            InputError: The tokenizer refuses a text.
        """

@final
class PackSummary:
    """What a run of packing did."""

    @property
    def rows_in(self) -> int:
        """Rows that came in."""
    @property
    def rows_packed(self) -> int:
        """Rows that are packed."""
    @property
    def bins(self) -> int:
        """Packed rows."""
    @property
    def tokens(self) -> int:
        """Tokens in them."""
    @property
    def trained_tokens(self) -> int:
        """Tokens that are trained."""
    @property
    def kinds(self) -> list[tuple[str, int, list[str]]]:
        """Rows of each kind that did not go through as they were: its name, how many, and the first few."""
    @property
    def parts(self) -> list[tuple[str, int, int, str]]:
        """The files: name, rows, bytes and SHA-256."""

@final
class Packer:
    """A run of packing into a folder that is there.

    After an error the run is over, and its unfinished files are gone.

    Args:
        folder: Gets `part-00000.parquet`, ...
        length: Tokens of a packed row, 2 to 65,536.
        window_rows: Rows that are packed together; 0 for all at once.
        open_bins: 0 for best-fit decreasing; else pack as rows come, into so many open bins.
        too_long: `truncate`, `drop` or `error`: what happens to a row of more tokens than `length`.
        rows_per_shard: Packed rows in each file.
        compression: `zstd:1` and so on, `lz4`, `snappy` or `none`.
        wide: Ids above 65,535 are possible.
        provenance: JSON for the metadata of the files.

    Raises:
        SettingError: A setting is out of its range.
    """

    def __new__(
        cls,
        folder: str | PathLike[str],
        *,
        length: int,
        window_rows: int,
        open_bins: int,
        too_long: str,
        rows_per_shard: int,
        compression: str,
        wide: bool,
        provenance: str,
    ) -> Packer: ...
    def open(self, path: str | PathLike[str], name: str) -> int:
        """Begin to read a table of examples in Parquet; how many rows it has.

        Raises:
            InputError: It cannot be read, or lacks a column of the canonical schema.
        """
    def step(self, tokenizer: RowTokenizer, template: str, *, threads: int = 0) -> int:
        """Render (`nuggets` or `alpaca`), tokenize and pack the next rows of the open table; how many, 0 at its end.

        Raises:
            InputError: The table is damaged, or a row is refused.
            PrerequisiteError: The files cannot be written.
        """
    def push(
        self,
        name: str,
        *,
        ids: NDArray[np.uint32],
        ends: NDArray[np.uint64],
        spans: NDArray[np.uint32],
        span_ends: NDArray[np.uint64],
        row_ids: list[str],
        rows: NDArray[np.uint64],
        threads: int = 0,
    ) -> None:
        """Take rows that were tokenized elsewhere; those without ids have no answer.

        Args:
            name: What messages call their table.
            ids: Token ids of all rows.
            ends: Where each row ends in `ids`.
            spans: First and one past the last token of each trained span, as places in its row, one after the other.
            span_ends: Where the spans of each row end, counted in spans.
            row_ids: A name for each row.
            rows: Its place in the table.
            threads: Threads to use, 0 for all cores.

        Raises:
            InputError: The arrays do not fit together, or a row is too long where that is an error.
            PrerequisiteError: The files cannot be written.
        """
    def finish(self, *, threads: int = 0) -> PackSummary:
        """Pack and write what is left, and give the files their names.

        Raises:
            PrerequisiteError: The files cannot be written.
        """
    def close(self) -> None:
        """Give up: unfinished files are taken away. Harmless when there are none."""

@final
class AggregateSummary:
    """Numbers of one aggregation."""

    @property
    def rows(self) -> int:
        """Candidates."""
    @property
    def rows_scored(self) -> int:
        """Candidates with a score."""
    @property
    def rows_written(self) -> int:
        """Candidates written."""
    @property
    def pairs_scored(self) -> int:
        """Pairs tried."""
    @property
    def pairs_left_out(self) -> int:
        """Pairs not tried: null, or not there."""
    @property
    def nan_pairs(self) -> int:
        """Pairs tried whose gain is not a number."""
    @property
    def nan_anchors(self) -> int:
        """Zero-shot sums that are not numbers."""
    @property
    def mean_golden_score(self) -> float:
        """Mean of the golden scores; NaN if there is none."""
    @property
    def histogram(self) -> NDArray[np.uint64]:
        """Scored candidates with each number of wins, from 0 to the number of anchors."""
    @property
    def passes(self) -> int:
        """How many times the input was read."""

@final
class MatrixWriter:
    """Writes a matrix file some rows at a time; it appears under its name when it is finished."""

    def __new__(
        cls, path: str | PathLike[str], anchors: int, *, wide: bool = False, metadata: str = ""
    ) -> MatrixWriter:
        """Begin a file for rows of `anchors` values, float64 if `wide` and else float32.

        Raises:
            InputError: `anchors` is 0.
            PrerequisiteError: The file cannot be written.
        """
    def write(
        self,
        ids: list[str],
        logprobs: NDArray[np.float32] | NDArray[np.float64],
        left_out: NDArray[np.bool_] | None = None,
    ) -> None:
        """Append rows; pairs in `left_out` were not tried and become null.

        Raises:
            InputError: The shapes do not fit together, the type is another, or an array is not C-contiguous.
            PrerequisiteError: The file cannot be written.
        """
    def finish(self) -> None:
        """Sync the file and give it its name.

        Raises:
            PrerequisiteError: The file cannot be written.
        """

def aggregate_logprobs(
    inputs: Sequence[str | PathLike[str]],
    zero_shot_nats: NDArray[np.float64],
    out: str | PathLike[str],
    *,
    anchors: list[str] | None = None,
    candidate_column: str | None = None,
    anchor_column: str | None = None,
    value_column: str | None = None,
    skip_missing: bool = False,
    threshold: float | None = None,
    top_rows: int | None = None,
    top_share: tuple[int, int] | None = None,
    metadata: str = "",
    threads: int = 0,
) -> AggregateSummary:
    """Add up log-probabilities into a score table; `pyllm.score.aggregate` says what the arguments mean.

    Args:
        inputs: Files of one-shot sums.
        zero_shot_nats: What a win is strictly above.
        out: The Parquet file to write.
        anchors: Names of the anchors; None: numbered from 0.
        candidate_column: Ids of candidates, if not under a usual name.
        anchor_column: Ids of anchors, likewise.
        value_column: Log-probabilities, likewise.
        skip_missing: Score over the pairs that are there.
        threshold: Only rows with a golden score above this.
        top_rows: Only the best so many rows.
        top_share: Only the best share of all rows: numerator and denominator.
        metadata: The value of the table's metadata key `pyllm`.
        threads: Threads to use, 0 for all cores. The table does not depend on it.

    Raises:
        SettingError: There are no inputs.
        InputError: A file cannot be read, pairs are missing or stand twice, or files do not fit together.
        PrerequisiteError: The table cannot be written, or the threads could not be started.
    """

def logprobs_metadata(
    path: str | PathLike[str],
    *,
    candidate_column: str | None = None,
    anchor_column: str | None = None,
    value_column: str | None = None,
) -> str | None:
    """The value of the metadata key `pyllm` of a file of log-probabilities, or None.

    Raises:
        InputError: The file cannot be read, or holds no log-probabilities.
    """

def read_zero_shot(
    path: str | PathLike[str], *, anchor_column: str | None = None, value_column: str | None = None
) -> tuple[list[str] | None, NDArray[np.float64]]:
    """The anchor names (None: numbered from 0) and the zero-shot sums of a Parquet, Arrow or NumPy file.

    Raises:
        InputError: The file cannot be read or has no such column.
    """

def read_rows(
    data: bytes,
    format: str,  # noqa: A002  (what `FileBytes` calls it)
    *,
    source: str,
    file_name: str,
    shape: str = "auto",
    mode: str = "examples",
) -> ReadRows:
    """Read the rows of a whole file that is in memory, on one thread.

    Args:
        data: The file, unpacked.
        format: `json_lines`, `json_array`, `csv`, `parquet`, `arrow_file` or `arrow_stream`.
        source: The source as it was named, for messages.
        file_name: Goes to `source_file`.
        shape: One of `pyllm.data.shapes.SHAPES`.
        mode: `examples`, or `table` for all keys as columns and no canonical ones.

    Raises:
        InputError: The file as a whole is damaged.
        SettingError: No such format, shape or mode.
    """
