"""Names and identities of runs and stages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clipa.cli.planning import cost_of, report
from clipa.config import ConfigError, Scale, load_scale
from clipa.plan import load_plan
from clipa.records import published_records
from clipa.resolved import fingerprint
from clipa.stages import recorded_path, stages_of
from clipa.study import MODELS, Run, parse_run

RESIZE64 = "L16-resize64-truncation32"
STUDIED = ["table11", "table12", "table13", "table15"]  # §3 and §4; tests/test_recipes.py has the rest


def scale(**changes: object) -> Scale:
    values = load_scale("micro-v1").model_dump()
    for path, value in changes.items():
        *parents, key = path.split("__")
        inner = values
        for parent in parents:
            inner = inner[parent]
        inner[key] = value
    return Scale.model_validate(values)


def identities(run: str = RESIZE64, seed: int = 0, **changes: object) -> list[str]:
    return [stage.fingerprint for stage in stages_of(parse_run(run), scale(**changes), seed)]


@given(
    st.sampled_from(MODELS),
    st.one_of(
        st.just(("none", 224, None)),
        st.sampled_from([("resize", size, None) for size in (160, 112, 96, 84, 70, 64)]),
        st.sampled_from(
            [(mask, 224, kept) for mask in ("random", "grid", "block") for kept in (98, 49, 36, 16)]
        ),
    ),
    st.sampled_from(["truncation", "random", "block", "syntax"]),
    st.sampled_from([32, 16, 8, 6, 4]),
)
def test_a_slug_names_one_run(model: str, image: tuple, text: str, tokens: int) -> None:
    run = Run(model, *image, text, tokens)
    assert parse_run(run.slug) == run


def test_patches_are_the_papers() -> None:
    counts = [Run("L/16", "resize", size).patches for size in (160, 112, 96, 64)]
    assert counts == [100, 49, 36, 16]
    assert Run("L/16").patches == 196 and Run("H/14", "resize", 84).patches == 36
    assert Run("S/16", "random", 224, 16).patches == 16
    assert Run("ConvNeXt-T", "resize", 112).patches is None


@pytest.mark.parametrize(
    "slug", ["L16", "16-none-truncation32", "L16-shrink64-truncation32", "L16-none-words32"]
)
def test_a_wrong_slug_is_answered_with_an_example(slug: str) -> None:
    with pytest.raises(ValueError, match="as in L16-resize64-truncation32"):
        parse_run(slug)


def test_the_baseline_has_one_stage() -> None:
    def kinds(run: Run) -> list[str]:
        return [stage.kind for stage in stages_of(run, scale(), 0)]

    assert kinds(Run("S/16")) == ["pretrain"]
    assert kinds(Run("S/16", recipe="baseline-finetuned")) == ["pretrain", "finetune"]
    assert kinds(Run("S/16", text_tokens=16)) == ["pretrain", "finetune"]
    assert kinds(Run("S/16", "resize", 112)) == ["pretrain", "finetune"]


@pytest.mark.parametrize(
    "change",
    [
        {"pretrain__samples": 102400},
        {"pretrain__base_lr": dict.fromkeys(scale().models, 1.0)},
        {"pretrain__weight_decay": 0.1},
        {"precision": "bf16"},
        {"threads": 2},
        {"augmentation__crop_area": (0.4, 1.0)},
        {"data__world__world_seed": 1},
        {"data__lanes": 4},
        {"vocabulary_size": 500},
        {"models__L/16__config": "micro-v1-B16"},
    ],
)
def test_what_changes_the_weights_changes_both_fingerprints(change: dict) -> None:
    before, after = identities(), identities(**change)
    assert before[0] != after[0] and before[1] != after[1]


def test_a_model_can_have_its_own_number_of_samples_and_recipes_change_it_alike() -> None:
    values = load_scale("micro-v1").model_dump()
    values["models"]["S/16"]["samples"] = {"pretrain": 25600}
    own = Scale.model_validate(values)
    for recipe, samples in (("", 25600), ("-samples-double", 51200)):
        stages = stages_of(parse_run(f"S16-resize112-truncation32{recipe}"), own, 0)
        assert stages[0].schedule.samples == stages[0].content["schedule"]["samples"] == samples
        assert stages[1].schedule.samples == own.finetune.samples * (2 if recipe else 1)
    assert stages_of(parse_run("L16-none-truncation32"), own, 0)[0].schedule == own.pretrain
    values["models"]["S/16"]["samples"] = {"pretrain": 25601}
    with pytest.raises(ValueError, match=r"models\.S/16\.samples\.pretrain: samples 25601 is not a multiple"):
        Scale.model_validate(values)


def test_a_class_token_takes_the_place_of_average_pooling() -> None:
    usual, own = (
        stages_of(parse_run(f"S16-none-truncation32{recipe}"), load_scale("micro"), 0)[0].model_config[
            "vision_cfg"
        ]
        for recipe in ("", "-class-token-pretrain")
    )
    assert (usual["pool_type"], usual["final_ln_after_pool"]) == ("avg", True)
    assert own == {
        **{name: value for name, value in usual.items() if name != "final_ln_after_pool"},
        "pool_type": "tok",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"data__workers": 4},
        {"log_every": 1},
        {"checkpoint_every": 7},
        {"about": "other"},
        {"experiments": ["ci"]},
    ],
)
def test_what_does_not_change_the_weights_changes_nothing(change: dict) -> None:
    assert identities() == identities(**change)


def test_several_processes_are_one_identity_however_many_and_wherever() -> None:
    """Another number changes the order of sums, and one process's identity is that of recorded results."""
    two = identities(processes=2)
    assert two == identities(processes=16, resources__nodes=2) and two != identities()
    sharded = identities(processes=2, sharded=True)
    assert sharded == identities(processes=8, sharded=True, resources__nodes=4) and sharded != two


