"""Recipes: the trees of Tables 1 to 3, 6 to 10 and 14, as the paper has them and as a small scale does."""

import shutil
from collections import Counter
from fractions import Fraction
from pathlib import Path

import pytest
import yaml

from clipa.config import ConfigError, load_scale
from clipa.plan import filling, load_plan
from clipa.recipes import STUDY_IN_THE_PAPER, chain, load_recipes
from clipa.records import published_records
from clipa.stages import Stage, measured_stages, recorded_suite_path, stages_of
from clipa.study import parse_run

PAPER, MICRO = load_scale("paper"), load_scale("micro-v1")
ROOT = Path(__file__).parents[1]
TREES = (1, 2, 3, 6, 7, 8, 9, 10, 14)
NEGCLIP = "B16-resize112-truncation16-negclip"
DATA = {"LAION-400M": "laion-400m", "LAION-2B": "laion-2b", "DataComp-1B": "datacomp-1b"}


def paper(run: str) -> list[Stage]:
    return stages_of(parse_run(run), PAPER, 0)


def own_cells(tables: tuple[int, ...] = TREES) -> list[dict]:
    """The measured cells of the authors' own models."""
    return [
        record
        for record in published_records()
        if record["table"] in tables
        and record["run"] is not None
        and record["stage"] is not None
        and record["unit"] == "percent"
        and record["value"] is not None
    ]


def test_the_study_is_the_paper_scales() -> None:
    """What recipes are relative to (§3.1, Table 5, A.2) is what the paper scale's file has."""
    for kind, numbers in STUDY_IN_THE_PAPER.items():
        schedule = getattr(PAPER, kind)
        assert (schedule.samples, schedule.batch_size, schedule.warmup_steps) == numbers


def test_counts_on_top_of_the_study() -> None:
    """11 more pre-trainings, 33 more fine-tunings and NegCLIP: 123, 140 and 1 for everything the paper trains."""
    everything = load_plan({"scale": "paper"})
    studied = load_plan({"scale": "paper", "experiments": ["table11", "table12", "table13", "table15"]})
    stages = [
        {stage.fingerprint: stage for run in plan.runs() for stage in plan.job(run, 0).stages}
        for plan in (everything, studied)
    ]
    counts = [Counter(stage.kind for stage in found.values()) for found in stages]
    assert counts[0] == {"pretrain": 123, "finetune": 140, "negclip": 1}
    assert counts[1] == {"pretrain": 112, "finetune": 107}
    more = [stages[0][mark] for mark in stages[0].keys() - stages[1].keys()]
    assert Counter((s.run.model, s.kind) for s in more) == {
        ("B/16", "pretrain"): 1,  # Table 1
        ("L/16", "pretrain"): 5,  # Table 1's two, Table 7's class token, pooling alone, colours alone
        ("H/14", "pretrain"): 4,  # Table 8's three data sources and schedules, Table 2's DataComp-1B
        ("G/14", "pretrain"): 1,
        ("B/16", "finetune"): 1,
        ("L/16", "finetune"): 10,
        ("H/14", "finetune"): 20,
        ("G/14", "finetune"): 2,
        ("B/16", "negclip"): 1,
    }


def test_every_cell_points_to_the_stage_that_fills_it() -> None:
    """And what the record says of its training is what that stage would do."""
    cells = own_cells()
    assert len(cells) > 150
    for record in cells:
        names = [name for name in filling(record) if record["stage"] in {s.kind for s in paper(name)}]
        assert names, record["id"]
        for name in names:
            assert name.startswith(f"{record['run']}"), record["id"]
            _check_factors(record, paper(name))


def _check_factors(record: dict, stages: list[Stage]) -> None:
    said, first = record["factors"], stages[0]
    tunings = [stage for stage in stages if stage.kind == "finetune"]
    assert first.run.image_size == record["image_size"] and first.text_tokens == record["text_tokens"]
    if "data_source" in said:
        assert {stage.data.name for stage in stages if stage.kind != "negclip"} == {DATA[said["data_source"]]}
    if "pretrain_samples" in said:
        assert first.schedule.samples == pytest.approx(said["pretrain_samples"], rel=1e-4)
    if "finetune_samples" in said:  # the paper writes 128M for 131,072,000
        found = [stage.schedule.samples for stage in tunings]
        assert found == pytest.approx(said["finetune_samples"], rel=0.025), record["id"]
        assert [stage.image_size for stage in tunings] == said["finetune_image_size"]
    if "finetune_batch_size" in said:
        assert tunings[-1].schedule.batch_size == said["finetune_batch_size"]
    for stage, ratio in zip(tunings, said.get("finetune_mask_ratio", []), strict=False):
        kept = stage.patches if stage.kept_patches is None else stage.kept_patches
        assert kept == int(stage.patches * (1 - ratio) + 1e-9), record["id"]
        assert ratio == 0 or stage.image_reduction == said["finetune_mask"]
    if "pooling" in said:
        pooled = first.model_config["vision_cfg"]["pool_type"]
        assert pooled == {"gap": "avg", "cls": "tok"}[said["pooling"]]
        assert bool(first.augmentation.color_jitter) == said["color_jitter"]
    if said.get("recipe") == "CLIPA":
        coloured = [stage.augmentation for stage in stages if stage.kind != "negclip"]
        assert {(one.color_jitter, one.grayscale_probability) for one in coloured} == {(0.32, 0.2)}
        assert all(stage.model_config["vision_cfg"]["pool_type"] == "avg" for stage in stages)


