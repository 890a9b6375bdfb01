"""A release: what its descriptions say of the artifact, from the files that it is made of."""

import json
import os
import subprocess
from pathlib import Path

import yaml

from clipa import __version__

ROOT = Path(__file__).resolve().parent.parent
PYTHON = ROOT / ".venv-release" / "bin" / "python"
CRATE = """
import json, sys
from pathlib import Path
from release.crate import chain, metadata
graph = json.loads(metadata(Path(sys.argv[1]), "0" * 40))
print(json.dumps({"graph": graph, "chain": list(chain(graph, sys.argv[2]))}))
"""


def test_all_descriptions_name_the_same_release():
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    deposited = json.loads((ROOT / ".zenodo.json").read_text(encoding="utf-8"))
    assert deposited["version"] == cited["version"] == __version__
    assert deposited["title"] == cited["title"] and deposited["license"] == cited["license"]
    assert [one["name"] for one in deposited["creators"]] == [one["name"] for one in cited["authors"]]
    assert (ROOT / "LICENSES" / "MIT.txt").read_bytes() == (ROOT / "LICENSE").read_bytes()
    catalog = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))
    assert set(catalog["usage"]) == {"software-stack-deployment", "mandatory-flags", "report"}


def test_a_crate_leads_from_a_claim_to_the_data_of_its_measurements():
    """Every claim is there, nothing named is missing, and no measured record has the value of a published one."""
    if not PYTHON.exists():
        assert not os.environ.get("CI"), "make .venv-release/.installed first"
        print("not run: what a release is built with is not installed (make release)")
        return
    command = [str(PYTHON), "-c", CRATE, str(ROOT), "s4.2-syntax4-drop-L16"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT)))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout)
    entities = {entity["@id"]: entity for entity in said["graph"]["@graph"]}
    claims = yaml.safe_load((ROOT / "results" / "published" / "claims.yaml").read_text(encoding="utf-8"))
    assert {f"#claim-{claim['id']}" for claim in claims["claims"]} <= set(entities)
    named = {one["@id"] for entity in entities.values() for value in entity.values() for one in links(value)}
    assert not {one for one in named - set(entities) if not one.startswith("http")}
    assert len({stage for _, _, stage, _ in said["chain"]}) >= 3
    for published, measured, stage, data in said["chain"]:
        assert published.startswith("#table") and measured.startswith("#micro-v1.")
        assert entities[measured]["value"] != entities[published]["value"]
        assert entities[stage]["@type"] == "CreateAction" and len(entities[data]["identifier"]) == 12


CONTEXT = """
import sys
from pathlib import Path
from requests_cache import CachedSession
from release import context
path = context.cache(Path(sys.argv[1]))
with CachedSession(str(path), backend="sqlite", only_if_cached=True) as session:
    read, other = session.get(context.ADDRESS), session.get(context.ADDRESS + "-of-another-version")
assert read.from_cache and read.content == context.FILE.read_bytes() and other.status_code == 504
assert read.json()["@id"] == context.ADDRESS and "CreateAction" in read.json()["@context"]
"""


def test_the_crates_context_is_read_without_a_network(tmp_path):
    """What its validator asks for is in the cache that it is given, as its authors published it (CC0)."""
    if not PYTHON.exists():
        assert not os.environ.get("CI"), "make .venv-release/.installed first"
        print("not run: what a release is built with is not installed (make release)")
        return
    command = [str(PYTHON), "-c", CONTEXT, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def links(value):
    """The references inside a value of an entity."""
    return [
        one
        for one in (value if isinstance(value, list) else [value])
        if isinstance(one, dict) and "@id" in one
    ]
