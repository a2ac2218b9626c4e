"""Models in repositories of the Hugging Face hub, or in local folders of the same form."""

import os
from importlib import import_module
from typing import Any, Self


class SharedModel:
    """Mixin of models that are saved as safetensors and JSON, with a model card (extra ``hub``).

    Nothing in such a folder is run as code, and no name in it is imported: classes of networks have to be part of this
    library or imported already, or are passed to :meth:`from_pretrained`.
    """

    def save_pretrained(self, folder: str | os.PathLike[str], **how: Any) -> None:
        """Write ``config.json``, ``model.safetensors`` and the model card ``README.md``.

        Args:
            folder: Path of a new folder.
            **how: ``run``, the folder of a recipe's run whose results the card reports; ``method``, the row of its
                report that this model is (default: the one whose gains it reports); ``license``, an identifier of the
                hub such as ``apache-2.0``; ``with_experts``, whether a fuser or policy brings its experts, if it has
                any (default: True).

        Raises:
            InputError: If the folder is taken, the run cannot be read, or a part of the model cannot be described.
        """
        _repositories().save(self, folder, **how)

    def push_to_hub(self, repo_id: str, **how: Any) -> str:
        """Upload what :meth:`save_pretrained` writes to a repository of the hub.

        Args:
            repo_id: Name of the repository, ``owner/name``; created if it does not exist.
            **how: Arguments of :meth:`save_pretrained`, and of ``ModelHubMixin.push_to_hub`` (``private``, ``token``,
                ``branch``, ``create_pr``, ``commit_message``).

        Returns:
            URL of the commit.

        Raises:
            InputError: If the hub does not answer or refuses.
        """
        url: str = _repositories().push(self, repo_id, **how)
        return url

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], **arguments: Any) -> Self:
        """Load a model that :meth:`save_pretrained` or :meth:`push_to_hub` saved.

        Args:
            name: Path of a folder, or ``owner/name`` of a repository.
            **arguments: Constructor arguments in place of those that are saved: ``network`` for a network whose class
                is not part of this library, and ``experts`` for a fuser or policy without experts; and ``revision``,
                ``token``, ``cache_dir``, ``force_download`` and ``local_files_only`` of the hub.

        Raises:
            InputError: If the folder contains code, misses files, is damaged, or holds a model of another class.
        """
        model: Self = _repositories().load(cls, name, **arguments)
        return model


def _repositories() -> Any:
    return import_module("lightning_fusion.hub.repository")  # which imports the models
