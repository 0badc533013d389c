"""Long text and attention against plain forward passes; reports of known numbers; the page."""

import re

import numpy as np
import pytest
import torch

from pyllm.errors import PrerequisiteError
from pyllm.stream.bench.arms import Arm
from pyllm.stream.bench.attention import attention_table, looked_at, measure_attention, quarters_of, watch_sentence
from pyllm.stream.bench.page import Curve, Dot, Plot, dot_plot, line_plot, measure_plot, nice_ticks, page
from pyllm.stream.bench.perplexity import BLOCK_TOKENS, best_arms, measure_perplexity, read_through
from pyllm.stream.bench.report import Measure, Table, arm_rows, arm_table
from pyllm.stream.cache import BoundedCache
from pyllm.stream.dialogue import Dialogue
from tests.support.stream_models import streaming
from tests.support.tiny_models import VOCABULARY

IDS = np.random.default_rng(0).integers(3, VOCABULARY, 200).tolist()


@pytest.fixture(scope="module")
def model():
    return streaming()


@torch.inference_mode()
def plain_nats(model, ids):
    logits = model.model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -logits[:-1].gather(1, torch.tensor(ids)[1:, None])[:, 0].numpy()


@pytest.mark.parametrize("protocol", ["turn", "token"])
def test_the_full_cache_against_a_plain_forward_pass(model, protocol):
    found = read_through(model, IDS, Arm("full", None), protocol, turn_tokens=17)
    assert found["tokens"] == len(IDS) - 1
    assert found["nats"] == pytest.approx(plain_nats(model, IDS).sum(), rel=1e-5)
    assert (found["cache_tokens"], found["evictions"]) == (len(IDS), 0)


@pytest.mark.parametrize("score", ["surprisal", "as-published"])
def test_a_window_token_by_token_against_forward_passes_over_the_window(model, score):
    """Whatever tokens are worth to the arm, the nats are those of the text."""
    arm = Arm("window", 20, score=score)
    found = read_through(model, IDS[:60], arm, "token", turn_tokens=8)
    # Room for a token is made before it is read, so it sees the 19 before it; what stands there was read behind more.
    assert found["cache_tokens"] == 20
    assert found["tokens"] == 59
    other = Dialogue(model, Arm("window", 20).settings)
    other.begin_turn()
    nats = [float(other.feed([token])[0]) for token in IDS[:60]][1:]
    assert found["nats"] == pytest.approx(sum(nats), rel=1e-6)


def test_memory_is_flat_or_the_run_ends(model, monkeypatch):
    arm = Arm("sirllm", 40, recent=8, decay="auto", horizon_turns=2)
    found = read_through(model, IDS, arm, "turn", turn_tokens=16)
    assert found["cache_tokens"] <= 40
    assert found["evictions"] > 5
    assert 0 < found["ratio"] <= 1
    assert 0 <= found["beyond_horizon"] <= 1
    assert found["peak_bytes"] >= found["process_bytes"] > found["cache_bytes"] > 0
    leaking = iter(range(1000, 10**6, 100))
    monkeypatch.setattr(BoundedCache, "bytes_held", lambda _: next(leaking))
    with pytest.raises(RuntimeError, match=r"a cache grew from 1,\d00 to 1,\d00 bytes under `sirllm"):
        read_through(model, IDS, arm, "turn", turn_tokens=16)


def test_parts_of_a_text_and_what_stands_beside(model, tmp_path):
    ids = (IDS * 6)[: 2 * BLOCK_TOKENS + 101]
    arms = [Arm("streaming", 30), Arm("sirllm", 30, recent=4)]
    table, (turn,) = measure_perplexity(
        model, ids, arms, ("turn",), tmp_path / "lines.jsonl", key={}, turn_tokens=64, segments=2
    )
    blocks = table["block_nats"][0].to_list()
    row = turn["arms"][0]
    assert len(blocks) == 3
    assert row["nats"] == pytest.approx(sum(blocks) / 1100)
    # Blocks are shared out whole: the first part has two of three.
    assert row["nats_1"] == pytest.approx(sum(blocks[:2]) / 1000)
    assert row["nats_2"] == pytest.approx(blocks[2] / 100)
    assert row["compared_with"] == "streaming cache 30"
    assert row["curve"][-1] == [1100.0, pytest.approx(blocks[2] / 100)]
    assert turn["memory_flat"] is True
    assert turn["arms"][1]["differences"]["nats"]["difference"] == pytest.approx(turn["arms"][1]["nats"] - row["nats"])
    assert best_arms([*turn["arms"], {**row, "nats": 0.0}])[0]["nats"] == 0.0
    # One token at a time, each makes room for itself.
    lines = tmp_path / "other.jsonl"
    _, (turn, token) = measure_perplexity(model, ids[:80], arms[:1], ("turn", "token"), lines, key={}, turn_tokens=20)
    assert (turn["arms"][0]["evictions"], token["arms"][0]["evictions"]) == (3, 50)


