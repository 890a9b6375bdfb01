"""What `make demo` ends with: one new seed beside recorded ones, and the law's own figure."""

import math
import re

import pytest

from clipa import demo
from clipa.cli import main
from clipa.law import examine
from clipa.law.joined import join, joined_report
from clipa.plan import load_plan
from clipa.records import record_id, write_records
from clipa.render.figures import NothingToDraw
from clipa.render.figures import law as drawn
from fabricated_law import FULL, PARAMETERS, RESIZED, SYNTAX, converged, law_records

SIZES = {model: math.log10(size / PARAMETERS["Ti/16"]) for model, size in PARAMETERS.items()}


def full(model: str, seed: int) -> float:
    return 80.0


def short(slope: float):
    """Drops of 8 points for the smallest model with this slope; every third seed is half a point off."""
    return lambda model, seed: (
        72.0 - slope * SIZES[model] + (seed % 3 - 1) * (0.5 if model == "S/16" else 0.3)
    )


def quarter(slope: float, seeds: tuple[int, ...]) -> list:
    records = law_records({FULL: full}, seeds=seeds, recipe="samples-quarter-pretrain")
    return records + law_records({RESIZED: short(slope)}, seeds=seeds, recipe="samples-quarter")


def recorded(slope: float) -> list:
    accuracies = {FULL: full, RESIZED: short(slope), SYNTAX[32]: full, SYNTAX[8]: short(slope)}
    return law_records(accuracies) + converged(accuracies, 0.3) + quarter(slope, (0, 1, 2))


@pytest.mark.parametrize(
    ("slope", "words"), [(-2, "as the law says"), (2, "against the law"), (0, "holds 0")]
)
def test_a_new_seed_is_joined_to_the_recorded_ones_of_its_recipe(slope, words):
    found = join(quarter(slope, (8,)), recorded(slope), "samples-quarter")
    assert (found.seed, found.recorded_seeds) == (8, 3)
    assert found.joined.lengths[0].seeds == (0, 1, 2, 8) and found.own.lengths[0].seeds == (8,)
    said = joined_report(found)
    assert f"So: {'the interval ' if slope == 0 else 'larger models'}" in said and words in said
    assert "Seed 8, trained here on 1/4 of the study's samples, beside 3 recorded seeds" in said
    assert "drop, 4 seeds" in said and "the paper's: -1.9" in said
    verdict = {-2: "reproduced", 2: "contradicted", 0: "inconclusive"}[slope]
    assert f"P1 resize 112: {verdict}" in said and f"P2 text syntax 8: {verdict}" in said
    assert re.search(r"power to find the paper's slope with 8 seeds: \d+ %", said)
    assert max(map(len, said.splitlines())) <= 100


def test_a_seed_that_is_recorded_already_is_not_counted_twice():
    found = join(quarter(-2, (1,)), recorded(-2), "samples-quarter")
    assert found.joined.lengths[0].seeds == (0, 1, 2) and found.recorded_seeds == 2


def test_without_records_the_new_seed_stands_alone():
    found = join(quarter(-2, (0,)), [], "samples-quarter")
    said = joined_report(found)
    assert found.study is None and "beside 0 recorded seeds" in said and "over test items" in said
    assert (
        "recorded runs" not in said and "fewer than 3 seeds nothing is said" in said and "holds 0" not in said
    )


def test_the_law_is_drawn_over_size_with_the_new_seed_as_crosses(tmp_path):
    found = join(quarter(-2, (8,)), recorded(-2), "samples-quarter")
    written = drawn.make_from(found.joined, tmp_path / "demo.pdf", found.own)
    assert [path.suffix for path in written] == [".pdf", ".svg", ".png"]
    above, below = drawn.draw(found.joined, found.own).axes
    crosses = [line for line in below.lines if line.get_marker() == "x"]
    assert len(crosses) == 1 and len(crosses[0].get_xdata()) == 4
    assert list(crosses[0].get_xdata()) == list(PARAMETERS.values())
    assert any("the paper's slope" in text.get_text() for text in below.texts)
    assert above.get_title() == "resize 112"
    both = drawn.draw(examine(recorded(-2)).summary)
    assert [panel.get_title() for panel in both.axes[:2]] == ["resize 112", "text syntax 8"]


def test_the_command_draws_over_size_or_over_training(tmp_path, capsys):
    write_records(tmp_path / "law.json", recorded(-2))
    for over in ("size", "training"):
        out = tmp_path / over / "law.pdf"
        assert main(["law", str(tmp_path / "law.json"), "--over", over, "--output", str(out)]) == 0
        assert {path.suffix for path in out.parent.iterdir()} == {".pdf", ".svg", ".png"}
        assert f"{out}" in capsys.readouterr().out


def test_full_lengths_alone_are_no_law_to_draw():
    with pytest.raises(NothingToDraw, match="run the experiment law"):
        drawn.draw(examine(law_records({FULL: full})).summary)


def test_the_demo_takes_the_first_seed_that_is_not_recorded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = demo.Path(__file__).resolve().parent.parent
    (tmp_path / "config").symlink_to(root / "config")
    assert demo.size_of("full").settings["seeds"] == [0]
    for seed in (0, 1):
        settings = demo.size_of("full").settings | {"seeds": [seed]}
        path = tmp_path / "results" / "recorded" / load_plan(settings).jobs()[seed].recorded_path
        path.parent.mkdir(parents=True)
        path.write_text("[]", encoding="utf-8")
    asked = demo.size_of("full")
    assert asked.settings["seeds"] == [2] and asked.targets == ("measure_law-quarter",)
    plan = load_plan(asked.settings)
    assert len(plan.jobs()) == 8 and {job.seed for job in plan.jobs()} == {2}


def test_fabricated_records_are_what_they_say():
    assert all(record["id"] == record_id(record) for record in recorded(-2))