def test_every_stage_of_the_trees_fills_a_cell_or_leads_to_one() -> None:
    """The other way round: nothing is planned that no cell asks for."""
    plan = load_plan({"scale": "paper", "experiments": [f"table{number}" for number in TREES]})
    wanted = {name for record in own_cells() for name in filling(record)}
    assert {run.slug for run in plan.runs()} == wanted
    asked = {(name, record["stage"]) for record in own_cells() for name in filling(record)}
    for run in plan.runs():
        stages = plan.job(run, 0).stages
        assert (run.slug, stages[-1].kind) in asked, run.slug


def test_suites_have_every_benchmark_of_their_tables() -> None:
    measured = set(PAPER.evaluation.suite)
    for record in own_cells((1, 2, 3, 14, 15)):
        assert record["benchmark"] in measured, record["id"]
    for record in own_cells((6, 7, 8, 9, 10)):
        assert record["benchmark"] in PAPER.evaluation.benchmarks


def test_schedules_of_the_large_models() -> None:
    """A.2: 64k and 3,200 steps of warm-up; 32k, 4e-7 and 512M at 224 pixels; 16k, 1e-7 and 128M at 336."""
    first, second, third = paper("H14-resize84-truncation8-laion2b-12.8B-512M-128M")
    assert (first.schedule.batch_size, first.schedule.steps, first.schedule.warmup_steps) == (
        65536,
        195_312,
        3200,
    )
    assert first.peak_lr == pytest.approx(2.048e-3)
    assert (second.schedule.batch_size, second.schedule.steps, second.schedule.warmup_steps) == (
        32768,
        16_000,
        800,
    )
    assert second.base_lr == pytest.approx(4e-7) and second.kept_patches == 179
    assert (third.schedule.batch_size, third.schedule.steps, third.schedule.warmup_steps) == (
        16384,
        8000,
        1600,
    )
    assert third.base_lr == pytest.approx(1e-7) and third.image_size == 336 and third.kept_patches == 345
    assert [stage.patches for stage in (first, second, third)] == [36, 256, 576]
    assert third.parent is second and second.parent is first
    assert paper("G14-resize84-truncation8-datacomp1b-12.8B-512M")[0].sharded and not first.sharded


def test_small_batches_warm_up_for_as_many_samples() -> None:
    """Table 6: the released 3,072 steps at 8,192 and 3,571 at 7,168 are about that."""
    steps = {}
    for name in ("clipa", "clipa-batch8k", "clipa-batch7k", "clipa-batch2k"):
        schedule = paper(f"L16-resize64-truncation16-{name}")[1].schedule
        steps[schedule.batch_size] = schedule.warmup_steps
        assert schedule.samples == pytest.approx(131_072_000, rel=1e-4)
    assert steps == {32768: 800, 8192: 3200, 7168: 3657, 2048: 12_800}


def test_negclip_keeps_its_colours() -> None:
    """Its negatives exchange colour adjectives. The crops are those of vinid/neg_clip, which changes no colours."""
    tuned, negclip = paper(NEGCLIP)[-2:]
    assert (tuned.augmentation.crop_area, tuned.augmentation.color_jitter) == ((0.4, 1.0), 0.32)
    content = negclip.content["augmentation"]
    assert content["crop_area"] == (0.9, 1.0)
    assert not {"color_jitter", "grayscale_probability"} & content.keys()
    assert (content["mean"], content["std"]) == (tuned.augmentation.mean, tuned.augmentation.std)


