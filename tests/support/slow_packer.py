"""The slow, obvious twins of packing: bins by search, rows by the framing of scoring, and packed files read back."""

from bisect import bisect_left, insort
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import polars as pl
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from pyllm.data.examples import Example
from pyllm.data.tokens import MASKED

ODD_TEXTS = (
    "Plain words, and more of them.",
    "It's I'LL they'Ve 12345 3.14  two  spaces\t\ttabs\n\n\nlines \r\n",
    "naïve cafe\u0301 ﬁ Å ＡＢＣ ß İ ſ \u212a",  # noqa: RUF001  (look-alikes are the point)
    "日本語、漢字。中文，标点！한국어 Привет עברית हिन्दी",  # noqa: RUF001
    "😀 👩‍👩‍👧‍👦 🇩🇪 ✊🏽 \u200b\ufeff\u00a0\u2028\u3000x\u0085\x1c\x00\x7f\ufffd",
    "</s><s> <|im_start|>user <|im_end|>[MASK]",
    "def f(x):\n\treturn {'a': [1, 2.5]}  # ==>!=",
    "a" * 90 + " " * 30 + "!" * 40,
)


def best_fit_decreasing(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Longest first, each into the fullest bin that takes it; of bins equally full, the one filled last."""
    bins: list[list[int]] = []
    free: list[int] = []
    filled: list[int] = []
    order = sorted(range(len(lengths)), key=lambda sequence: -lengths[sequence])
    for turn, sequence in enumerate(order):
        fits = [place for place in range(len(bins)) if free[place] >= lengths[sequence]]
        if fits:
            place = min(fits, key=lambda place: (free[place], -filled[place]))
        else:
            place = len(bins)
            bins.append([])
            free.append(capacity)
            filled.append(turn)
        bins[place].append(sequence)
        free[place] -= lengths[sequence]
        filled[place] = turn
    return bins


def number_of_bins(lengths: Sequence[int], capacity: int) -> int:
    """Bins of best-fit decreasing, by a sorted list of what is free: for many sequences."""
    free: list[int] = []
    bins = 0
    for length in sorted(lengths, reverse=True):
        place = bisect_left(free, length)
        if place == len(free):
            bins += 1
            rest = capacity - length
        else:
            rest = free.pop(place) - length
        insort(free, rest)
    return bins


def online_best_fit(lengths: Sequence[int], capacity: int, open_bins: int) -> list[list[int]]:
    """As they come, each into the fullest open bin that takes it; the fullest is closed to make room."""
    done: list[list[int]] = []
    still_open: list[tuple[int, int, list[int]]] = []  # free tokens, minus the turn it was filled in, sequences
    for turn, (sequence, length) in enumerate(zip(range(len(lengths)), lengths, strict=True)):
        fits = [each for each in still_open if each[0] >= length]
        if fits:
            chosen = min(fits, key=lambda each: each[:2])
            still_open.remove(chosen)
        else:
            if len(still_open) == open_bins:
                fullest = min(still_open, key=lambda each: each[:2])
                still_open.remove(fullest)
                done.append(fullest[2])
            chosen = (capacity, 0, [])
        chosen[2].append(sequence)
        if chosen[0] == length:
            done.append(chosen[2])
        else:
            still_open.append((chosen[0] - length, -turn, chosen[2]))
    return done + [each[2] for each in sorted(still_open, key=lambda each: each[:2])]


def bins_of(packing: Any) -> list[list[int]]:
    """The bins of a packing as lists."""
    offsets, sequences = packing.offsets.tolist(), packing.sequences.tolist()
    return [sequences[start:end] for start, end in pairwise(offsets)]


def packed_rows(folder: Path) -> list[tuple[str, list[int], list[int]]]:
    """Row id, token ids and labels of each example in the packed files, in their order."""
    found = []
    for path in sorted(folder.glob("part-*.parquet")):
        for row in pl.read_parquet(path).iter_rows(named=True):
            assert sum(row["seq_lengths"]) == len(row["input_ids"]) == len(row["labels"])
            assert len(row["seq_lengths"]) == len(row["row_ids"])
            start = 0
            for length, name in zip(row["seq_lengths"], row["row_ids"], strict=True):
                end = start + length
                found.append((name, row["input_ids"][start:end], row["labels"][start:end]))
                start = end
    return found


def expected_row(ids: Sequence[int], trained: Sequence[tuple[int, int]], length: int) -> tuple[list[int], list[int]]:
    """What becomes of a tokenized row: cut, and a label for each token."""
    labels = [MASKED] * len(ids)
    for first, end in trained:
        for place in range(max(first, 1), end):
            labels[place] = ids[place]
    return list(ids[:length]), labels[:length]


def texts_of(examples: Sequence[Example]) -> list[str]:
    """Something to train a tokenizer on."""
    return [f"{each.instruction}\n{each.input}\n{each.output}" for each in examples]


def byte_level_bpe(texts: Sequence[str], vocabulary: int = 600) -> Tokenizer:
    """A tokenizer as Llama 3's: byte-level BPE behind a pattern."""
    pattern = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
        r"|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    from tokenizers import Regex

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<s>", "</s>", "<|im_start|>", "<|im_end|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def gpt2_bpe(texts: Sequence[str]) -> Tokenizer:
    """A tokenizer as GPT-2's, with one token for the end."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def unigram(texts: Sequence[str]) -> Tokenizer:
    """A tokenizer as T5's: pieces with scores, on normalised text."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def word_piece(texts: Sequence[str]) -> Tokenizer:
    """A tokenizer as BERT's, which folds case and accents and puts tokens around a text."""
    from tokenizers import processors

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=400, special_tokens=["[UNK]", "[CLS]", "[SEP]", "[MASK]"], show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    return tokenizer


TOKENIZERS = {"byte_level": byte_level_bpe, "gpt2": gpt2_bpe, "unigram": unigram, "word_piece": word_piece}
