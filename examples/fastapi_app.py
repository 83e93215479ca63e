"""A service of one's own with metrics: two lines for the page, one decorator for the route.

Run: uvicorn --app-dir examples fastapi_app:app
Then: curl -d '{"prompt": "hello"}' -H 'content-type: application/json' localhost:8000/generate
      curl localhost:8000/metrics
"""

from collections.abc import AsyncIterator

from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

from ryot_metrics import mount_metrics, track_token_generation

app = FastAPI()
mount_metrics(app)


class Prompt(BaseModel):
    """The body of a request."""

    prompt: str


@track_token_generation(model="reverse", endpoint="/generate")
async def tokens(prompt: str) -> AsyncIterator[str]:
    """Stands for a model: says the words backwards."""
    for word in reversed(prompt.split()):
        yield word + " "


@app.post("/generate")
async def generate(body: Prompt) -> StreamingResponse:
    """Streams the answer as text."""
    return StreamingResponse(tokens(body.prompt), media_type="text/plain")
