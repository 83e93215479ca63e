"""What is served under which name: a model, its adapters, or those of a pool.

Must not know the routes, or what is asked of a model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from ryot_metrics.pool import MemoryLimitError, ModelPool
from ryot_metrics.serve.errors import ApiError, model_not_found
from ryot_metrics.serve.prompts import Prompts

if TYPE_CHECKING:
    from contextlib import ExitStack

    from ryot_metrics import Engine


class Name(NamedTuple):
    """What a name means.

    Attributes:
        model: The model's own name.
        adapter: Its adapter that answers, if one does.
    """

    model: str
    adapter: str | None


class Served:
    """Finds models by name.

    Args:
        models: An engine, or a pool of models.
        max_prompt_tokens: The most tokens of a prompt; None leaves the limit to the engines.

    Raises:
        ValueError: If the limit is below 1, or two models or adapters have one name.
    """

    def __init__(self, models: Engine | ModelPool, max_prompt_tokens: int | None) -> None:
        if max_prompt_tokens is not None and max_prompt_tokens < 1:
            raise ValueError(f"max_prompt_tokens is {max_prompt_tokens}; it must be at least 1")
        self._limit = max_prompt_tokens
        self._models = models
        of = models.adapters if isinstance(models, ModelPool) else {models.name: models.adapters}
        self.names: dict[str, Name] = {}
        for model, adapters in of.items():
            for name in (Name(model, None), *(Name(model, adapter) for adapter in adapters)):
                own = name.adapter or model
                if own in self.names:
                    raise ValueError(f"two models or adapters are named {own!r}")
                self.names[own] = name
        if not self.names:
            raise ValueError("the pool has 0 models; at least 1 is needed")
        self.default = next(iter(of))

    def find(self, name: str | None) -> Name:
        """What a name means; none at all means the first model.

        Raises:
            ApiError: If nothing of this name is served.
        """
        found = self.names.get(name or self.default)
        if found is None:
            raise model_not_found(name or "", self.names)
        return found

    async def lend(self, model: str, lease: ExitStack) -> tuple[Engine, Prompts]:
        """Gives a model's engine and what makes its tokens; waits while it is loaded.

        No thread waits: those that the service has are for requests of models that are there.

        Args:
            model: Its name.
            lease: What is closed once the model is not needed any more.

        Raises:
            ApiError: If it does not fit now, or its file is not usable.
        """
        engine = self._models
        if isinstance(engine, ModelPool):
            try:
                lent = engine.lease(model)
                lease.callback(lent.close)
                engine = await lent.ready()
            except Exception as error:
                raise _not_loaded(error) from error
        return engine, Prompts(engine, self._limit)

    def longest(self, model: str) -> int | None:
        """The most tokens of a prompt and its answer; None for a model that is not loaded."""
        models = self._models
        engine = models.peek(model) if isinstance(models, ModelPool) else models
        return None if engine is None else Prompts(engine, None).longest

    def check_open(self) -> None:
        """Whether requests are taken.

        Raises:
            EngineClosedError: If not.
        """
        if isinstance(self._models, ModelPool):
            self._models.check_open()
        else:
            self._models.stats()


def _not_loaded(error: Exception) -> ApiError:
    """The answer where a model could not be loaded, which no engine has counted."""
    if isinstance(error, ValueError | OSError):  # a file's, not the request's
        refusal = ApiError(500, str(error), "server_error", code="model_load_failed")
    else:
        refusal = ApiError.of(error)
    refusal.error_type = "oom" if isinstance(error, MemoryLimitError) else "inference_error"
    return refusal
