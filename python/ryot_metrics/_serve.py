"""The command `ryot-metrics serve`: its options, and the service that they make.

What a limit may be is said where it holds, not here. Must not import the serve extra before the
command runs.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ryot_metrics import Engine, EngineConfig, ModelPool, SamplingParams
from ryot_metrics._extra import serve_extra
from ryot_metrics.engine import model_name

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from ryot_metrics.engine import Adapters
    from ryot_metrics.serve.run import Service

ENGINE_OPTIONS = (
    ("-c", "--ctx-size", "tokens of context, of all sequences together"),
    ("-np", "--parallel", "sequences that are decoded at the same time"),
    ("-b", "--batch-size", "tokens in one decoding step, at most"),
    (None, "--prefill-chunk", "prompt tokens in a step that also continues answers, at most"),
    ("-t", "--threads", "CPU threads; 0 means all cores"),
    (None, "--max-queue", "requests that may wait; more are answered with 429"),
    (None, "--policy", "how many prompt tokens a step takes: slo or uma"),
    (None, "--step-ms", "milliseconds that prompts add to a step, at most"),
    (None, "--lone-step-ms", "the same for a step of prompts alone, which gives way to requests"),
    (None, "--ttft-ms", "promise for the first token of requests that name none"),
    (None, "--tbt-ms", "promise for the time between two tokens of requests that name none"),
    (None, "--overload", "where a promise cannot be kept: accept, relegate or reject"),
    (None, "--fairness-tokens", "weighted tokens that a user may be ahead of another"),
    (None, "--cache-sequences", "sequences that keep prefixes beside those that run"),
    (
        None,
        "--idle-cells",
        "cells of cached prefixes past which these go to host memory; 0 on a CPU, else all",
    ),
    (None, "--host-cache-bytes", "host memory for prefixes and preempted requests"),
    ("-ngl", "--gpu-layers", "layers to keep on the GPU; all where there is one"),
)

ENGINE_FLAGS = ("--no-kv-unified", "--no-prefix-cache", "--isolate-tenants")

_KINDS = {"--gpu-layers": int, "--idle-cells": int}

OPTIONS: tuple[tuple[str, dict[str, Any]], ...] = (
    (
        "--max-body-bytes",
        {
            "type": int,
            "metavar": "N",
            "help": "the largest body of a request; a larger one is answered with 413 "
            "(default: 8 MiB)",
        },
    ),
    (
        "--max-prompt-tokens",
        {
            "type": int,
            "metavar": "N",
            "help": "the longest prompt; a longer one is answered with 400 (default: the context)",
        },
    ),
    (
        "--api-key",
        {
            "action": "append",
            "default": [],
            "metavar": "KEY",
            "help": "a key that clients must send, may be repeated; other users of the machine "
            "can see it here, not in a file or in RYOT_METRICS_API_KEY",
        },
    ),
    ("--api-key-file", {"metavar": "FILE", "help": "a file with a key on each line"}),
    (
        "--protect-metrics",
        {
            "action": "store_true",
            "help": "/metrics and /dashboard need a key too; /health never does",
        },
    ),
    (
        "--cors-origin",
        {
            "action": "append",
            "default": [],
            "metavar": "ORIGIN",
            "help": "an origin whose pages may call the API, or *, may be repeated (default: none)",
        },
    ),
    (
        "--lora",
        {
            "action": "append",
            "default": [],
            "metavar": "NAME=PATH",
            "help": "a LoRA adapter, which is a model of this name in the API, may be repeated; "
            "NAME=PATH:SCALE adds so much of it, MODEL:NAME=PATH is for one of several models",
        },
    ),
    (
        "--memory-limit",
        {
            "type": int,
            "metavar": "BYTES",
            "help": "what loaded models may take; the least recently used makes room (default: "
            "no limit)",
        },
    ),
    (
        "--idle-unload",
        {
            "type": float,
            "metavar": "S",
            "help": "seconds without a request after which a model is unloaded (default: never)",
        },
    ),
    ("--uds", {"metavar": "PATH", "help": "also answer on a Unix socket, for its owner alone"}),
    (
        "--drain-seconds",
        {
            "type": float,
            "default": 30.0,
            "metavar": "S",
            "help": "how long answers may go on after SIGTERM (default: %(default)s)",
        },
    ),
    (
        "--log-stats",
        {
            "type": float,
            "nargs": "?",
            "const": 10.0,
            "metavar": "S",
            "help": "print tables of finished requests every S seconds (%(const)s if not given)",
        },
    ),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what the command takes besides model and address."""
    defaults = EngineConfig()
    for short, long, text in ENGINE_OPTIONS:
        default = getattr(defaults, _field(long))
        shown = text if default is None else f"{text} (default: {default})"
        names = [name for name in (short, long) if name]
        kind = type(default) if default is not None else _KINDS.get(long, float)
        letter = "N" if kind is int else "NAME" if kind is str else "MS"
        parser.add_argument(*names, type=kind, default=default, metavar=letter, help=shown)
    for name in ENGINE_FLAGS:
        value = not name.startswith("--no-")
        parser.add_argument(
            name, dest=_field(name), action="store_const", const=value, default=not value
        )
    for name, how in OPTIONS:
        parser.add_argument(name, **how)
    parser.set_defaults(run=run)


