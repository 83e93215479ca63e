"""What form an answer must have, as the OpenAI-compatible API is asked for it.

Every form but plain text is a JSON schema in the end. This module knows nothing of other fields,
and not which schemas the engine can follow.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, Field


class JsonSchema(BaseModel):
    """A schema; its name, its description and `strict`, which always holds, have no effect."""

    schema_: dict[str, Any] = Field(alias="schema")


class TextFormat(BaseModel):
    """Any text."""

    type: Literal["text"]

    def schema_of_answer(self) -> dict[str, Any] | None:
        """The JSON schema that the answer must fit; None: it need not be JSON."""
        return None


class ObjectFormat(BaseModel):
    """A JSON object; llama.cpp's server also takes its schema here."""

    type: Literal["json_object"]
    schema_: dict[str, Any] | None = Field(default=None, alias="schema")

    def schema_of_answer(self) -> dict[str, Any] | None:
        """The given one, by default that of any object."""
        return self.schema_ or {"type": "object"}


class SchemaFormat(BaseModel):
    """JSON that fits a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema

    def schema_of_answer(self) -> dict[str, Any] | None:
        """The given one."""
        return self.json_schema.schema_


ResponseFormat: TypeAlias = Annotated[
    TextFormat | ObjectFormat | SchemaFormat, Field(discriminator="type")
]
"""The field `response_format`."""