def test_negclip_sees_cocos_images_five_times() -> None:
    """Yuksekgonul et al. (2023): five epochs, 256 rows a batch, 1e-6, 50 steps of warm-up."""
    schedule = paper(NEGCLIP)[-1].schedule
    assert 0 <= 5 * 82_783 - schedule.samples < schedule.batch_size
    assert (schedule.batch_size, schedule.steps, schedule.warmup_steps) == (256, 1616, 50)
    assert paper(NEGCLIP)[-1].peak_lr == pytest.approx(1e-6)


def test_at_micro_v1_negclip_is_what_was_recorded() -> None:
    """With the augmentation of the fine-tuning before it."""
    stages = stages_of(parse_run(NEGCLIP), MICRO, 0)
    assert stages[-1].augmentation == stages[-2].augmentation
    assert (ROOT / "results" / "recorded" / recorded_suite_path(stages)).is_file()


def test_runs_of_several_recipes_share_their_stages() -> None:
    """A pre-training shared by many fine-tunings exists once, in one folder."""
    names = [name for name in load_recipes() if name.startswith("laion2b-12.8B-") and "pretrain" not in name]
    runs = [stages_of(parse_run(f"H14-resize84-truncation8-{name}"), MICRO, 0) for name in names]
    assert len(runs) == 15 and len({stages[0].directory for stages in runs}) == 1
    assert len({stages[-1].directory for stages in runs}) == 15


def test_at_micro_v1_every_data_source_is_the_one_world() -> None:
    two = [
        stages_of(parse_run(f"H14-resize84-truncation8-{data}-2.56B-128M"), MICRO, 0)
        for data in ("laion400m", "laion2b")
    ]
    assert [stage.fingerprint for stage in two[0]] == [stage.fingerprint for stage in two[1]]
    assert two[0][0].directory == two[1][0].directory


def test_at_micro_v1_ratios_are_the_papers() -> None:
    first, second, third = stages_of(parse_run("H14-resize84-truncation8-laion2b-12.8B-512M-128M"), MICRO, 0)
    assert [stage.patches for stage in (first, second, third)] == [9, 64, 144]
    assert (second.kept_patches, third.kept_patches) == (45, 86)
    assert first.schedule.batch_size == 2 * MICRO.pretrain.batch_size
    assert first.schedule.samples == 5 * MICRO.pretrain.samples
    assert second.schedule.samples == 4 * MICRO.finetune.samples
    assert third.schedule.batch_size == 16 and third.base_lr == pytest.approx(second.base_lr / 4)
    small = stages_of(parse_run("L16-resize64-truncation16-clipa-batch7k"), MICRO, 0)[1].schedule
    assert small.batch_size == 8  # 7 is no multiple of the eight lanes
    wide = MICRO.model_copy(update={"processes": 16})
    with pytest.raises(
        ConfigError, match=r"micro-v1\.yaml: processes: 16 do not divide the batch of 8 of L16"
    ):
        stages_of(parse_run("L16-resize64-truncation16-clipa-batch7k"), wide, 0)


def test_of_two_fine_tunings_the_last_is_measured() -> None:
    stages = paper("H14-resize84-truncation8-laion2b-12.8B-512M-128M")
    assert measured_stages(stages) == [stages[0], stages[2]]


@pytest.mark.parametrize(
    ("run", "told"),
    [
        ("L16-resize64-truncation16-clippa", "there is no recipe 'clippa'"),
        (
            "S16-random49-truncation32-remove-several",
            "sets a reading of block masking, which the run does not have",
        ),
        ("ConvNeXt-T-resize64-truncation32-laion2b-12.8B-random25", "a ConvNeXt has no patches to mask"),
        ("H14-resize84-truncation8-negclip", "negclip: no schedule, or no rate in it, for H/14"),
    ],
)
def test_what_no_recipe_or_scale_can_do_is_said(run: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        stages_of(parse_run(run), MICRO, 0)


def test_pixels_must_make_whole_patches() -> None:
    with pytest.raises(ConfigError, match="64 pixels cannot be cut into patches of 14"):
        paper("H14-resize64-truncation8")


def test_colours_and_a_resident_world_do_not_go_together() -> None:
    with pytest.raises(ConfigError, match="not changed by a resident loader"):
        stages_of(parse_run("L16-resize64-truncation16-clipa"), load_scale("mini"), 0)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "a: {kind: pretrain, about: x, pooing: average}",
            r"a\.pooing: unknown key \(did you mean pooling\?\)",
        ),
        ("a: {kind: finetune, about: x, after: b}", "a.after: there is no recipe 'b' above it"),
        ("a: {kind: finetune, about: x}", "belongs to, and only to"),
        ("a b: {kind: pretrain, about: x}", "a recipe's name has letters"),
        ("a: 3", "expected keys and values, found int"),
        (
            "a: {kind: pretrain, about: x}\nb: {kind: negclip, after: a, about: x}\n"
            "c: {kind: finetune, after: b, about: x}",
            "finetune cannot follow negclip",
        ),
    ],
)
def test_a_mistake_in_the_file_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "recipes.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=told):
        chain("a", tmp_path)