def _field(option: str) -> str:
    """The field of `EngineConfig` that an option is for."""
    return option.removeprefix("--").removeprefix("no-").replace("-", "_")


def run(arguments: argparse.Namespace) -> None:
    """Serve until a signal."""
    from ryot_metrics.serve import create_app
    from ryot_metrics.uds import serve_uds

    with serve_extra("the HTTP service"):
        from ryot_metrics.serve.auth import read_keys
        from ryot_metrics.serve.run import Service, address, bind, serve
        from ryot_metrics.serve.stats import StatsLog

    options = [long for _, long, _ in ENGINE_OPTIONS] + list(ENGINE_FLAGS)
    config = EngineConfig(**{_field(name): getattr(arguments, _field(name)) for name in options})
    keys = read_keys(arguments.api_key, arguments.api_key_file)
    limits = {
        name: getattr(arguments, name)
        for name in ("max_body_bytes", "max_prompt_tokens")
        if getattr(arguments, name) is not None
    }
    with bind(arguments.host, arguments.port) as listening, ExitStack() as stack:
        log = None
        if arguments.log_stats is not None:
            log = stack.enter_context(StatsLog(arguments.log_stats))

        def load() -> Service:
            models, first = _models(arguments, config, stack)
            app = create_app(
                models,
                **limits,
                api_keys=keys,
                protect_metrics=arguments.protect_metrics,
                cors_origins=arguments.cors_origin,
                on_answer=log,
            )
            names = ", ".join(models.names) if isinstance(models, ModelPool) else models.name
            url = address(listening)
            print(f"{names} is served at {url}/v1, its metrics at {url}/metrics")
            print(f"live charts: {url}/dashboard", flush=True)
            cancel = models.close if isinstance(models, ModelPool) else models.shutdown
            if arguments.uds is None:
                return Service(app, cancel)
            uds = stack.enter_context(serve_uds(first, arguments.uds))
            print(f"Unix socket: {uds.address}", flush=True)
            return Service(app, cancel, uds.drain)

        serve(load, listening, drain_seconds=arguments.drain_seconds)


def _models(
    arguments: argparse.Namespace, config: EngineConfig, stack: ExitStack
) -> tuple[Engine | ModelPool, Engine]:
    """What is served, and the engine of the first model, which is warm."""
    models = arguments.model or [arguments.default_model]
    if len(arguments.alias) > len(models):
        raise ValueError(f"{len(arguments.alias)} --alias for {len(models)} --model")
    aliases = [*arguments.alias, *[None] * (len(models) - len(arguments.alias))]
    names = [alias or model_name(model) for model, alias in zip(models, aliases, strict=True)]
    adapters = _adapters(arguments.lora, names)
    if len(models) == 1 and arguments.memory_limit is None and arguments.idle_unload is None:
        engine = Engine(models[0], config, name=aliases[0], adapters=adapters[names[0]])
        stack.callback(engine.shutdown)
        _warm_up(engine)
        return engine, engine
    if arguments.uds is not None:
        raise ValueError("--uds answers for one model that stays loaded; there is a pool of models")
    pool = ModelPool(memory_limit=arguments.memory_limit, idle_seconds=arguments.idle_unload)
    stack.callback(pool.close)
    for model, name in zip(models, names, strict=True):
        pool.add(model, config, name=name, adapters=adapters[name])
    with pool.use(pool.names[0]) as engine:
        _warm_up(engine)
    return pool, engine


def _adapters(given: list[str], models: Sequence[str]) -> dict[str, Adapters]:
    """The adapters of each model, from `NAME=PATH`, with `MODEL:` before or `:SCALE` behind."""
    adapters: dict[str, dict[str, str | tuple[str, float]]] = {model: {} for model in models}
    for text in given:
        label, _, file = text.partition("=")
        whose = [model for model in models if label.startswith(f"{model}:")]
        if len(models) > 1 and not whose:
            known = " or ".join(f"{model}:" for model in models)
            raise ValueError(
                f"--lora is {text!r}; with {len(models)} models it must begin with {known}"
            )
        model = max(whose, key=len, default=models[0])
        name = label.removeprefix(f"{model}:")
        if not (name and file) or name in adapters[model]:
            raise ValueError(
                f"--lora is {text!r}; it must be NAME=PATH, with a name of its own, and may have "
                f"MODEL: before and :SCALE behind it"
            )
        adapters[model][name] = _scaled(file)
    return dict(adapters)


def _scaled(file: str) -> str | tuple[str, float]:
    """A file, with its scale if a number stands behind it."""
    path, _, scale = file.rpartition(":")
    try:
        return (path, float(scale)) if path else file
    except ValueError:
        return file


def _warm_up(engine: Engine) -> None:
    """One token, so that no client pays for the first pages of the weights."""
    engine.generate("Hi", SamplingParams(max_tokens=1), endpoint="warm-up")
