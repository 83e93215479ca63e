"""The four tables of a pipeline: as dataclasses, as JSON, as text.

The figures come in whole nanoseconds, tokens and bytes; each is divided once, here, so that the sum
rules hold to the last bit that a float has. A zero divisor gives 0. Must not know how events come.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from ryot_metrics.tables import table

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "OverallSummary",
    "PipelineTables",
    "RequestE2EStats",
    "StageRequestStats",
    "TransferEdgeStats",
]


@dataclass(frozen=True)
class OverallSummary:
    """All requests that completed.

    Attributes:
        e2e_requests: How many.
        e2e_wall_time_ms: From the first start to the last end.
        e2e_total_tokens: Tokens into the first stage, and out of every stage.
        e2e_avg_time_per_request_ms: The wall time over the requests.
        e2e_avg_tokens_per_s: The tokens over the wall time.
        stage_wall_time_ms: For each stage, from its first start to its last end.
    """

    e2e_requests: int
    e2e_wall_time_ms: float
    e2e_total_tokens: int
    e2e_avg_time_per_request_ms: float
    e2e_avg_tokens_per_s: float
    stage_wall_time_ms: list[float]


@dataclass(frozen=True)
class RequestE2EStats:
    """A request from its start to its end.

    Attributes:
        e2e_total_ms: How long it took.
        e2e_total_tokens: Tokens into the first stage, and out of every stage.
        transfers_total_time_ms: Sending, decoding and being under way, of all its transfers.
        transfers_total_bytes: The size of all its transfers.
    """

    e2e_total_ms: float
    e2e_total_tokens: int
    transfers_total_time_ms: float
    transfers_total_bytes: int


@dataclass(frozen=True)
class StageRequestStats:
    """A request in a stage.

    Attributes:
        batch_id: The number of the batch that it was part of.
        batch_size: Requests in that batch.
        num_tokens_in: Tokens that went in.
        num_tokens_out: Tokens that came out.
        preprocess_time_ms: The part of its time that was preparation.
        stage_gen_time_ms: How long it took, preparation included.
    """

    batch_id: int
    batch_size: int
    num_tokens_in: int
    num_tokens_out: int
    preprocess_time_ms: float
    stage_gen_time_ms: float


@dataclass(frozen=True)
class TransferEdgeStats:
    """What a request had transferred from one stage to another.

    Attributes:
        size_bytes: Its size.
        tx_time_ms: Time of sending.
        rx_decode_time_ms: Time of decoding.
        in_flight_time_ms: Time between the two.
    """

    size_bytes: int
    tx_time_ms: float
    rx_decode_time_ms: float
    in_flight_time_ms: float


@dataclass(frozen=True)
class PipelineTables:
    """The tables at one moment.

    Attributes:
        overall: All requests that completed.
        requests: The last of them, by their names, the first first.
        stages: The stages of each, by the stage's name; of its second visit, by that and `_2`.
        transfers: The transfers of each, by the names of the two stages: `0->1`.
    """

    overall: OverallSummary
    requests: dict[str, RequestE2EStats]
    stages: dict[str, dict[str, StageRequestStats]]
    transfers: dict[str, dict[str, TransferEdgeStats]]

    def json(self) -> str:
        """All of it as one JSON object."""
        return json.dumps(asdict(self))

    def text(self) -> str:
        """The tables as lines of a log, without those that have no column."""
        texts = [_table("Overall Summary", {"Value": self.overall})]
        for request, figures in self.requests.items():
            which = f"[request_id={request}]"
            texts.append(_table(f"RequestE2EStats {which}", {"Value": figures}))
            if self.stages[request]:
                texts.append(_table(f"StageRequestStats {which}", self.stages[request]))
            if self.transfers[request]:
                texts.append(_table(f"TransferEdgeStats {which}", self.transfers[request]))
        return "\n".join(texts)


def tables(figures: tuple[Any, Any]) -> PipelineTables:
    """The tables of the native module's figures."""
    (count, wall, tokens, stage_walls), rows = figures
    overall = OverallSummary(
        e2e_requests=count,
        e2e_wall_time_ms=_ms(wall),
        e2e_total_tokens=tokens,
        e2e_avg_time_per_request_ms=wall / (count * 1_000_000) if count else 0.0,
        e2e_avg_tokens_per_s=tokens * 1_000_000_000 / wall if wall else 0.0,
        stage_wall_time_ms=[_ms(wall) for _, wall in stage_walls],
    )
    return PipelineTables(
        overall,
        {row[0]: RequestE2EStats(_ms(row[1]), row[2], _ms(row[3]), row[4]) for row in rows},
        {row[0]: {_column(*it[:2]): _stage(*it[2:]) for it in row[5]} for row in rows},
        {row[0]: {f"{it[0]}->{it[1]}": _transfer(*it[2:]) for it in row[6]} for row in rows},
    )


def _ms(nanos: int) -> float:
    return nanos / 1_000_000


def _column(stage: str, visit: int) -> str:
    return f"{stage}_{visit + 1}" if visit else stage


def _stage(
    batch: int, size: int, tokens_in: int, tokens_out: int, preprocess: int, time: int
) -> StageRequestStats:
    return StageRequestStats(batch, size, tokens_in, tokens_out, _ms(preprocess), _ms(time))


def _transfer(size: int, tx: int, rx_decode: int, in_flight: int) -> TransferEdgeStats:
    return TransferEdgeStats(size, _ms(tx), _ms(rx_decode), _ms(in_flight))


def _table(title: str, columns: Mapping[str, Any]) -> str:
    return table(title, {head: dict(sorted(vars(it).items())) for head, it in columns.items()})
