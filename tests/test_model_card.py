"""Model cards say what records and configuration say, and the hub's own reader takes them."""

import math
import re

import pytest
from huggingface_hub import ModelCard

from clipa.config import load_scale
from clipa.export import export
from clipa.model_card import Weights, card, of_stages, recorded_cards
from clipa.published.measured import recorded
from clipa.records import run_name
from clipa.sources import Data
from clipa.stages import stages_of
from clipa.study import parse_run
from small_world import CONFIG, draw_small_world, finish_untrained, small_scale

RUN = "L16-resize112-truncation4"


@pytest.fixture(scope="module")
def cards():
    return recorded_cards("micro-v1")


def test_every_recorded_run_has_a_card_with_its_numbers_and_seeds(cards):
    records = recorded("micro-v1")
    assert set(cards) == {run_name(record) for record in records}
    for record in records:
        text = cards[run_name(record)]
        (line,) = [one for one in text.splitlines() if f"`{record['id'].rpartition('.seed')[0]}`" in one]
        said = dict(re.findall(r"(\d+): ([\d.]+)", line.rsplit("|", 2)[1]))
        assert math.isclose(float(said[str(record["seed"])]), record["value"], abs_tol=0.0051)
        assert record["dataset"]["name"] in line and f"{record['actual']['samples']:,}" in text


def test_the_hubs_reader_finds_licence_and_results(cards):
    for name, text in cards.items():
        read = ModelCard(text)
        assert read.data.license == "mit" and read.data.library_name == "open_clip"
        found = {result.metric_name: result for result in read.data.eval_results}
        rows = re.findall(r"(?m)^\| `(\S+)` +\| (\S+) .*?\| ([\d.]+) ± ", text)
        assert rows and {row[0] for row in rows} == set(found), name
        for identity, dataset, mean in rows:
            assert (found[identity].dataset_name, found[identity].metric_value) == (dataset, float(mean))
            assert ("retrieval" in identity) == ("retrieval" in found[identity].task_type)


def test_a_card_never_takes_a_small_scale_for_the_paper(cards):
    for text in cards.values():
        assert "not its authors' model" in text and "not comparable with the paper's" in text
        assert "imagenet1k" not in re.sub(r"\S*micro-v1\.\S+", "", text)


def test_records_of_another_configuration_are_not_on_a_card():
    scale = load_scale("micro-v1", CONFIG)
    stages = stages_of(parse_run(RUN), scale, seed=0)
    records = [record for record in recorded("micro-v1") if run_name(record) == RUN]
    assert of_stages(records, stages) == records
    assert {one["stage"] for one in of_stages(records, stages[:1])} == {"pretrain"}
    changed = [record | {"stage_fingerprint": "0" * 12} for record in records]
    assert of_stages(changed, stages) == []


def test_own_data_gets_no_licence_that_nobody_gave():
    scale = load_scale("micro-v1", CONFIG)
    own = Data(kind="local", name="photos", files="/nowhere", shards=8)
    stages = stages_of(parse_run(RUN), scale.model_copy(update={"data": own}), seed=0)
    text = card(stages, [], Weights("0" * 64, 1, "0" * 40, False))
    assert ModelCard(text).data.license is None and "MIT," not in text
    assert "None is stated" in text and "`clipa evaluate` measures them" in text


def test_the_card_beside_exported_weights_has_accepted_numbers_of_every_seed(tmp_path, monkeypatch):
    """An untrained stand-in of the few-picture world: its own records are none, so the card says so."""
    scale = small_scale()
    project = draw_small_world(scale, tmp_path, ())
    stages = stages_of(parse_run(RUN), scale, seed=1)
    for stage in stages:
        finish_untrained(stage, project)
    text = (export(stages, project, tmp_path / "out") / "README.md").read_text(encoding="utf-8")
    assert "finetune, scale micro-v1, seed 1" in text and "sha256 of the weights" in text
    assert "None was measured yet" in text and "Weights are not kept" not in text
    # With the accepted configuration the same text has the accepted numbers.
    real = stages_of(parse_run("L16-none-truncation32"), load_scale("micro-v1", CONFIG), seed=1)
    found = of_stages([one for one in recorded("micro-v1") if run_name(one) == "L16-none-truncation32"], real)
    assert re.search(r"\(3 seeds\) +\| 0: [\d.]+, 1: [\d.]+, 2: [\d.]+", card(real, found))
