"""Input functions of the rules: the files that a stage, an evaluation or a figure reads, from the plan (clipa.plan)."""

from clipa.cost import stage_macs
from clipa.launch import job_resources
from clipa.plan import takes_suite
from clipa.study import TEXT_REDUCTIONS

# Targets that are neither a figure nor a table of the paper, and are drawn: the verb that draws each. Of own data, all are.
DRAWN = dict.fromkeys(MEASURED_BESIDES, "drop") if SCALE.data.kind == "local" else {}
DRAWN |= {"law": "law", "over-training": "law --over training"}
LONGEST = max(map(stage_macs, PLAN.stages.values()))
TRAINING_RESOURCES = job_resources(SCALE.resources)
DRAWING_RESOURCES = {"mem_mb": 1000, "runtime": 10}
EVALUATION_RESOURCES = {
    "mem_mb": 3000 if SCALE.device == "cpu" else 32000,
    "runtime": 60,
    **({"gpu": 1} if SCALE.resources.gpus else {}),
}
# Where a job is a whole run, it trains what is missing before it evaluates.
if SCALE.one_process:
    EVALUATION_RESOURCES = TRAINING_RESOURCES


def stage(wildcards):
    """The stage with the folder's fingerprint; one line of error when the configuration does not ask for it."""
    try:
        return PLAN.stage(wildcards.fingerprint)
    except KeyError as error:
        sys.exit(f"{RUNS}/{wildcards.scale}/{wildcards.run}: {error.args[0]}")


def stages_of_run(wildcards):
    """The stages of a run; one line of error when the configuration does not ask for the run."""
    try:
        return PLAN.asked(wildcards.run, int(wildcards.seed)).stages
    except (KeyError, ValueError) as error:
        sys.exit(f"{RUNS}/{wildcards.scale}/{wildcards.run}: {error.args[0]}")


def to_evaluate(wildcards):
    """The outputs of all stages of a run; where a job is a whole run, the data that they are trained on."""
    stages = stages_of_run(wildcards)
    if SCALE.one_process:
        return sorted({file for one in stages for file in data_of_stage(one)})
    return [str(PLAN.stage_file(one)) for one in stages]


def parent_stage(wildcards):
    """The output of the stage that this one starts from; nothing for a pre-training."""
    parent = stage(wildcards).parent
    return [str(PLAN.stage_file(parent))] if parent else []


def resolved_stage(wildcards):
    """The file that training starts from: written when Snakemake starts (workflow/Snakefile, onstart)."""
    return str(PLAN.stage_file(stage(wildcards)).with_name("stage.resolved.json"))


def training_data(wildcards):
    """As data_of_stage, of the stage with the folder's fingerprint."""
    return data_of_stage(stage(wildcards))


def data_of_stage(one):
    """Shards and vocabulary; parts of speech where the run masks by syntax (§3.3)."""
    place = PLAN.data_of(one.data)
    needed = [place / one.training_set / "manifest.json"]
    if TEXT_REDUCTIONS[one.text_reduction].tags:
        needed.append(place / "train" / "annotation.json")
    # Not ancient(): with it, a vocabulary that is to be made again hides every training behind it from the plan. Data
    # made again with the same bytes trains nothing again (Snakemake compares checksums of small files).
    return [f"{DATA}/vocabulary/vocabulary.json", *map(str, needed)]


def asked_of_data(wildcards):
    """Options of a command that makes training data: the scale, the directories, and the data source."""
    name = SOURCE_NAMES.get(wildcards.data)
    return ASKED if name is None else f"{ASKED} --source {name}"


def longest_first(wildcards):
    """Priority of a stage, 1 … 51. Long stages start first, so that none of them is left to run alone at the end."""
    return 1 + int(50 * stage_macs(stage(wildcards)) / LONGEST)


def longest_run_first(wildcards):
    """Likewise, of a job that is a whole run; others wait for their stages anyway."""
    return 1 + int(50 * max(map(stage_macs, stages_of_run(wildcards))) / LONGEST) if SCALE.one_process else 0


def test_sets(names):
    """Manifests of the test sets that stand for the paper's benchmarks at this scale."""
    sets = {name.partition("/")[0] for name in names.values()}  # order/relation: items of the set `order`
    return sorted(f"{DATA}/test/{name}/manifest.json" for name in sets)


def published(wildcards):
    """The published files that a figure or table is made from, and no others."""
    name = wildcards.get("figure") or wildcards.table
    sources = FIGURE_SOURCES if name.startswith("figure") else TABLE_SOURCES
    number = int(name.removeprefix("figure").removeprefix("table"))
    if number not in sources:
        sys.exit(f"{name}: the paper has Figures 1 to 10 and Tables 1 to 15")
    return [str(PUBLISHED_DIRECTORY / file) for file in sources[number]]


def measured(wildcards):
    """Records behind a measured figure or table: accepted ones, else those of runs, which Snakemake then plans."""
    if wildcards.scale == RELEASED_SCALE:
        return released_records(wildcards.table)
    return records_behind(wildcards.get("figure") or wildcards.table)


def records_behind(target):
    """The records of every job behind a target."""
    return [str(job.records) for job in PLAN.jobs(target)]


def own_records(wildcards):
    """The records behind a target with a name of its own."""
    return records_behind(wildcards.own)


def released_table(name):
    """What of a table released checkpoints fill; one line of error where none do."""
    if name not in PLAN.released:
        tables = ", ".join(PLAN.released) or "none without --config released=true"
        sys.exit(f"{name}: released checkpoints fill {tables} at scale {SCALE.name}")
    return PLAN.released[name]


def released_records(name):
    """The records of every released checkpoint in a table."""
    return [str(PLAN.released_file(name, row)) for row in released_table(name).rows]


def released_test_sets(wildcards):
    """Manifests of the test sets of a table's benchmarks."""
    benchmarks = released_table(wildcards.table).benchmarks
    return test_sets({name: SCALE.evaluation.suite[name] for name in benchmarks})


def recorded(wildcards):
    """The accepted records of the configured scale; without any, an error that says what to do."""
    if wildcards.scale != SCALE.name:
        sys.exit(
            f"{wildcards.scale}: the configured scale is {SCALE.name}; add --config scale={wildcards.scale}"
        )
    suites = takes_suite(wildcards.get("table") or "")
    found = [str(path) for path in PLAN.all_recorded(suites)]
    return found or sys.exit(
        f"results/recorded/{SCALE.name}: no records yet; measure them, then `clipa accept`"
    )


def measured_files(name):
    """The files of the figure or table called `name`, at the configured scale; records where it is neither (readings).
    Of own data its drops are drawn, too, and the law over size and over training.
    """
    if name in MEASURED_BESIDES:
        return records_behind(name) + ([f"{RUNS}/{SCALE.name}/figures/{name}.png"] if name in DRAWN else [])
    if name in PLAN.released:
        return [f"{RUNS}/{RELEASED_SCALE}/tables/{name}.tex"]
    if name.startswith("table"):
        return [f"{RUNS}/{SCALE.name}/tables/{name}.tex"]
    return [f"{RUNS}/{SCALE.name}/figures/{name}{file}" for file in FIGURE_FILES]
