"""Trained detectors on the Hugging Face Hub, or in a folder laid out as there; an extra: ``mmdet-cbn[hub]``."""

import os
import tempfile
from pathlib import Path
from typing import Any

from torch import nn

from mmdet.config import saved_config
from mmdet.io.atomic import write_atomic
from mmdet.io.checkpoint import load_checkpoint_file
from mmdet.io.safetensors_file import safetensors_bytes
from mmdet.run.prepare import setup
from mmdet.version import __version__

from .inference import build_detector

#: of a repository or folder: weights, with the config and the classes in their metadata
WEIGHTS = 'model.safetensors'
#: of a config, where one run read and wrote
OWN_KEYS = ('work_dir', 'load_from', 'resume', 'launcher')
CARD = """---
library_name: mmdet
tags: [object-detection]
---

A {kind} with {number} classes, of mmdet {version}.

    from mmdet.apis import from_pretrained, inference_detector

    model = from_pretrained('{repo}')
    inference_detector(model, 'image.jpg').pred_instances
"""


def save_pretrained(model: Any, folder: str | Path, repo_id: str = 'OWNER/NAME') -> Path:
    """Write a detector into a folder: ``model.safetensors``, and a ``README.md`` where there is none.

    Args:
        model: of :func:`.init_detector` or :func:`from_pretrained`.
        folder: is made.
        repo_id: for the README.

    Returns:
        The path of the weights.

    Raises:
        ImportError: safetensors is not installed.
    """
    cfg = model.cfg.copy()
    for key in OWN_KEYS:
        cfg.pop(key, None)
    meta = dict(cfg=cfg.pretty_text, dataset_meta=model.dataset_meta)
    path = Path(folder) / WEIGHTS
    write_atomic(safetensors_bytes(model.state_dict(), meta), path)
    card = path.with_name('README.md')
    if not card.exists():
        text = CARD.format(
            kind=type(model).__name__, number=len(model.dataset_meta['classes']), version=__version__, repo=repo_id
        )
        write_atomic(text.encode(), card)
    return path


def from_pretrained(name: str | Path, device: str | None = 'cpu', revision: str | None = None) -> nn.Module:
    """Load a detector from a folder, or from the Hub.

    The config in the file is read, not run, and may name registered parts only.

    Args:
        name: a folder of :func:`save_pretrained`, or OWNER/NAME of a repository of the Hub.
        device: 'cpu', 'cuda:0', ..., or None for the best there is.
        revision: of the repository: a branch, tag or commit.

    Returns:
        The model in evaluation mode, as of :func:`.init_detector`.

    Raises:
        ImportError: huggingface_hub or safetensors is not installed.
        FileNotFoundError, ValueError: no such folder and no such repository; a file that is no detector of mmdet.
    """
    setup()
    path = os.path.join(name, WEIGHTS)
    if not os.path.isdir(name):
        hub = _hub()
        try:
            path = hub.hf_hub_download(str(name), WEIGHTS, revision=revision)
        except (hub.errors.HfHubHTTPError, hub.errors.HFValidationError, OSError) as error:
            words = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise FileNotFoundError(f'{name}: no such folder, and not on the Hub ({words})') from None
    saved = load_checkpoint_file(path)
    return build_detector(saved_config(saved, path), saved, path, 'none', device)


def push_to_hub(
    model: Any, repo_id: str, private: bool = False, token: str | None = None, message: str = 'Upload detector'
) -> str:
    """Write a detector to a repository of the Hub, which is made if there is none.

    Args:
        model: as of :func:`save_pretrained`.
        repo_id: OWNER/NAME.
        private: of a repository that is made.
        token: of the account; by default the one that ``hf auth login`` has stored.
        message: of the commit.

    Returns:
        The commit's URL.
    """
    api = _hub().HfApi(token=token)
    api.create_repo(repo_id, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        save_pretrained(model, folder, repo_id)
        if api.file_exists(repo_id, 'README.md'):
            os.unlink(os.path.join(folder, 'README.md'))  # somebody's own words
        return str(api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=message).commit_url)


def _hub() -> Any:
    try:
        import huggingface_hub
    except ImportError:
        raise ImportError("the Hub needs huggingface_hub: pip install 'mmdet-cbn[hub]'") from None
    return huggingface_hub
