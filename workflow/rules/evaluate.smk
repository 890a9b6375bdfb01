"""Evaluation. One process evaluates all stages of a run: starting the evaluator costs more than a small test set. At
scales whose jobs are whole runs (`one_process`) it trains them, too.
"""

ASKED_OF_EVALUATION = f"{ASKED} --train" if SCALE.one_process else ASKED


rule evaluate:
    input:
        to_evaluate,
        test_sets(SCALE.evaluation.benchmarks),
    output:
        f"{RUNS}/{{scale}}/{{run}}/evaluation/seed{{seed}}-{{fingerprint}}/records.json",
    log:
        f"{LOGS}/{{scale}}/{{run}}/evaluate-seed{{seed}}-{{fingerprint}}.log",
    benchmark:
        f"{BENCHMARKS}/{{scale}}/{{run}}/evaluate-seed{{seed}}-{{fingerprint}}.tsv"
    priority: longest_run_first
    conda:
        "../../envs/train.yaml"
    resources:
        **EVALUATION_RESOURCES,
    params:
        asked=ASKED_OF_EVALUATION,
    message:
        "Evaluating {wildcards.run}, seed {wildcards.seed}"
    shell:
        "kept {log}; exec python -m clipa evaluate {params.asked} --run {wildcards.run} --seed {wildcards.seed}"
        " --fingerprint {wildcards.fingerprint} >> {log} 2>&1"


rule suite:
    input:
        to_evaluate,
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
        asked=ASKED_OF_EVALUATION,
    message:
        "Evaluating {wildcards.run}, seed {wildcards.seed}, on the whole test suite"
    shell:
        "kept {log}; exec python -m clipa evaluate {params.asked} --run {wildcards.run} --seed {wildcards.seed}"
        " --fingerprint {wildcards.fingerprint} --suite >> {log} 2>&1"