def test_attention_against_a_loop(model, tmp_path):
    ids = IDS[:14]
    table, report = measure_attention(model, [ids, IDS[20:34]], tmp_path / "lines.jsonl", key={})
    weights = model.model(input_ids=torch.tensor([ids]), output_attentions=True).attentions[1][0].detach().mean(0)
    nats = plain_nats(model, ids)[:-1]
    order = sorted(range(12), key=lambda place: nats[place])
    for quarter in range(4):
        places = [1 + place for rank, place in enumerate(order) if rank * 4 // 12 == quarter]
        plain = [np.mean([float(weights[query, key]) for query in range(key + 1, 14)]) for key in places]
        even = [np.mean([float(weights[query, key]) * (query + 1) for query in range(key + 1, 14)]) for key in places]
        row = table.filter(sentence=0, layer=1, quarter=quarter).to_dicts()[0]
        assert row["tokens"] == 3
        assert row["weight"] == pytest.approx(np.mean(plain), rel=1e-4)
        assert row["share"] == pytest.approx(np.mean(even), rel=1e-4)
    assert report["sentences"] == 2
    assert [row["layer"] for row in report["layers"]] == [0, 1, "all"]
    mean = table.filter(layer=0, quarter=3)["weight"].mean()
    assert report["layers"][0]["weight"][3] == pytest.approx(mean)
    assert len(attention_table(report).columns) == 11
    assert len(attention_table(report, brief=True).rows[0]) == 6


def test_looking_everywhere_alike_is_a_share_of_one():
    even = np.tril(np.ones((6, 6))) / np.arange(1, 7)[:, None]
    np.testing.assert_allclose(looked_at(even)[1][:-1], 1.0)
    assert quarters_of(np.array([5.0, 1.0, 1.0, 9.0])).tolist() == [2, 0, 1, 3]


def test_a_model_that_hides_its_attention(model, monkeypatch):
    class Output:
        attentions = (None,)

    monkeypatch.setattr(type(model.model), "forward", lambda *_, **__: Output)
    with pytest.raises(PrerequisiteError, match="model `llama` does not give its attention weights"):
        watch_sentence(model, IDS[:8])


def test_rows_and_table_of_known_numbers():
    measure = Measure("accuracy", "right %", "right", "questions", percent=True)
    none = Measure("recall", "recall %", "recalled", "recalls", percent=True)
    sizes = np.array([4.0, 4.0, 2.0])
    samples = {
        name: {"right": np.array(right), "questions": sizes, "recalled": np.zeros(3), "recalls": np.zeros(3)}
        for name, right in {"a": [1.0, 2.0, 1.0], "b": [2.0, 3.0, 1.5]}.items()
    }
    rows = arm_rows([{"arm": "a"}, {"arm": "b"}], samples, [measure, none], {"a": "a", "b": "a"}, seed=0)
    assert [row["accuracy"] for row in rows] == [0.4, 0.65]
    assert rows[0]["differences"] == {}
    apart = rows[1]["differences"]["accuracy"]
    # Every dialogue gains a quarter of its questions, and so does every draw of them.
    assert (apart["difference"], apart["low"], apart["high"], apart["is_shown"]) == (
        pytest.approx(0.25), pytest.approx(0.25), pytest.approx(0.25), True,
    )  # fmt: skip
    assert rows[0]["recall"] is None
    whole = arm_table("t", rows, [{"arm": "chance", "accuracy": 0.25}], [measure, none])
    assert [title for title, _ in whole.columns] == ["arm", "right %", "difference"]
    assert whole.rows[1][2] == "+25.0 (+25.0..+25.0)"
    assert whole.rows[2] == ("chance", "25.0", "-")
    brief = arm_table("t", rows, [], [measure, none], brief=True)
    assert brief.rows[1][1].startswith("65.0 (")
    assert brief.rows[1][1].endswith(") +")
    assert measure_plot("p", rows, [], none) is None
    assert measure_plot("p", rows, [], measure).svg.count("<circle") == 2


def test_the_page_is_one_file():
    table = Table("A <b> table", (("arm", "word"), ("n", "number")), (("x & y", "1"),))
    curves = [Curve(f"c{number}", ((0.0, 1.0 + number), (10.0, 2.0))) for number in range(10)]
    plots = [Plot("lines", line_plot(curves, across="tokens", up="nats")), Plot("dots", dot_plot([Dot("one", 1.0)]))]
    text = page("T", {"model": "<m>"}, [table], plots, partial="only a part")
    assert "A &lt;b&gt; table" in text
    assert '<td class="word">x &amp; y</td>' in text
    assert "only a part" in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"https?:|src=|@import|url\(|<script", text)
    assert text.count("<polyline") == 10
    # Every drawn point is within the drawing.
    for x, y in re.findall(r"([\d.]+),([\d.]+)[ \"]", text):
        assert 0 <= float(x) <= 760
        assert 0 <= float(y) <= 260


@pytest.mark.parametrize(
    "ends", [(0.0, 1.0), (24.23, 27.1), (5.0, 5.0), (0.0, 0.0), (-3e-5, 2e-5), (1e4, 2.1e4), (0.3, 0.1 + 0.2)]
)
def test_ticks_reach_around(ends):
    ticks = nice_ticks(*ends)
    assert 2 <= len(ticks) <= 9
    assert ticks[0] <= ends[0]
    assert ticks[-1] >= ends[1]
    assert ticks == sorted(set(ticks))
