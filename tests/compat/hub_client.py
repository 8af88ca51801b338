"""What programs of Hugging Face's users do, run by the Python of an environment of theirs.

Run as ``python hub_client.py JOB REPO``; imports nothing of this project. Which server it asks says
the environment, as for any such program. Answers with one line of JSON, its last.
"""

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import Any

Json = dict[str, Any]


def sums(folder: Path) -> Json:
    """SHA-256 of every file below a folder, by path."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and ".cache" not in file.parts
    }


def files(repo: str) -> Json:
    """The files of a model, by each of the ways that huggingface_hub has."""
    from huggingface_hub import HfApi, HfFileSystem, __version__, hf_hub_download, snapshot_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    api = HfApi()
    info = api.model_info(repo, files_metadata=True)
    listed = [one.rfilename for one in info.siblings or ()]
    single = {}
    for path in listed:
        data = Path(hf_hub_download(repo, path)).read_bytes()
        single[path] = hashlib.sha256(data).hexdigest()
    fs = HfFileSystem()
    there = list(fs.find(repo))
    streamed = {
        path.removeprefix(f"{repo}/"): hashlib.sha256(fs.cat_file(path)).hexdigest()
        for path in there
    }
    largest = max(there, key=lambda path: int(fs.info(path)["size"]))
    with fs.open(largest, "rb") as file:
        file.seek(1000)
        middle = hashlib.sha256(file.read(5000)).hexdigest()
    missing = []
    for repo_id, path, revision in (
        (repo, "no/such.file", None),
        (repo, "config.json", "nosuch"),
        ("nobody/nothing", "config.json", None),
    ):
        try:
            hf_hub_download(repo_id, path, revision=revision)
        except (EntryNotFoundError, RevisionNotFoundError, RepositoryNotFoundError) as exc:
            missing.append(type(exc).__name__)
    paths = api.get_paths_info(repo, listed)
    return {
        "version": __version__,
        "commit": info.sha,
        "snapshot": sums(Path(snapshot_download(repo))),
        "pinned": sums(Path(snapshot_download(repo, revision=info.sha))),
        "single": single,
        "streamed": streamed,
        "middle": middle,
        "sizes": {one.path: one.size for one in paths if hasattr(one, "size")},
        "branches": [one.name for one in api.list_repo_refs(repo).branches],
        "exists": api.file_exists(repo, "config.json"),
        "missing": missing,
    }


def cached(repo: str) -> Json:
    """What of a cache a later download might have written anew: every file, and when."""
    hub = Path(os.environ["HF_HOME"]) / "hub"
    return {
        str(blob.relative_to(hub)): [blob.stat().st_ino, blob.stat().st_mtime_ns]
        for blob in sorted(hub.glob("*/blobs/*"))
    }


def model(repo: str) -> Json:
    """A model as transformers loads it from the server, and as it does from a folder (MODEL)."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(repo)
    tokenizer = AutoTokenizer.from_pretrained(repo)
    loaded = AutoModelForCausalLM.from_pretrained(repo)
    local = AutoModelForCausalLM.from_pretrained(os.environ["MODEL"])
    mine, theirs = loaded.state_dict(), local.state_dict()
    ids = tokenizer("hello world", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        said = loaded.generate(ids, max_new_tokens=4, do_sample=False)
        same = local.generate(ids, max_new_tokens=4, do_sample=False)
    return {
        "type": config.model_type,
        "ids": ids.tolist(),
        "tensors": len(mine),
        "equal": mine.keys() == theirs.keys()
        and all(torch.equal(mine[name], theirs[name]) for name in mine),
        "said": said.tolist() == same.tolist(),
    }


def dataset(repo: str) -> Json:
    """A dataset's rows, loaded and streamed."""
    from datasets import load_dataset

    whole = load_dataset(repo)
    streamed = load_dataset(repo, streaming=True)
    return {
        "splits": {name: list(rows) for name, rows in whole.items()},
        "streamed": {name: list(rows) for name, rows in streamed.items()},
    }


JOBS = {"files": files, "cached": cached, "model": model, "dataset": dataset}

if __name__ == "__main__":
    print(json.dumps(JOBS[sys.argv[1]](sys.argv[2])))
