"""The directory of a model on the Hugging Face hub: weights, card, preprocessing, labels."""

import os
import tempfile
from pathlib import Path

from flax import traverse_util

from vit_jax.errors import InputError, unknown
from vit_jax.report import card
from vit_jax.text import first_line
from vit_jax.weights import Weights, check_target, write

# Format of `weights.write` -> the library that reads such a directory.
LIBRARIES = {"huggingface": card.TRANSFORMERS, "timm": card.TIMM}


def library_of(path: str, format: str) -> str:
    """The library that reads what `weights.write` puts at a path; "" if it has no model card."""
    return "" if Path(path).suffix else LIBRARIES.get(format or "huggingface", "")


def check_license(path: str, format: str, license: str) -> None:
    """Refuses a licence where there is no model card to hold it.

    Args:
      path, format: as in `weights.write`.
      license: licence; "": none was given.

    Raises:
      InputError: the format at that path has no model card.
    """
    if license and not library_of(path, format):
        raise InputError(
            f"--license={license} is for the model card of a directory for "
            f"{' or '.join(LIBRARIES)}; leave it out for {path}"
        )


def write_directory(
    weights: Weights, path: str, *, format: str = "", where: str = "", license: str = ""
) -> list[str]:
    """Writes weights as `weights.write` does, and into a hub's directory a model card.

    Args:
      weights: weights to write.
      path, format: as in `weights.write`.
      where: hub id by which the directory will be loaded; "": its path.
      license: licence in the hub's words; "": unknown.

    Raises:
      InputError: as `weights.write`.
    """
    check_license(path, format, license)
    library = library_of(path, format)
    if not library:
        return write(weights, path, format=format)
    check_target(path, format=format)
    metrics, step = card.run_facts(weights)
    subject = card.Subject(
        title=(where or Path(path).name).rpartition("/")[2],
        weights=weights,
        metrics=metrics,
        step=step,
        params=sum(leaf.size for leaf in traverse_util.flatten_dict(weights.params).values()),
        library=library,
        where=where or path,
        license=license or card.UNKNOWN,
    )
    return write(weights, path, format=format, beside={card.NAME: card.card(subject)})


def check_repository(repo_id: str, format: str) -> None:
    """Checks the id and the format of a repository, before the work.

    Raises:
      InputError: one of them is wrong.
    """
    if not card.HUB_ID.fullmatch(repo_id):
        raise InputError(f"{repo_id} is no id of the Hugging Face hub; write OWNER/NAME")
    if format not in LIBRARIES:
        raise unknown("format of a hub directory", format, LIBRARIES)


def hub_token() -> str:
    """The user's token for the hub.

    Raises:
      InputError: there is none, or no library.
    """
    try:
        from huggingface_hub import get_token
    except ImportError as error:
        raise InputError("an upload needs huggingface_hub: pip install 'vit_jax[hub]'") from error
    token = get_token()
    if not token:
        raise InputError(
            "no token for the Hugging Face hub: run `hf auth login`, or set HF_TOKEN to one with "
            "write access from https://huggingface.co/settings/tokens"
        )
    return token


def push(
    weights: Weights,
    repo_id: str,
    *,
    token: str,
    format: str = "huggingface",
    private: bool = False,
    license: str = "",
) -> tuple[dict[str, int], list[str], str]:
    """Uploads weights, card, preprocessing and labels to the hub, in one commit.

    Args:
      weights: weights to upload.
      repo_id: id of the repository, which is created where it does not exist.
      token: token with write access; "": nothing is uploaded.
      format: "huggingface" or "timm".
      private: whether a new repository is private.
      license: licence in the hub's words; "": unknown.

    Returns:
      Size of each file in bytes by name; lines of the writer; the address, "" without upload.

    Raises:
      InputError: the format cannot express the model, or the hub refuses the upload.
    """
    with tempfile.TemporaryDirectory() as parent:
        folder = Path(parent, repo_id.rpartition("/")[2])
        lines = write_directory(weights, str(folder), format=format, where=repo_id, license=license)
        lines = [line for line in lines if not line.startswith("wrote ")]
        sizes = {file.name: file.stat().st_size for file in sorted(folder.iterdir())}
        address = _upload(folder, repo_id, token, private) if token else ""
    return sizes, lines, address


def _upload(folder: Path, repo_id: str, token: str, private: bool) -> str:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT") or None, token=token)
    try:
        created = api.create_repo(repo_id, private=private, exist_ok=True)
        api.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message="vit_jax push: model and card"
        )
    except (HfHubHTTPError, OSError, RuntimeError, ValueError) as error:
        raise InputError(
            f"the Hugging Face hub does not take {repo_id}: {first_line(error)}; check the name, "
            "the token's write access and the network"
        ) from error
    return str(created)