def test_fine_tuning_settings_leave_the_pre_training_alone() -> None:
    before, after = identities(), identities(finetune__samples=12800)
    assert before[0] == after[0] and before[1] != after[1]
    # Another model's learning rate is not this one's.
    rates = {**scale().pretrain.base_lr, "S/16": 1.0}
    assert identities() == identities(pretrain__base_lr=rates)


def test_seeds_and_runs_differ() -> None:
    everything = [identities(run, seed) for run in (RESIZE64, "S16-resize64-truncation32") for seed in (0, 1)]
    assert len({mark for marks in everything for mark in marks}) == 8


def test_fingerprints_ignore_the_order_of_keys() -> None:
    assert fingerprint({"a": 1, "b": [2]}) == fingerprint({"b": [2], "a": 1})
    assert fingerprint({"a": 1}) != fingerprint({"a": 1.5})


def test_a_run_named_twice_exists_once() -> None:
    plan = load_plan({"scale": "micro-v1", "experiments": ["demo", "ci", "table11"]})
    assert len(plan.runs()) == 45 == len(set(plan.runs()))
    assert [run.slug for run in plan.runs()][:3] == [
        "S16-none-truncation32",
        "S16-resize160-truncation32",
        "S16-block98-truncation32",
    ]


def test_a_scale_leaves_out_the_sizes_it_names_and_says_so() -> None:
    """Nothing stands for 36 of 196 patches at micro: Table 11 is planned without 96 pixels."""
    plan = load_plan({"scale": "micro", "experiments": ["table11"]})
    assert [run.slug for run in plan.left_out] == [
        f"{name}-resize96-truncation32" for name in ("S16", "B16", "L16")
    ]
    assert len(plan.runs()) == 45 - 3 and not any(run.image_size == 96 for run in plan.runs())
    costs = cost_of(plan, "table11", None, {})
    assert costs["runs_left_out"] == [run.slug for run in plan.left_out]
    assert "3 runs of the experiments" in report(costs) and "L16-resize96-truncation32" in report(costs)
    assert not load_plan({"scale": "paper", "experiments": ["table11"]}).left_out


def test_the_grid_of_tables_11_to_13() -> None:
    """Tables 11 to 15 and Figures 4 to 7, 9 and 10 are 112 pre-trainings and 107 fine-tunings, and no more."""
    plan = load_plan({"scale": "paper", "experiments": STUDIED})
    stages = [stage for run in plan.runs() for stage in plan.job(run, 0).stages]
    assert [sum(stage.kind == kind for stage in stages) for kind in ("pretrain", "finetune")] == [112, 107]
    assert len({stage.fingerprint for stage in stages}) == 219
    assert [len(plan.runs(f"table{number}")) for number in (11, 12, 13)] == [45, 60, 20]


def test_every_published_cell_of_tables_11_to_13_and_15_is_a_stage_of_the_grid() -> None:
    """And the other way round: no stage of the grid is without a cell."""
    plan = load_plan({"scale": "paper", "experiments": STUDIED})
    planned = {(run.slug, stage.kind) for run in plan.runs() for stage in plan.job(run, 0).stages}
    cells = {
        (record["run"], record["stage"])
        for record in published_records()
        if record["table"] in (11, 12, 13, 15) and record["value"] is not None
    }
    assert cells == planned


def test_jitter_is_part_of_a_stages_identity_where_it_is_used() -> None:
    ours = scale().models["ConvNeXt-T"].augmentation.model_dump()
    plain = ours | {"color_jitter": 0.0, "grayscale_probability": 0.0}
    slug = "ConvNeXt-T-resize64-truncation32"
    models = {name: model.model_dump() for name, model in scale().models.items()}
    without = models | {"ConvNeXt-T": models["ConvNeXt-T"] | {"augmentation": plain}}
    assert identities(slug) != identities(slug, models=without)
    assert "color_jitter" not in stages_of(parse_run(RESIZE64), scale(), 0)[0].content["augmentation"]


def test_the_paper_scale_is_the_papers() -> None:
    """§3.1, Tables 1 and 5, A.2: 78,125 and 4,000 steps; base rates times batch / 256."""
    stages = stages_of(parse_run(RESIZE64), load_scale("paper"), 0)
    assert [stage.schedule.steps for stage in stages] == [78_125, 4_000]
    assert [stage.peak_lr for stage in stages] == pytest.approx([1.024e-3, 5.12e-5])
    assert [stage.image_size for stage in stages] == [64, 224]
    assert stages[0].model_config["vision_cfg"]["width"] == 1024


def test_what_a_scale_does_not_have_is_named() -> None:
    with pytest.raises(ConfigError, match=r"mini\.yaml: models: H/14 is not built"):
        stages_of(Run("H/14"), load_scale("mini"), 0)
    with pytest.raises(ConfigError, match="a ConvNeXt has no patches to mask"):
        stages_of(Run("ConvNeXt-T", "random", 224, 49), scale(), 0)
    with pytest.raises(ConfigError, match="no entry for 70 pixels"):
        stages_of(Run("L/16", "resize", 70), scale(), 0)


def test_records_are_kept_by_the_last_stages_fingerprint() -> None:
    stages = stages_of(parse_run(RESIZE64), scale(), 3)
    assert recorded_path(stages).as_posix() == f"micro-v1/{RESIZE64}/seed3-{stages[-1].fingerprint}.json"