def test_every_recipe_says_where_it_stands() -> None:
    for name, recipe in load_recipes().items():
        assert len(recipe.about) > 3, name
        assert chain(name)[-1].kind == recipe.kind


# ------------------------------------------------------------------------------ the law's trainings of other lengths


@pytest.mark.parametrize(
    ("recipe", "share"),
    [
        ("samples-eighth", Fraction(1, 8)),
        ("samples-quarter", Fraction(1, 4)),
        ("samples-half", Fraction(1, 2)),
        ("samples-double", Fraction(2)),
    ],
)
def test_the_law_over_training_changes_the_length_of_both_stages_alone(recipe: str, share: Fraction) -> None:
    for scale in (PAPER, MICRO):
        own = stages_of(parse_run(f"S16-resize112-truncation32-{recipe}"), scale, 0)
        usual = stages_of(parse_run("S16-resize112-truncation32"), scale, 0)
        (full,) = stages_of(parse_run(f"S16-none-truncation32-{recipe}-pretrain"), scale, 0)
        for stage, study in ((own[0], scale.pretrain), (full, scale.pretrain), (own[1], scale.finetune)):
            schedule = stage.schedule
            # Whole batches: exact at micro, a part of a batch less at the paper's scale (9765.6 steps).
            assert 0 <= study.samples * share - schedule.samples < (study.batch_size if scale is PAPER else 1)
            assert schedule.samples % schedule.batch_size == 0
            assert abs(schedule.warmup_steps - study.warmup_steps * share) <= Fraction(1, 2)
            changed = {"samples": study.samples, "warmup_steps": study.warmup_steps}
            assert schedule.model_copy(update=changed) == study
        assert own[0].base_lr == usual[0].base_lr
        assert len({stage.fingerprint for stage in (*own, *usual, full)}) == 5


def test_a_fine_tuning_of_twice_the_length_follows_the_same_pretraining() -> None:
    for scale in (PAPER, MICRO):
        own = stages_of(parse_run("S16-resize112-syntax8-finetune-double"), scale, 0)
        usual = stages_of(parse_run("S16-resize112-syntax8"), scale, 0)
        assert own[0].fingerprint == usual[0].fingerprint and own[1].fingerprint != usual[1].fingerprint
        assert own[1].schedule.samples == 2 * scale.finetune.samples
        assert own[1].schedule.warmup_steps == 2 * scale.finetune.warmup_steps


def test_the_law_over_finetuning_changes_fine_tuning_alone() -> None:
    own = stages_of(parse_run("Ti16-resize112-truncation32-finetune-tenth"), load_scale("micro"), 0)
    usual = stages_of(parse_run("Ti16-resize112-truncation32"), load_scale("micro"), 0)
    assert own[0].fingerprint == usual[0].fingerprint
    assert [stage.schedule.samples for stage in own] == [1_638_400, 163_840]
    baseline = stages_of(parse_run("Ti16-none-truncation32-baseline-finetuned"), load_scale("micro"), 0)
    assert baseline[1].schedule == usual[1].schedule and len(baseline) == 2


def test_a_scale_can_have_a_model_below_the_papers_for_the_law(tmp_path: Path) -> None:
    """With it the law has four models: full length, and three short runs that are fine-tuned, of each."""
    shutil.copytree(ROOT / "config", tmp_path / "config")
    model = {"config": MICRO.models["S/16"].config, "base_lr": {"pretrain": 1e-2, "finetune": 1e-2}}
    tiny = {"extends": MICRO.name, "models": {"Ti/16": model}}
    (tmp_path / "config" / "scales" / "tiny.yaml").write_text(yaml.safe_dump(tiny), encoding="utf-8")
    for experiment, runs in {
        "law": 16,
        "gate": 24,
        "over-training": 100,
        "over-finetuning": 16,
        "column": 20,
    }.items():
        plan = load_plan({"scale": "tiny", "experiments": [experiment], "seeds": [0]}, tmp_path)
        assert plan.runs()[0].model == "Ti/16" and len(plan.runs()) == runs, experiment
    both = load_plan({"scale": "tiny", "experiments": ["law"], "seeds": list(range(8))}, tmp_path)
    assert Counter(stage.kind for stage in both.stages.values()) == {"pretrain": 16 * 8, "finetune": 12 * 8}
