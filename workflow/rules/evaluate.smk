"""Evaluation. One process evaluates all stages of a run: starting the evaluator costs more than a small test set."""


rule evaluate:
    input:
        finished_stages,
        test_sets(SCALE.evaluation.benchmarks),
    output:
        f"{RUNS}/{{scale}}/{{run}}/evaluation/seed{{seed}}-{{fingerprint}}/records.json",
    log:
        f"{LOGS}/{{scale}}/{{run}}/evaluate-seed{{seed}}-{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/{{scale}}/{{run}}/evaluate-seed{{seed}}-{{fingerprint}}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        **EVALUATION_RESOURCES,
    params:
        asked=ASKED,
    message:
        "Evaluating {wildcards.run}, seed {wildcards.seed}"
    shell:
        "python -m clipa evaluate {params.asked} --run {wildcards.run} --seed {wildcards.seed}"
        " --fingerprint {wildcards.fingerprint} > {log} 2>&1"


rule suite:
    input:
        finished_stages,
        test_sets(SCALE.evaluation.suite),
    output:
        f"{RUNS}/{{scale}}/{{run}}/evaluation/seed{{seed}}-{{fingerprint}}/suite.json",
    log:
        f"{LOGS}/{{scale}}/{{run}}/suite-seed{{seed}}-{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/{{scale}}/{{run}}/suite-seed{{seed}}-{{fingerprint}}.tsv"
    conda:
        "../../envs/train.yaml"
    resources:
        **EVALUATION_RESOURCES,
    params:
        asked=ASKED,
    message:
        "Evaluating {wildcards.run}, seed {wildcards.seed}, on the whole test suite"
    shell:
        "python -m clipa evaluate {params.asked} --run {wildcards.run} --seed {wildcards.seed}"
        " --fingerprint {wildcards.fingerprint} --suite > {log} 2>&1"
