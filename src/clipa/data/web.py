"""What comes from the web: only what ``config/downloads.yaml`` pins, over https, and never more bytes than announced.

Repositories of the Hugging Face hub are left to huggingface_hub. Single files are not: it resumes without ``If-Range``,
so that a file which changed meanwhile is glued together, and pooch neither resumes nor limits the size.
"""

from __future__ import annotations

import difflib
import hashlib
import os
import re
import shutil
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, Request, build_opener

from clipa.data.shards import progress_bar
from clipa.downloads import DownloadError, Downloads, Repository
from clipa.files import write_text_atomically
from clipa.locks import directory_lock

_FILE = "config/downloads.yaml"
_BLOCK = 1 << 20
TIMEOUT_SECONDS = 60
"""How long a server may be silent, at the start and between any two blocks."""


def download(name: str, directory: Path, known: Downloads, unpinned: bool = False) -> Path:
    """Download the file or repository ``name`` of ``known`` into ``directory``; returns the path of what is there now.

    ``unpinned``: also what has no digest or revision yet; what came is printed, to be pasted. Raises DownloadError.
    """
    if name in known.files:
        one = known.files[name]
        if one.digest is None and not unpinned:
            raise DownloadError(
                f"{_FILE}: files.{name}.digest is null, so any bytes would do: paste sha256:<sha256sum of a copy you "
                "trust>, or take what the server has with --unpinned"
            )
        path = fetch(one.url, Path(directory, name), one.digest, one.bytes)
        if one.digest is None:
            print(f"{_FILE}: files.{name}.digest: {digest_of(path, 'sha256')}")
        return path
    if name not in known.repositories:
        near = difflib.get_close_matches(name, [*known.files, *known.repositories], n=1)
        hint = f" (did you mean {near[0]}?)" if near else ""
        raise DownloadError(f"{_FILE}: has no {name!r}{hint}; add it with its address and digest")
    return snapshot(name, known.repositories[name], Path(directory), unpinned)


def digest_of(path: Path, algorithm: str) -> str:
    """``<algorithm>:<hexadecimal digest>`` of a file's bytes."""
    with open(path, "rb") as file:
        return f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"


# ------------------------------------------------------------------------------------------------- single files


class _Changed(OSError):
    """What an earlier call has got is not the beginning of what the server has now."""


def fetch(url: str, path: Path, digest: str | None = None, size: int | None = None) -> Path:
    """Download ``url`` to ``path``, which appears when all of it is there and is left alone when it is; returns it.

    ``digest``: ``<algorithm>:<hexadecimal>`` that the bytes must have, also those of an earlier download; ``size``: how
    many they must be. What an interrupted call has got lies in ``<name>.partial``; the rest is asked for if the server
    still has the same file (``If-Range`` with the ETag in ``<name>.partial.etag``). Raises DownloadError when the
    server cannot be reached, is silent for a minute, refuses, sends less than it announced or other bytes, or when the
    address or one that it redirects to is not https (a server on this machine may be http).
    """
    _check_address(url)
    path = Path(path)
    partial = path.with_name(f"{path.name}.partial")
    with directory_lock(path.parent, f"download of {path.name}"):
        if path.is_file():
            _check_digest(path, digest, f"not what {_FILE} names; delete it, and it is downloaded again")
            return path
        try:
            try:
                _get(url, partial, size)
            except (HTTPError, _Changed) as error:
                if isinstance(error, HTTPError) and error.code != 416:  # there is no rest
                    raise
                _forget(partial)
                _get(url, partial, size)
        except (OSError, HTTPException) as error:  # of the network, most often
            raise DownloadError(
                f"{url}: not downloaded ({' '.join(str(error).split()) or type(error).__name__}); try again (the "
                f"download is resumed), or put the file at {path}"
            ) from None
        try:
            _check_digest(partial, digest, f"{url} has other bytes than {_FILE} names, and they were deleted")
        except DownloadError:
            _forget(partial)
            raise
        os.replace(partial, path)
        _forget(partial)
    return path


def _check_digest(path: Path, digest: str | None, otherwise: str) -> None:
    if digest is not None and (found := digest_of(path, digest.partition(":")[0])) != digest:
        raise DownloadError(f"{path}: {found}, expected {digest}: {otherwise}")


def _check_address(url: str) -> None:
    address = urlsplit(url)
    own = address.scheme == "http" and address.hostname in ("127.0.0.1", "::1", "localhost")
    if address.scheme != "https" and not own:
        raise DownloadError(f"{url}: not an https address; nobody vouches for what comes from it")


class _Redirects(HTTPRedirectHandler):
    def redirect_request(self, request: Request, *answer: Any) -> Request | None:
        _check_address(answer[-1])
        return super().redirect_request(request, *answer)


def _validator(partial: Path) -> Path:
    return partial.with_name(f"{partial.name}.etag")


def _forget(partial: Path) -> None:
    partial.unlink(missing_ok=True)
    _validator(partial).unlink(missing_ok=True)


def _get(url: str, partial: Path, size: int | None) -> None:
    """Add to ``partial`` what it lacks of ``url``. OSError (HTTPError, _Changed) or HTTPException when that fails."""
    tag = _validator(partial).read_text(encoding="latin-1") if _validator(partial).is_file() else ""
    have = partial.stat().st_size if tag and partial.is_file() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-", "If-Range": tag} if have else {})
    with build_opener(_Redirects).open(Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as answer:
        total = _whole_size(answer, have, tag)
        if answer.status != 206:  # the server begins at the beginning
            have = 0
            _forget(partial)
            if (strong := answer.headers["ETag"] or "").startswith('"'):
                write_text_atomically(_validator(partial), strong)
        if size is not None and total not in (None, size):
            raise DownloadError(
                f"{url}: the server announces {total} bytes, {_FILE} says {size}; not downloaded"
            )
        limit = total if total is not None else size
        if limit is None:
            raise OSError("the server does not say how large it is, so it might fill the disk")
        check_space(partial.parent, limit - have, url)
        bar = progress_bar(url.rpartition("/")[2], limit, "B", initial=have, unit_scale=True)
        with bar, open(partial, "ab" if have else "wb") as file:
            while block := answer.read(_BLOCK):
                if file.tell() + len(block) > limit:
                    raise _Changed(f"more than the {limit} bytes that were announced")
                file.write(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
            if file.tell() != limit:
                raise OSError(f"the connection ended after {file.tell()} of {limit} bytes")


def _whole_size(answer: Any, have: int, tag: str) -> int | None:
    """Bytes of the whole file, as the answer announces them; None if it does not. _Changed for another file's rest."""
    if answer.status != 206:
        announced = answer.headers["Content-Length"] or ""
        return int(announced) if announced.isdecimal() else None
    sent = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers["Content-Range"] or "")
    if not sent or int(sent[1]) != have or answer.headers["ETag"] not in (None, tag):
        raise _Changed("the server's file has changed")
    return int(sent[2])


def check_space(directory: Path, size: int, what: str) -> None:
    """DownloadError when ``size`` more bytes do not fit on the disk of ``directory``."""
    free = shutil.disk_usage(directory).free
    if size > free:
        raise DownloadError(
            f"{directory}: {what} needs {size / 1e9:.1f} GB, {free / 1e9:.1f} GB are free; make space, and try again"
        )


# ---------------------------------------------------------------------------------------- repositories of the hub


def snapshot(name: str, one: Repository, directory: Path, unpinned: bool = False) -> Path:
    """Download the pinned commit of a hub's repository into ``directory``, and compare every file with its digest.

    Raises DownloadError where no commit is pinned (unless ``unpinned``: then the newest, which is printed), or when the
    hub cannot be reached, has no such commit or lets nobody in, or sends other bytes.
    """
    if one.revision is None and not unpinned:
        kind = "datasets/" if one.kind == "dataset" else ""
        raise DownloadError(
            f"{_FILE}: repositories.{name}.revision is null: paste the commit (40 digits) that you mean from "
            f"huggingface.co/{kind}{name}/commits/main, or take the newest with --unpinned"
        )
    from huggingface_hub import HfApi, snapshot_download

    api = HfApi()
    try:
        revision = one.revision or api.repo_info(name, repo_type=one.kind).sha
        asked = {
            "repo_id": name,
            "repo_type": one.kind,
            "revision": revision,
            "local_dir": directory,
            "allow_patterns": one.files,
        }
        directory.mkdir(parents=True, exist_ok=True)
        files = snapshot_download(**asked, dry_run=True)
        check_space(directory, sum(file.file_size for file in files if file.will_download), name)
        snapshot_download(**asked)
        wrong = api.verify_repo_checksums(
            name, repo_type=one.kind, revision=revision, local_dir=directory
        ).mismatches
    except DownloadError:
        raise
    except (
        Exception
    ) as error:  # of the network, the hub, the disk: huggingface_hub has no common base for them
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DownloadError(
            f"{name}: not downloaded to {directory} ({reason}); try again (the download is resumed)"
        ) from None
    if wrong:
        raise DownloadError(
            f"{directory / wrong[0]['path']}: {wrong[0]['algorithm']} is {wrong[0]['actual']}, {name} at {revision} "
            f"has {wrong[0]['expected']}; delete the file and download it again"
        )
    if one.revision is None:
        print(f"{_FILE}: repositories.{name}.revision: {revision}")
    return directory
